"""A conversation → token ids and which of them are learned, through the chat template."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bigpeft.data.encode import Draft, encode
from bigpeft.data.formats.base import RowError, Turn
from bigpeft.data.spans import answer_span
from bigpeft.errors import FileError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LossOn = Literal["assistant", "last", "all"]


def render(
    turns: Sequence[Turn],
    template: str | None,
    tokenizer: "PreTrainedTokenizerBase",
    loss_on: LossOn = "assistant",
) -> tuple[list[int], list[bool]]:
    """Token ids (n) and target mask (n) of a conversation; `template` None is the tokenizer's own.

    Targets are the answers with their end-of-turn mark: all of them, the last one, or every token.
    The template writes the special tokens, so none is added. Raises RowError (a ValueError) where
    the template fails.
    """
    ids, targets = encode([draft(turns, template, tokenizer, loss_on)], tokenizer)[0]
    return ids.tolist(), targets.tolist()


def draft(
    turns: Sequence[Turn],
    template: str | None,
    tokenizer: "PreTrainedTokenizerBase",
    loss_on: LossOn = "assistant",
) -> Draft:
    """The rendered text and its learned spans. Raises RowError where the template fails."""

    def text_of(part: Sequence[Turn], generation_prompt: bool) -> str:
        return _rendered(part, template, tokenizer, generation_prompt)

    text = text_of(turns, False)
    if loss_on == "all":
        return Draft(text, ((0, len(text)),))
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    wanted = answers[-1:] if loss_on == "last" else answers
    return Draft(text, tuple(answer_span(text, turns, index, text_of) for index in wanted))


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


def _rendered(
    turns: Sequence[Turn],
    template: str | None,
    tokenizer: "PreTrainedTokenizerBase",
    generation_prompt: bool,
) -> str:
    if template is None and tokenizer.chat_template is None:
        raise RowError(
            "is a conversation, and the tokenizer has no chat template",
            "set data.template to a Jinja template or a file of one",
        )
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    try:
        text = tokenizer.apply_chat_template(
            messages,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=generation_prompt,
        )
    except Exception as error:  # a template runs as code: it may raise anything
        reason = str(error) or type(error).__name__
        raise RowError(
            f"does not go through the chat template ({reason})",
            "mend the row's roles, or set data.template",
        ) from error
    return str(text)
