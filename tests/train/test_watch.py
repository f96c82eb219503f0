"""Real runs of two ranks, one of which dies, hangs, fails or is slow. Some are played at once.

Oracle: who was hit, and what it had been told to do.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bigpeft.cli import app
from bigpeft.cli.train import main
from bigpeft.errors import DataError
from bigpeft.train.metrics import read_rows
from bigpeft.train.verdict import Standing, final_code
from tests.worlds import environment_of, free_port, processes

PATIENCE = 40
AT_ONCE = 3
STEPS_BEFORE = 5
SLOW_STEPS = 60


@dataclass(frozen=True)
class Case:
    """`hit` is the rank to which something happens; `codes` are those of both ranks."""

    hit: int
    what: str
    saved: bool
    codes: tuple[int, int]


CASES = {
    "stuck": Case(1, "sleep", True, (75, 75)),
    "killed": Case(1, "kill", True, (75, -signal.SIGKILL)),
    "first killed": Case(0, "kill", True, (-signal.SIGKILL, 75)),
    "killed unsaved": Case(1, "kill", False, (1, -signal.SIGKILL)),
    "bug": Case(1, "bug", True, (1, 1)),
    "mistake": Case(1, "mistake", True, (2, 2)),
    "slow": Case(1, "slow", True, (0, 0)),
}


@dataclass(frozen=True)
class Outcome:
    """What a case left: exit codes and words of both ranks, and the run folder."""

    codes: tuple[int, ...]
    said: tuple[str, ...]
    folder: Path

    @property
    def message(self) -> str:
        """What both ranks said, the first rank's lines of a run that goes well among them."""
        return "".join(self.said)


def play(rank: int, port: int, folder: Path, case: Case) -> None:
    """One rank, in a process of its own, whose terminal is a file."""
    os.environ.update(environment_of(rank, 2, port))
    terminal = os.open(folder / f"terminal-{rank}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(terminal, 1)
    os.dup2(terminal, 2)
    signal.signal(signal.SIGUSR2, lambda *_: misbehave(case.what))
    overrides = [f"run.folder={folder / 'run'}", f"train.timeout={PATIENCE}", "eval=null"]
    overrides.append(f"train.steps={SLOW_STEPS if case.what == 'slow' else 100000}")
    overrides.append(f"checkpoint.every={1 if case.saved else 99999}")
    sys.exit(main(["--recipe", "recipes/debug.yaml", *overrides]))


def misbehave(what: str) -> None:
    """In the main thread of a rank, wherever it is."""
    if what == "sleep":
        time.sleep(3600)
    if what == "bug":
        raise ZeroDivisionError("a bug of rank 1")
    if what == "mistake":
        raise DataError("row 7", "is wrong", "mend row 7")


def strike(process, case: Case) -> None:
    """What happens to the rank that is hit, unless it has ended before."""
    with suppress(ProcessLookupError):
        if case.what == "kill":
            process.kill()
        elif case.what == "slow":
            while process.is_alive():
                for number, seconds in ((signal.SIGSTOP, 0.006), (signal.SIGCONT, 0.002)):
                    os.kill(process.pid, number)
                    time.sleep(seconds)
        else:
            os.kill(process.pid, signal.SIGUSR2)


def has_come_far(folder: Path) -> bool:
    return len(read_rows(folder / "run" / "metrics.jsonl")) >= STEPS_BEFORE


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> Iterator[dict[str, Outcome]]:
    context = processes()

    def play_case(name: str) -> Outcome:
        case, folder = CASES[name], tmp_path_factory.mktemp(name.replace(" ", "-"))
        port = free_port()
        ranks = [context.Process(target=play, args=(r, port, folder, case)) for r in (0, 1)]
        for rank in ranks:
            rank.start()
        until = time.monotonic() + 240
        while not has_come_far(folder) and time.monotonic() < until:
            if not all(rank.is_alive() for rank in ranks):
                break
            time.sleep(0.1)
        strike(ranks[case.hit], case)
        for rank in ranks:
            rank.join(max(0.0, until - time.monotonic()))
            rank.kill()
            rank.join()
        said = tuple((folder / f"terminal-{rank}").read_text() for rank in (0, 1))
        return Outcome(tuple(rank.exitcode or 0 for rank in ranks), said, folder / "run")

    with ThreadPoolExecutor(AT_ONCE) as players:
        yield dict(zip(CASES, players.map(play_case, CASES), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_no_rank_waits_in_vain(outcomes, name):
    assert outcomes[name].codes == CASES[name].codes, outcomes[name].message


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.what != "slow"])
def test_one_rank_says_once_what_happened_and_to_whom(outcomes, name):
    case, outcome = CASES[name], outcomes[name]
    words = {"bug": "ZeroDivisionError: a bug of rank 1", "mistake": "row 7: is wrong"}
    words |= {"sleep": f"rank 1 on {os.uname().nodename}: has not moved for {PATIENCE} s"}
    if case.what == "kill":
        words["kill"] = f"rank {case.hit} on {os.uname().nodename}: "

    assert outcome.message.count(words[case.what]) == 1, outcome.message
    others = {"ZeroDivision", "is wrong", "has not moved", "nothing was heard", "does not answer"}
    told = [other for other in others if other in outcome.message]
    assert len(told) == 1, outcome.message


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.what == "kill"])
def test_who_is_gone_is_told_with_its_last_lines_and_the_way_on(outcomes, name):
    outcome = outcomes[name]
    saved = sorted(path.parent.name for path in outcome.folder.glob("checkpoints/*/manifest.json"))
    on = f"checkpoint.resume=auto goes on from {saved[-1]}" if saved else "nothing was saved yet"

    assert f"; {on}" in outcome.message
    assert "was last in: " in outcome.message
    log = "run.log" if CASES[name].hit == 0 else "logs/rank-1.log"
    lines = (outcome.folder / log).read_text().splitlines()
    assert f"the end of {outcome.folder / log}:\n" in outcome.message
    assert any(line.strip() and f"    {line}\n" in outcome.message for line in lines)


def test_what_ended_a_run_is_in_its_status_and_a_crash_for_whoever_starts_it_again(outcomes):
    code, outcome = outcomes["stuck"].codes[0], outcomes["stuck"]

    said = CliRunner().invoke(app, ["status", str(outcome.folder)]).output
    assert f"rank 1 on {os.uname().nodename}: has not moved" in said
    before, now = Standing(None, None, 0, None, None), Standing.of(outcome.folder)
    assert final_code(code, before, now, told=False, interrupted=False) is None
    assert (
        final_code(
            code, before, replace(now, state="stopped", failure=None), told=False, interrupted=False
        )
        == code
    )


def test_the_slowest_rank_of_each_step_is_in_the_metrics_and_the_status_names_it(outcomes):
    folder = outcomes["slow"].folder
    rows = read_rows(folder / "metrics.jsonl")

    assert [row["slowest_seconds"] >= row["median_seconds"] > 0 for row in rows] == [
        True
    ] * SLOW_STEPS
    assert {row["slowest_node"] for row in rows} == {os.uname().nodename}
    said = CliRunner().invoke(app, ["status", str(folder)]).output
    assert f"rank 1 on {os.uname().nodename} is the slowest in " in said
    found = json.loads(CliRunner().invoke(app, ["status", str(folder), "--json"]).output)
    assert found["straggler"] in said
    assert found["straggler"][1:] in (folder / "report.html").read_text()
