"""Held-out rows. Oracles: the model by itself on each row, and worlds of other sizes."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bigpeft.plan import make_plan
from bigpeft.recipe import load_recipe
from bigpeft.train.backbone import load_backbone
from bigpeft.train.inputs import read_inputs
from bigpeft.train.metrics import read_rows
from bigpeft.world import World
from tests.train.runs import DEBUG, column, final_state, refusals, run, summary

QUIZ = [("2 + 2 =", "4", ["3", "4", "55"]), ("sky?", "blue", ["blue", "green or so"])] * 3
FAST = ["model.layers=1", "train.steps=2", "batch.global_size=6"]


@pytest.fixture(scope="module")
def quiz(tmp_path_factory):
    path = tmp_path_factory.mktemp("quiz") / "quiz.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{question} {number}"},
                {"role": "assistant", "content": answer},
            ],
            "options": options,
        }
        for number, (question, answer, options) in enumerate(QUIZ)
    ][:-1]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def overrides(quiz):
    every = "[loss, perplexity, token_accuracy, choice_accuracy, choice_accuracy_norm, exact_match]"
    task = f"{{path: {quiz}, metrics: {every}, choices_column: options, max_new_tokens: 4}}"
    return [*FAST, f"eval.tasks={{quiz: {task}}}", "eval.micro_size=2", "eval.samples=3"]


@pytest.fixture(scope="module")
def evaluated(overrides, tmp_path_factory):
    folders = {}
    for size in (1, 2, 3):
        more = [] if size > 1 else ["sharding.fragment=zero0"]
        folders[size] = run(size, tmp_path_factory.mktemp(f"w{size}") / "run", *overrides, *more)
    return folders


def test_figures_do_not_depend_on_the_number_of_ranks(evaluated):
    found = {size: json.loads((f / "eval.json").read_text()) for size, f in evaluated.items()}

    names = [(m, t, k) for m in found[1] for t in found[1][m] for k in found[1][m][t]]
    assert len(names) == 2 * (1 + 6)
    for moment, task, metric in names:
        one, *others = (found[size][moment][task][metric] for size in (1, 2, 3))
        for other in others:
            assert other == pytest.approx(one, rel=1e-5), (moment, task, metric)


def test_answers_do_not_depend_on_the_number_of_ranks(evaluated):
    one, *others = (read_rows(evaluated[size] / "samples.jsonl") for size in (1, 2, 3))

    assert len(one) == 3
    assert all(row["before"] is not None and row["after"] is not None for row in one)
    for other in others:
        assert [row["before"] for row in other] == [row["before"] for row in one]


def test_figures_are_those_of_the_model_on_each_row_by_itself(overrides, evaluated, tmp_path):
    alone = [f"run.folder={tmp_path}", "sharding.fragment=zero0"]
    recipe = load_recipe(DEBUG, [*overrides, *alone])
    plan = make_plan(recipe, World())
    inputs = read_inputs(plan, tmp_path, print)
    load_backbone(plan, plan.open_weights(), torch.device("cpu"))
    model = plan.model.eval()
    task = inputs.tasks[1]

    def score(tokens, index):
        ids, targets = tokens.row(index)
        with torch.no_grad():
            logits = model(input_ids=ids.long()[None]).logits[0, :-1].double()
        following, learned = ids[1:].long(), targets[1:]
        losses = F.cross_entropy(logits, following, reduction="none")[learned]
        hits = (logits.argmax(-1) == following)[learned]
        return losses.sum().item(), len(losses), hits.sum().item()

    rows = [score(task.tokens, index) for index in range(len(task.tokens))]
    options = [score(task.options.tokens, index) for index in range(len(task.options.tokens))]
    right, right_norm, start = 0, 0, 0
    for count, answer in zip(task.options.counts, task.options.right, strict=True):
        mine = options[start : start + count]
        right += min(range(count), key=lambda i: mine[i][0]) == answer
        right_norm += min(range(count), key=lambda i: mine[i][0] / mine[i][1]) == answer
        start += count

    found = json.loads((evaluated[2] / "eval.json").read_text())["before"]["quiz"]
    tokens = sum(row[1] for row in rows)
    assert found["loss"]["value"] == pytest.approx(sum(r[0] for r in rows) / tokens, abs=1e-5)
    assert found["token_accuracy"]["value"] == pytest.approx(sum(r[2] for r in rows) / tokens)
    assert found["choice_accuracy"]["value"] == pytest.approx(right / 5)
    assert found["choice_accuracy_norm"]["value"] == pytest.approx(right_norm / 5)
    assert found["loss"]["rows"] == 5


def test_figures_are_in_the_metrics_under_the_task_s_name(evaluated):
    last = read_rows(evaluated[2] / "metrics.jsonl")[-1]

    told = json.loads((evaluated[2] / "eval.json").read_text())["after"]
    assert last["eval_loss"] == told["held_out"]["loss"]["value"]
    assert last["eval_quiz_exact_match"] == told["quiz"]["exact_match"]["value"]
    assert summary(evaluated[2])["eval_loss_after"] == last["eval_loss"]


def test_an_answer_counts_by_what_the_pattern_finds_in_it():
    from bigpeft.data import Prompt
    from bigpeft.train.evaluation import Asked
    from bigpeft.train.generation import Sampling

    prompts = [Prompt((1,), "a", "so it is #### 42")]
    by_pattern, whole = (Asked(prompts, Sampling(), p) for p in (r"#### (-?\d+)", None))

    assert by_pattern.is_right(0, "#### 7, no: #### 42 .")
    assert not by_pattern.is_right(0, "42")
    assert whole.is_right(0, " so it is #### 42\n")
    assert not whole.is_right(0, "#### 42")


def test_a_run_ends_when_it_has_not_become_better_for_long_enough(tmp_path):
    patient = ["eval.patience=2", "eval.min_delta=0.5", "train.evaluate_every=1", "train.steps=9"]
    more = [*FAST, *patient]

    run(2, tmp_path / "whole", *more)
    run(2, tmp_path / "cut", *more, "train.stop_after=1")
    run(2, tmp_path / "cut", *more, "checkpoint.resume=auto")

    for name in ("whole", "cut"):  # nothing gains half a nat a step: two evaluations are enough
        assert column(tmp_path / name, "step") == [1, 2]
        assert (tmp_path / name / "checkpoints/step-000002").is_dir()
        assert json.loads((tmp_path / name / "run.json").read_text())["steps"] == 2
    run(2, tmp_path / "cut", *more, "checkpoint.resume=auto")
    assert column(tmp_path / "cut", "step") == [1, 2]


def test_the_best_by_a_named_figure_is_kept_and_given_away(tmp_path):
    more = [
        *FAST,
        "train.evaluate_every=1",
        "optimizer.learning_rate=3",  # it gets worse at once
        "optimizer.warmup_steps=0",
        "checkpoint={every: 1, keep: 1, best: eval_loss}",
    ]
    first = final_state(2, tmp_path / "first", *more, "train.steps=1")

    best = final_state(2, tmp_path / "best", *more, "checkpoint.export=best", "train.steps=2")

    losses = column(tmp_path / "best", "eval_loss")
    assert losses[0] < losses[1]
    kept = sorted(path.name for path in (tmp_path / "best/checkpoints").glob("step-*"))
    assert kept == ["step-000001", "step-000002"]
    for name, value in first.items():
        assert np.array_equal(best[name], value), name


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("eval.tasks={a: {path: x, metrics: [nonsense]}}", "nonsense"),
        ("eval.tasks={a: {path: x, metrics: [choice_accuracy]}}", "add choices or choices_column"),
        ("eval.tasks={a: {path: x, pattern: b}}", "add exact_match to metrics"),
        ("eval.tasks={a: {path: x, metrics: exact_match, pattern: '('}}", "no regular expression"),
        ("eval.min_delta=0.1", "means nothing without patience"),
        ("checkpoint.best=eval_quiz_loss", "which no task of eval measures"),
        ("checkpoint.export=best", "add checkpoint.best, such as eval_loss"),
        ("data.held_out=0.1", "keeps rows from training that eval leaves out"),
    ],
)
def test_what_cannot_be_judged_is_refused(override, why, tmp_path):
    ((kind, text),) = refusals(1, tmp_path, override)

    assert kind == "RecipeError"
    assert why in text


def test_rows_kept_from_training_are_what_the_run_is_judged_by(tmp_path):
    more = [*FAST, "data.held_out=0.125", "eval.path=null"]
    run(2, tmp_path, *more)

    card = json.loads((tmp_path / "data.json").read_text())
    assert (card["train"]["rows"], card["eval"]["rows"]) == (56, 8)
    assert read_rows(tmp_path / "metrics.jsonl")[-1]["eval_loss"] > 0
