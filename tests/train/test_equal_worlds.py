"""Oracle: a plain torch loop in one process, without DeepSpeed, over the same rows.

Every way to share a global batch of eight rows among ranks, micro-batches and ZeRO stages must
give the losses and gradient norms of that loop, and so of each other.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from bigpeft.data import collate, sample_indices
from bigpeft.placement import optimizer_groups
from bigpeft.plan import make_plan
from bigpeft.recipe import load_recipe
from bigpeft.train.backbone import load_backbone
from bigpeft.train.inputs import read_inputs
from bigpeft.world import World
from tests.train.runs import DEBUG, column, run, summary

STEPS, ROWS = 10, 8
WORLDS = {
    "1 rank, stage 0": (1, ["sharding.fragment=zero0"]),
    "1 rank, 4 accumulation steps": (1, ["batch.micro_size=2"]),
    "1 rank, the whole batch at once": (1, ["batch.micro_size=8", "sharding.fragment=zero2"]),
    "2 ranks, stage 0": (2, ["sharding.fragment=zero0"]),
    "2 ranks, stage 1": (2, ["sharding.fragment=zero1", "batch.micro_size=2"]),
    "2 ranks, stage 2": (2, ["sharding.fragment=zero2"]),
    "2 ranks, stage 3": (2, []),
    "2 ranks, stage 3, no accumulation": (2, ["batch.micro_size=4"]),
    "2 ranks, backbone whole on each": (2, ["sharding.group=auto"]),
    "2 ranks, activation checkpointing": (2, ["train.activation_checkpointing=true"]),
    "2 ranks, optimizer on the host": (2, ["sharding.fragment=zero3_cpu"]),
    "2 ranks, frozen weights on the host": (2, ["sharding.fragment=zero3_cpu_weights"]),
    "4 ranks, stage 3": (4, []),
    "4 ranks, backbone shared by 2": (4, ["sharding.group=2"]),
}
# fp32: sums in another order differ by some 1e-7 of a loss near 6, and ten steps let that grow.
TOLERANCE = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture(scope="session")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Ten steps with a clip that bites and a dense module beside the adapters."""
    held_out = tmp_path_factory.mktemp("data") / "colours.jsonl"
    rows = [(f"Is number {n} even?", "no" if n % 2 else "yes") for n in range(13)]
    held_out.write_text(
        "".join(json.dumps({"prompt": p + " ", "completion": c}) + "\n" for p, c in rows)
    )
    return [
        "model.layers=2",
        f"batch.global_size={ROWS}",
        f"train.steps={STEPS}",
        "optimizer.clip=0.5",
        "optimizer.weight_decay=0.1",
        "method.train_modules=[norm]",
        f"eval={{path: {held_out}, micro_size: 3}}",
    ]


@pytest.fixture(scope="session")
def run_of(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The finished run of a case, made once."""
    done: dict[str, Path] = {}

    def folder(case: str) -> Path:
        if case not in done:
            size, more = WORLDS[case]
            done[case] = run(size, tmp_path_factory.mktemp("run"), *overrides, *more)
        return done[case]

    return folder


@pytest.fixture(scope="session")
def plain(
    overrides: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[float], list[float], float]:
    """Losses, gradient norms and the last held-out loss of the plain loop."""
    folder = tmp_path_factory.mktemp("plain")
    recipe = load_recipe(DEBUG, [f"run.folder={folder}", "sharding.fragment=zero0", *overrides])
    plan = make_plan(recipe, World())
    inputs = read_inputs(plan, folder, print)
    trained = load_backbone(plan, plan.open_weights(), torch.device("cpu")).trained
    model, wanted = plan.model, recipe.optimizer
    adam = torch.optim.AdamW(optimizer_groups(trained, wanted.learning_rate, wanted.weight_decay))

    def mean_loss(tokens, rows):
        batch = collate(tokens, rows, inputs.pad_id)
        labels = batch.pop("labels")[:, 1:]
        return F.cross_entropy(model(**batch).logits[:, :-1].flatten(0, 1), labels.flatten())

    losses, norms = [], []
    for step in range(STEPS):
        rows = sample_indices(len(inputs.tokens), recipe.run.seed, True, step * ROWS, ROWS)
        loss = mean_loss(inputs.tokens, rows)
        adam.zero_grad()
        loss.backward()
        parameters = [item.parameter for item in trained]
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, wanted.clip).item())
        for group in adam.param_groups:
            group["lr"] = wanted.learning_rate * min(1.0, (step + 1) / 3)  # two warm-up steps
        adam.step()
        losses.append(loss.item())
    held = inputs.tasks[0].tokens
    with torch.no_grad():
        return losses, norms, mean_loss(held, list(range(len(held)))).item()


@pytest.mark.parametrize("case", WORLDS)
def test_losses_and_gradient_norms_are_those_of_a_plain_loop(case, run_of, plain):
    losses, norms, _ = plain

    folder = run_of(case)

    assert_close(column(folder, "loss"), losses, **TOLERANCE)
    assert_close(column(folder, "grad_norm"), norms, **TOLERANCE)


@pytest.mark.parametrize("case", WORLDS)
def test_the_held_out_loss_does_not_depend_on_who_reads_the_rows(case, run_of, plain):
    *_, held_out = plain

    assert_close(summary(run_of(case))["eval_loss_after"], held_out, **TOLERANCE)


def test_the_rows_that_are_shared_have_uneven_target_counts(run_of):
    """Otherwise a mean of means would pass for a mean over tokens."""
    targets = column(run_of("1 rank, stage 0"), "target_tokens")

    assert len(set(targets)) > STEPS / 2


def test_the_clip_is_below_every_gradient_norm(plain):
    assert min(plain[1]) > 0.5
