"""Commands of bigpeft, each in a process of its own that has imported all it may need."""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess

from tests.worlds import ENVIRONMENT, end, environment_of, free_port, processes

Done = CompletedProcess[str]


def bigpeft(*words: object, stdin: str = "") -> Done:
    """Exit code and output of `bigpeft WORDS`."""
    (done,) = _run(_bigpeft, words, [{}], stdin)
    return done


def train_script(size: int, *words: object) -> list[Done]:
    """Exit code and output of every rank of `launch/train.py WORDS`, without a launcher."""
    port = free_port()
    return _run(_train, words, [environment_of(rank, size, port) for rank in range(size)])


def _run(
    main: Callable[[list[str]], None],
    words: Sequence[object],
    environments: list[dict[str, str]],
    stdin: str = "",
) -> list[Done]:
    said = list(map(str, words))
    ours = {name: value for name, value in os.environ.items() if "RANK" not in name} | ENVIRONMENT
    with tempfile.TemporaryDirectory() as place:
        started = {}
        for number, environment in enumerate(environments):
            folder = Path(place) / str(number)
            folder.mkdir()
            (folder / "in").write_text(stdin)
            started[folder] = processes().Process(
                target=_become, args=(folder, ours | environment, main, said)
            )
        for process in started.values():
            process.start()
        end(list(started.values()), grace=60)
        return [
            Done(said, process.exitcode or 0, *((folder / n).read_text() for n in ("out", "err")))
            for folder, process in started.items()
        ]


def _become(
    folder: Path, environment: dict[str, str], main: Callable[[list[str]], None], words: list[str]
) -> None:
    """A command with this environment, and with these files for its input and output."""
    os.environ.clear()
    os.environ.update(environment)
    writes = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, (name, flags) in enumerate(
        {"in": os.O_RDONLY, "out": writes, "err": writes}.items()
    ):
        os.dup2(os.open(folder / name, flags), number)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    main(words)


def _bigpeft(words: list[str]) -> None:
    from bigpeft.cli import main

    sys.argv = ["bigpeft", *words]
    main()


def _train(words: list[str]) -> None:
    from bigpeft.cli.train import main

    sys.exit(main(words))
