"""A run in use. Oracles: the run's own last evaluation, and the model's answers in its samples."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.commands import Done, bigpeft
from tests.train.runs import DEBUG, run, train_and_save_here
from tests.worlds import ENVIRONMENT, free_port, world

MORE = ["train.steps=2", "eval.samples=3", "model.layers=1"]


def on_two_ranks(*words: str | Path) -> Done:
    command = ["deepspeed", "--num_gpus", "2", "--master_port", str(free_port())]
    command += ["--no_local_rank", "--module", "bigpeft", *map(str, words)]
    environment = os.environ | ENVIRONMENT
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def train_here(folder: Path) -> None:
    train_and_save_here(folder, MORE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("used") / "run"
    world(2).call(train_here, folder)
    return folder


@pytest.mark.parametrize("call", [bigpeft, on_two_ranks])
def test_an_evaluation_afterwards_is_the_run_s_own_last_one(call, folder):
    done = call("eval", folder, "--json")

    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("{"))
    expected = json.loads((folder / "eval.json").read_text())["after"]
    assert json.loads(line)["held_out"]["loss"] == pytest.approx(expected["held_out"]["loss"])


def test_another_recipe_may_say_what_is_measured(folder, tmp_path):
    recipe = tmp_path / "other.yaml"
    recipe.write_text(DEBUG.read_text().replace("eval: {path", "eval: {limit: 4, path"))

    done = bigpeft(
        "eval", folder, "--recipe", recipe, f"run.folder={tmp_path}", "--task", "held_out"
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].split()[:2] == ["held_out", "loss"]
    assert done.stdout.splitlines()[-1].split()[-1] == "4"


def test_the_harness_asks_a_run_offline(folder, tmp_path):
    rows = [{"asked": f"{n} + 1 =", "answers": [" 1", " 2"], "right": n} for n in (0, 1)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(
        "task: sums\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{asked}}"\ndoc_to_choice: "{{answers}}"\ndoc_to_target: right\n'
        'target_delimiter: ""\nmetric_list: [{metric: acc}]\n'
    )

    done = bigpeft("eval", folder, "--harness", "sums", "--harness-tasks", tmp_path,
                "--chat", "--limit", 1, "--json")  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    (figures,) = (json.loads(line) for line in done.stdout.splitlines())
    assert list(figures) == ["sums"]
    assert figures["sums"]["acc"]["value"] in (0, 1)
    assert figures["sums"]["acc"]["rows"] == 1


def test_answers_to_rows_are_those_of_the_run_s_samples(folder):
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]

    done = bigpeft("generate", folder, "--batch", "recipes/data/debug/heldout.jsonl",
                "--max-new-tokens", 128)  # fmt: skip

    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()][:3]
    assert [row["prompt"] for row in found] == [row["prompt"] for row in samples]
    assert [row["answer"] for row in found] == [row["after"] for row in samples]


def test_rows_need_no_answer_to_be_answered(folder, tmp_path):
    rows = tmp_path / "rows.jsonl"
    asked = [{"messages": [{"role": "user", "content": "hello"}]}, {"prompt": "2 + 2 ="}]
    rows.write_text("".join(json.dumps(row) + "\n" for row in asked))

    done = bigpeft("generate", folder, "--batch", rows, "--max-new-tokens", 2)

    assert done.returncode == 0, done.stderr
    prompts = [json.loads(line)["prompt"] for line in done.stdout.splitlines()]
    assert prompts == ["<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n", "2 + 2 ="]


def test_a_run_that_has_not_ended_answers_with_its_newest_checkpoint(tmp_path):
    unfinished = run(1, tmp_path / "run", *MORE, "train.stop_after=1")

    done = bigpeft("generate", unfinished, "hello", "--max-new-tokens", 2)

    assert done.returncode == 0, done.stderr


def test_a_talk_ends_with_the_input(folder):
    done = bigpeft("generate", folder, "--chat", "--max-new-tokens", 2, stdin="hello\n\nand now?\n")

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("> ") == 4


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["eval", "NOWHERE"], "is neither a run folder nor a model folder"),
        (["eval", "RUN", "--task", "maths"], "--task maths: is no task"),
        (["eval", "RUN", "--shots", "2"], "--shots: means nothing without --harness"),
        (["eval", "RUN", "--harness", "a", "--task", "b"], "--task: is of the eval section"),
        (["eval", "RUN", "--harness", "maths!"], "--harness maths!: is no task of the harness"),
        (["generate", "RUN"], "wants one of PROMPT, --chat and --batch"),
        (["generate", "RUN", "a", "--chat"], "wants one of PROMPT, --chat and --batch"),
        (["generate", "RUN", "--batch", "nowhere.jsonl"], "nowhere.jsonl: does not exist"),
    ],
)
def test_what_cannot_be_used_is_one_message_and_code_2(words, why, folder, tmp_path):
    places = {"RUN": str(folder), "NOWHERE": str(tmp_path)}

    done = bigpeft(*(places.get(word, word) for word in words))

    assert done.returncode == 2
    assert why in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
