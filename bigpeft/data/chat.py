"""A conversation → token ids and which of them are learned, through the chat template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bigpeft.data.encode import Draft, Spans, encode
from bigpeft.data.formats.base import RowError, Turn
from bigpeft.data.shapes import Shapes
from bigpeft.data.spans import find_answer
from bigpeft.errors import FileError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LossOn = Literal["assistant", "last", "all"]
Tools = Sequence[Mapping[str, Any]]


def render(
    turns: Sequence[Turn],
    template: str | None,
    tokenizer: "PreTrainedTokenizerBase",
    loss_on: LossOn = "assistant",
    tools: Tools = (),
) -> tuple[list[int], list[bool]]:
    """Token ids (n) and target mask (n) of a conversation; `template` None is the tokenizer's own.

    Targets are the answers with their end-of-turn mark: all of them, the last one, or every token.
    The template writes the special tokens, so none is added. Raises RowError (a ValueError) where
    the template fails.
    """
    draft = Chat(tokenizer, template).draft(turns, loss_on, tools)
    ids, targets = encode([draft], tokenizer)[0]
    return ids.tolist(), targets.tolist()


@dataclass(frozen=True)
class Chat:
    """A chat template with its tokenizer; remembers how the template writes answers."""

    tokenizer: "PreTrainedTokenizerBase"
    template: str | None = None
    _shapes: Shapes = field(default_factory=Shapes, compare=False)

    def draft(
        self, turns: Sequence[Turn], loss_on: LossOn = "assistant", tools: Tools = ()
    ) -> Draft:
        """The rendered text and its learned spans. Raises RowError where the template fails."""
        text = self.render(turns, False, tools)
        answers = [index for index, turn in enumerate(turns) if turn.is_answer]
        if loss_on == "all":
            unlearned = [index for index in answers if not turns[index].learned]
            return Draft(text, _around(self._spans(text, turns, unlearned, tools), len(text)))
        if loss_on == "last":
            answers = answers[-1:]
        wanted = [index for index in answers if turns[index].learned]
        return Draft(text, self._spans(text, turns, wanted, tools))

    def render(
        self, turns: Sequence[Turn], generation_prompt: bool = False, tools: Tools = ()
    ) -> str:
        """The conversation as text, sandboxed as transformers does. Raises RowError."""
        if self.template is None and self.tokenizer.chat_template is None:
            raise RowError(
                "is a conversation, and the tokenizer has no chat template",
                "set data.template to a Jinja template or a file of one",
            )
        try:
            text = self.tokenizer.apply_chat_template(
                [turn.message() for turn in turns],
                tools=list(tools) or None,  # type: ignore[arg-type]
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=generation_prompt,
            )
        except Exception as error:  # a template runs as code: it may raise anything
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise RowError(
                f"does not go through the chat template ({reason})",
                "mend the row's roles, or set data.template",
            ) from error
        return str(text)

    def _spans(self, text: str, turns: Sequence[Turn], wanted: list[int], tools: Tools) -> Spans:
        known = self._shapes.spans(text, turns, wanted)
        if known is not None:
            return known

        def render_part(part: Sequence[Turn], generation_prompt: bool) -> str:
            return self.render(part, generation_prompt, tools)

        found = []
        for index in wanted:
            answer = find_answer(text, turns, index, render_part)
            self._shapes.learn(text, turns, index, answer)
            found.append((answer.start, answer.end))
        return tuple(found)


def read_template(template: str | None) -> str | None:
    """The Jinja text of `data.template`: the text itself, or the file of that name.

    Raises FileError for a file that is not there.
    """
    if template is None or "{" in template or "\n" in template:
        return template
    path = Path(template).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(
            template, f"cannot be read as a chat template ({error})", "check data.template"
        ) from error


def _around(spans: Spans, length: int) -> Spans:
    """What lies between `spans`."""
    edges = [0, *(edge for span in spans for edge in span), length]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return tuple((start, end) for start, end in pairs if start < end)
