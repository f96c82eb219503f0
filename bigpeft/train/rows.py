"""Rows of the recipe's sources as tokens, prepared once for all ranks."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from bigpeft.data import (
    Part,
    Place,
    Reader,
    Seen,
    Tokens,
    Window,
    card_of,
    check_vocabulary,
    cores,
    fingerprint_of,
    load_rows,
    load_tokenizer,
    mixed,
    prepare,
    rows_in,
    tokenise,
    windows,
)
from bigpeft.plan import Plan
from bigpeft.train.counting import counting, on_bar

Windows = Callable[[Place], Iterator[Window]]
Say = Callable[[str], None]
SKIPPED = "skipped.jsonl"
_SHAPE = {"max_length", "long_rows", "loss_on", "on_bad_row"}
"""Keys of data that tokens depend on, whatever the source."""


def tokenizer_of(plan: Plan) -> PreTrainedTokenizerBase:
    """The one that the recipe names, or the model's own. Raises FileError."""
    model = plan.recipe.model
    name = model.tokenizer or str(plan.folder)
    return load_tokenizer(name, model.revision, model.trust_remote_code)


class Preparation:
    """Reads and tokenises under `folder`, the run's, or data.cache; the first rank does the work.

    `cards` says of each set of rows what they are; `bars` is where the work shows how far it is,
    None where only lines are said. All of it raises DataError or FileError, the same on every rank.
    """

    def __init__(self, plan: Plan, folder: Path, say: Say, bars: Console | None = None) -> None:
        self._plan, self._folder, self._say, self._bars = plan, folder, say, bars
        self.cards: dict[str, dict[str, Any]] = {}

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The recipe's."""
        return tokenizer_of(self._plan)

    def reader(
        self,
        path: str | tuple[str, ...],
        limit: int | None,
        split: str | None = None,
        format_name: str | None = None,
        columns: Mapping[str, str] | None = None,
        part: Part | None = None,
    ) -> Reader:
        """How these rows become text: as data says, unless they have a format of their own."""
        data = self._plan.recipe.data
        paths = (path,) if isinstance(path, str) else path
        return Reader(
            load_rows(paths, limit, split, part),
            self.tokenizer,
            format_name or data.format,
            dict(columns or {}) if format_name else {**data.columns, **(columns or {})},
            data.template,
            data.loss_on,
        )

    def of_training(self, held_out: bool = False) -> list[Reader]:
        """Readers of the training rows, or of those that data.held_out keeps apart from them."""
        data, seed = self._plan.recipe.data, self._plan.recipe.run.seed
        part = Part(data.held_out, seed, held_out) if data.held_out else None
        return [
            self.reader(s.path, s.limit, s.split, s.format, s.columns, part)
            for s in data.every_source()
        ]

    def tokens(self, name: str, readers: Sequence[Reader], mixing: bool = False) -> Tokens:
        """Tokens of all these rows, mixed as data.mix says, or one source after another."""
        data, seed = self._plan.recipe.data, self._plan.recipe.run.seed
        weights = [source.weight for source in data.every_source()] if mixing else []

        def build() -> Tokens:
            parts = []
            for reader in readers:
                self._tell_format(name, reader)
                with self._counting(f"tokenising {name}", reader) as seen:
                    parts.append(
                        tokenise(
                            reader,
                            data.max_length,
                            data.long_rows,
                            data.on_bad_row,
                            cores(),
                            seen,
                        )
                    )
            tokens = Tokens.joined(parts)
            if not mixing or data.mix == "concatenate":
                return tokens
            return tokens.select(mixed([len(part) for part in parts], weights, data.mix, seed))

        folder = Path(data.cache).expanduser() if data.cache else self._folder / "data"
        world = self._plan.world
        asked = [_asked(reader) for reader in readers]
        mix = [data.mix, weights, seed] if mixing else None
        fingerprint = fingerprint_of(
            tuple(str(source) for reader in readers for source in reader.source.sources),
            self.tokenizer,
            data.template,
            readers=asked,
            mix=mix,
            **data.model_dump(mode="json", include=_SHAPE),
        )
        tokens = prepare(folder, world.is_first, build, fingerprint, name, world.launch)
        check_vocabulary(tokens, self._plan.model.config.get_text_config().vocab_size)
        if world.is_first:
            sources = [source for reader in readers for source in reader.source.sources]
            self.cards[name] = card_of(sources, tokens)
            self._tell_skipped(name, tokens)
        return tokens

    def stream(self, place: Place) -> Iterator[Window]:
        """Windows of the training rows from `place` on, endlessly; every rank reads them all."""
        data = self._plan.recipe.data
        (reader,) = self.of_training()

        def tokens_of(reader: Reader) -> Tokens:
            tokens = tokenise(reader, data.max_length, data.long_rows, data.on_bad_row)
            check_vocabulary(tokens, self._plan.model.config.get_text_config().vocab_size)
            return tokens

        if self._plan.world.is_first:
            self._tell_format("train", reader)
        return windows(reader, data.window, tokens_of, place)

    def _counting(self, what: str, reader: Reader) -> AbstractContextManager[Seen]:
        if self._bars is None:
            return counting(what, self._say)
        return on_bar(what, self._bars, rows_in(reader.source))

    def _tell_format(self, name: str, reader: Reader) -> None:
        if reader.format_name == "auto":
            columns = ", ".join(reader.source.columns)
            self._say(f"{name}: format {reader.format}, told from the columns {columns}")

    def _tell_skipped(self, name: str, tokens: Tokens) -> None:
        """One line, and the places and reasons in a file of the run."""
        skipped = tokens.skipped
        if not skipped.count:
            return
        path = self._folder / "data" / f"{name}.{SKIPPED}"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps({"row": what, "reason": why}) + "\n" for what, why in skipped.told)
        path.write_text("".join(lines), encoding="utf-8")
        self._say(f"{name}: {skipped.count} rows cannot be used and are skipped, see {path}")


def _asked(reader: Reader) -> list[Any]:
    source = reader.source
    part = source.part and [source.part.share, source.part.seed, source.part.held_out]
    return [source.limit, source.split, part, reader.format_name, dict(reader.columns)]
