"""A crashed command starts again. Oracle: the acts of a stand-in that leaves what a run leaves."""

import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bigpeft.errors import FileError, UserError
from bigpeft.train.command import read_command
from bigpeft.train.restart import pause_before, run_to_the_end
from tests.train.runs import DEBUG
from tests.train.stand_in import FINISH, STEPS, Act


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (FINISH, 0),
        (Act(code=0), 0),
        (Act(code=2), 2),
        (Act(code=130, steps=2, saved=1), 130),
        (Act(code=-signal.SIGINT, steps=2, saved=1), 130),
        (Act(code=75, steps=2, saved=2), 75),
        (replace(FINISH, code=245), 0),
    ],
    ids=str,
)
def test_what_is_over_for_good_is_not_started_again(act, code, play):
    assert play.of(act, FINISH) == code
    assert len(play.starts()) == 1


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (Act(code=1), "ended with exit code 1; retry 1 of 2 from the beginning in 0.01 s"),
        (Act(code=1, steps=3, saved=2), "exit code 1; retry 1 of 2 from step-000002"),
        (Act(code=1, steps=2, saved=2), "exit code 1; retry 1 of 2 from step-000002"),
        (Act(code=1, steps=STEPS, saved=STEPS), "exit code 1; retry 1 of 2 from step-000004"),
        (Act(code=75), "exit code 75; retry"),
        (Act(code=75, steps=3, saved=2), "exit code 75; retry"),
        (Act(code=247, steps=2), "exit code 247 (SIGKILL); retry"),
        (Act(code=139), "exit code 139 (SIGSEGV); retry"),
        (Act(code=255), "exit code 255; retry"),
        (Act(code=-signal.SIGKILL, steps=2), "the command died of SIGKILL; retry"),
        (Act(code=-signal.SIGTERM, steps=2), "the command died of SIGTERM; retry"),
        (Act(code=0, steps=2, saved=2), "exit code 0 before the run was finished; retry"),
    ],
    ids=str,
)
def test_a_crash_is_told_and_started_again(act, said, play):
    assert play.of(act, FINISH) == 0

    assert len(play.starts()) == 2
    assert len(play.said) == 1
    assert said in play.said[0]


@pytest.mark.parametrize("older", [FINISH, Act(code=75, steps=2, saved=2)], ids=str)
@pytest.mark.parametrize("code", [1, 75])
def test_an_older_run_in_the_folder_does_not_speak_for_a_start_that_fails(older, code, play):
    play.of(older)

    assert play.of(Act(code=code), FINISH) == 0
    assert len(play.starts()) == 2


def test_a_restart_resumes_and_changes_nothing_else(play):
    given = ("checkpoint.resume=never", "train.steps=4")

    play.of(Act(code=1), Act(code=1, steps=2, saved=1), FINISH, more=given)

    again = ["train.steps=4", "checkpoint.resume=auto"]
    assert play.starts() == [list(given), again, again]


def test_a_run_from_another_checkpoint_takes_its_own_as_soon_as_it_has_one(play):
    given = "checkpoint.resume=runs/other/step-000007"

    play.of(Act(code=1), Act(code=1, steps=2, saved=1), FINISH, more=(given,))

    assert play.starts() == [[given], [given], ["checkpoint.resume=auto"]]
    assert "from runs/other/step-000007 in" in play.said[0]
    assert "from step-000001 in" in play.said[1]


@pytest.mark.parametrize(
    ("code", "left"), [(3, 3), (-signal.SIGKILL, 137), (0, 1)], ids=["3", "SIGKILL", "lost"]
)
def test_retries_without_a_new_checkpoint_are_limited(code, left, play):
    assert play.of(*[Act(code=code, steps=2, saved=1)] * 4, FINISH, retries=2) == left

    assert len(play.starts()) == 3
    assert (
        "none of 2 retries is left; checkpoint.resume=auto goes on from step-000001"
        in play.said[-1]
    )


def test_a_new_checkpoint_sets_the_count_back(play):
    crashes = [Act(code=1, steps=3, saved=saved) for saved in (1, 2, 2, 3)]

    assert play.of(*crashes, FINISH, retries=2) == 0

    assert [said.partition("retry ")[2][:6] for said in play.said] == [
        "1 of 2",
        "1 of 2",
        "2 of 2",
        "1 of 2",
    ]


def test_pauses_grow_up_to_ten_minutes_or_to_what_was_asked():
    assert [pause_before(retry, 10) for retry in (1, 2, 3, 6, 7, 50)] == [10, 20, 40, 320, 600, 600]
    assert [pause_before(retry, 3600) for retry in (1, 2)] == [3600, 3600]


def test_a_pause_lasts(play):
    started = time.monotonic()

    play.of(Act(code=1), Act(code=1), FINISH, pause=0.3)

    assert time.monotonic() - started > 0.3 + 0.6


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        ("python -u launch/train.py --recipe=R run.folder=a", "a"),
        ("env X=1 deepspeed --num_gpus 2 launch/train.py run.folder=b --recipe R eval=null", "b"),
        ("torchrun --nproc_per_node=2 launch/train.py --recipe R", "runs/debug"),
    ],
)
def test_the_recipe_and_its_overrides_are_found_in_a_command(words, overrides):
    command = read_command(words.replace("R", str(DEBUG)).split())

    assert command.folder == Path(overrides)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("deepspeed launch/train.py run.folder=a", "names no --recipe behind a script"),
        ("deepspeed launch/train.py --recipe", "names no --recipe behind a script"),
        ("deepspeed --recipe R", "names no --recipe behind a script"),
        ("deepspeed launch/train.py --recipe recipes/debug.yml", "did you mean"),
        ("deepspeed launch/train.py --recipe R run.foldr=a", "did you mean run.folder"),
    ],
)
def test_a_command_without_a_recipe_that_loads_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        read_command(words.replace("R", str(DEBUG)).split())


def test_a_program_that_does_not_exist_is_refused(tmp_path):
    words = ["no-such-launcher", "launch/train.py", "--recipe", str(DEBUG)]
    command = read_command([*words, f"run.folder={tmp_path}/run"])

    with pytest.raises(FileError, match="no-such-launcher: cannot be started"):
        run_to_the_end(command, 2, 0.01, print)
