"""bigpeft generate: answers of a run's adapter over its packed backbone, or of a model alone."""

import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bigpeft.cli.ranks import on_all_ranks
from bigpeft.errors import DataError, RecipeError

if TYPE_CHECKING:
    from bigpeft.data import Prompt, Reader
    from bigpeft.train.terminal import Terminal


def generate(
    place: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="run or model folder")],
    prompt: Annotated[str | None, typer.Argument(help="what is asked")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="talk, line by line, until ctrl-d")] = False,
    batch: Annotated[
        Path | None, typer.Option(help="JSONL of rows with messages or prompt; prints JSONL")
    ] = None,
    system: Annotated[str | None, typer.Option(help="what the system says first")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="no chat template: go on a text")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="tokens of an answer")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="draw from so much of it")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="of what is drawn")] = 0,
    micro_size: Annotated[int, typer.Option(min=1, help="--batch: rows per rank at once")] = 8,
) -> None:
    """Answer. Over sharded ranks:
    deepspeed --num_gpus N --no_local_rank --module bigpeft generate RUN "..."
    """
    with on_all_ranks() as (world, terminal):
        from bigpeft.data import read_questions
        from bigpeft.train.evaluation.read import plain_reader, stop_tokens
        from bigpeft.train.generation import Sampling
        from bigpeft.train.reopen import recipe_of, reopen

        if sum((prompt is not None, chat, batch is not None)) != 1:
            raise RecipeError("generate", "wants one of PROMPT, --chat and --batch", "choose one")
        recipe = recipe_of(place, world)
        opened = reopen(recipe, place, place, world, lambda _: None)
        reader = plain_reader(opened.plan, opened.rows.tokenizer)
        sampling = Sampling(max_new_tokens, temperature, top_p, seed, stop_tokens(reader))
        if batch is not None:
            rows = read_questions(opened.rows.reader(str(batch), None))
            texts = opened.generator.texts(rows, sampling, micro_size)
            for row, text in zip(rows, texts, strict=True):
                terminal.say(json.dumps({"prompt": row.text, "answer": text}, ensure_ascii=False))
            return
        asked = iter([prompt]) if prompt is not None else _lines(terminal)
        streamer = _streamer(opened.rows.tokenizer, terminal) if world.is_first else None
        said: list[tuple[str, str]] = [("system", system)] if system is not None else []
        for line in asked:
            if line is None:
                break
            said.append(("user", line))
            question = _question(said, reader, plain)
            (answer,) = opened.generator.texts([question], sampling, 1, streamer)
            said.append(("assistant", answer))


def _question(said: list[tuple[str, str]], reader: "Reader", plain: bool) -> "Prompt":
    """What has been said so far, through the chat template unless the text is plain."""
    from bigpeft.data import Prompt, RowError, Turn, question, tokens_before

    if plain:
        return Prompt(tokens_before(said[-1][1], reader.tokenizer), said[-1][1])
    try:
        return question([Turn(role, text) for role, text in said], reader)
    except RowError as error:
        raise DataError("what is asked", error.why, f"{error.fix}, or add --plain") from error


def _lines(terminal: "Terminal") -> Iterator[str | None]:
    """What the user types, on all ranks; None at the end. The others wait as long as it takes."""
    import torch.distributed as dist

    group: Any = dist.new_group(backend="gloo", timeout=timedelta(days=30))
    while True:
        line: list[Any] = [None]
        if dist.get_rank() == 0:
            terminal.console.print("> ", end="")
            line = [sys.stdin.readline() or None]
        dist.broadcast_object_list(line, 0, group)
        if line[0] is None or line[0].strip():
            yield line[0] and line[0].strip()


def _streamer(tokenizer: Any, terminal: "Terminal") -> Any:
    """Writes tokens to the terminal as they come."""
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            terminal.console.print(text, end="\n" if stream_end else "", markup=False)

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
