"""The data section: where training rows are, how a row is read, what the loss sees."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bigpeft.data import formats
from bigpeft.recipe.section import Section
from bigpeft.recipe.values import NonNegativeInt, PositiveInt, one_of


class Data(Section):
    """Training rows: where they are, how a row is read, and what the loss sees."""

    path: str | tuple[str, ...] = Field(description="file, folder, glob or hub name; or several")
    format: Annotated[str, one_of(["auto", *sorted(formats())])] = Field(
        "auto", description="how a row is read; auto looks at the columns"
    )
    columns: dict[str, str] = Field({}, description="the format's column → the file's column")
    max_length: PositiveInt = Field(1024, description="tokens per row")
    long_rows: Literal["error", "drop", "truncate"] = Field(
        "drop", description="what to do with rows over max_length"
    )
    loss_on: Literal["assistant", "last", "all"] = Field(
        "assistant", description="answers, only the last answer, or every token"
    )
    template: str | None = Field(
        None, description="Jinja chat template or a file of one; default: the tokenizer's"
    )
    limit: PositiveInt | None = Field(None, description="use only the first rows")
    shuffle: bool = Field(True, description="another order each epoch, a function of run.seed")
    packing: bool = Field(
        False,
        description="put several rows into one of max_length tokens, none seeing another; "
        "batch sizes then count packs",
    )
    group_by_length: bool = Field(
        False, description="rows of about one length into the same micro-batch: less padding"
    )
    workers: NonNegativeInt = Field(
        0, description="processes per rank that make batches ahead; 0 makes them in between"
    )

    @model_validator(mode="after")
    def _groups_what_can_be_grouped(self) -> "Data":
        if self.group_by_length and self.packing:
            raise ValueError("has packing, which leaves no padding: remove group_by_length")
        if self.group_by_length and not self.shuffle:
            raise ValueError("has shuffle: false, and group_by_length is an order: keep one")
        return self
