"""The data section: where training rows are, how a row is read, what the loss sees."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bigpeft.data import formats
from bigpeft.recipe.section import Section
from bigpeft.recipe.values import NonNegativeInt, PositiveFloat, PositiveInt, Share, one_of

_FORMATS = one_of(["auto", *sorted(formats())])


class Source(Section):
    """One of several sources of rows; what it does not say is as in data."""

    path: str | tuple[str, ...] = Field(description="file, folder, glob or hub name; or several")
    split: str | None = Field(None, description="split of a hub name or folder")
    format: Annotated[str, _FORMATS] | None = Field(None, description="how a row is read")
    columns: dict[str, str] = Field({}, description="the format's column → the file's column")
    limit: PositiveInt | None = Field(None, description="use only the first rows")
    weight: PositiveFloat = Field(1.0, description="how often it is drawn, beside the others")


class Data(Section):
    """Training rows: where they are, how a row is read, and what the loss sees."""

    path: str | tuple[str, ...] | None = Field(
        None, description="file, folder, glob or hub name; or several"
    )
    split: str | None = Field(None, description="split of a hub name or folder: train")
    sources: tuple[Source, ...] = Field(
        (), description="instead of path: several sources, each with path, format, weight ..."
    )
    mix: Literal["concatenate", "first_exhausted", "all_exhausted"] = Field(
        "concatenate",
        description="sources one after another, or drawn by weight until the first is used up, or "
        "until all are and the others have begun again",
    )
    held_out: Share = Field(
        0.0, description="share of the rows kept from training, for eval without a path"
    )
    format: Annotated[str, _FORMATS] = Field(
        "auto", description="how a row is read; auto looks at the columns"
    )
    columns: dict[str, str] = Field({}, description="the format's column → the file's column")
    max_length: PositiveInt = Field(1024, description="tokens per row")
    long_rows: Literal["error", "drop", "truncate", "split"] = Field(
        "drop", description="what to do with rows over max_length"
    )
    on_bad_row: Literal["error", "skip"] = Field(
        "error", description="what to do with rows that cannot be used; skipped ones are listed"
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

    streaming: bool = Field(
        False,
        description="read and tokenise rows while the run goes on, for data larger than the disk; "
        "needs train.steps",
    )
    window: PositiveInt = Field(
        2048, description="streaming: rows that are read, shuffled and packed together"
    )
    cache: str | None = Field(
        None, description="folder of tokens that runs share; default: in the run folder"
    )

    def every_source(self) -> tuple[Source, ...]:
        """The sources; `path` is one by itself."""
        if self.path is None:
            return self.sources
        whole = {"path": self.path, "split": self.split, "limit": self.limit}
        return (Source.model_validate(whole),)

    @model_validator(mode="after")
    def _has_sources(self) -> "Data":
        if self.path is None and not self.sources:
            raise ValueError("names no rows: add path, or sources")
        if self.path is not None and self.sources:
            raise ValueError("has both path and sources: keep one of them")
        if self.sources and (self.split or self.limit):
            raise ValueError("has split or limit beside sources: write them into the sources")
        if self.mix == "concatenate" and any(source.weight != 1 for source in self.sources):
            raise ValueError("has weights that concatenate does not look at: change mix")
        if self.mix != "concatenate" and len(self.sources) < 2:
            raise ValueError("has a mix of fewer than two sources: add sources, or leave it out")
        return self

    @model_validator(mode="after")
    def _streams_one_after_another(self) -> "Data":
        if self.streaming and len(self.sources) > 1:
            raise ValueError("has streaming and several sources: write the paths into one")
        if self.streaming and self.workers:
            raise ValueError("has streaming, which reads ahead by itself: remove workers")
        return self

    @model_validator(mode="after")
    def _groups_what_can_be_grouped(self) -> "Data":
        if self.group_by_length and self.packing:
            raise ValueError("has packing, which leaves no padding: remove group_by_length")
        if self.group_by_length and not self.shuffle:
            raise ValueError("has shuffle: false, and group_by_length is an order: keep one")
        return self
