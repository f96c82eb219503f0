"""Oracles: arithmetic on published shapes, and what shipped recipes say that they fit."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from bigpeft.cli import app
from bigpeft.errors import RecipeError
from bigpeft.plan.forecast import read_bytes, read_speed
from bigpeft.recipe import load_recipe
from bigpeft.train.command import read_command

LARGE = sorted(p for p in Path("recipes").glob("*.yaml") if re.search(r"\d+b\b", p.stem))
LLAMA_70B = Path("recipes/llama-3.3-70b-8x80gb.yaml")
TWO_SMALL = ["--gpus-per-node", 2, "--gpu", "rtx4090"]


def planned(recipe, *options):
    done = CliRunner().invoke(app, ["plan", "--recipe", *map(str, (recipe, "--json", *options))])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return json.loads(done.output)


def peak(plan):
    return max(sum(kinds.values()) for kinds in plan["per_rank"].values())


@pytest.mark.parametrize("recipe", LARGE, ids=lambda path: path.stem)
def test_a_large_recipe_fits_the_machines_that_it_names(recipe):
    named = re.search(r"bigpeft plan --recipe (\S+) (.*)", recipe.read_text())
    assert named[1] == str(recipe)

    plan = planned(recipe, *shlex.split(named[2]))

    assert plan["fits"]
    assert peak(plan) == plan["peak_bytes"] <= plan["gpu_memory_bytes"]


@pytest.mark.parametrize("recipe", LARGE, ids=lambda path: path.stem)
def test_the_command_that_a_large_recipe_names_starts_it_on_other_rows(recipe):
    named = re.search(r"#   (deepspeed .*)", recipe.read_text())
    shipped = load_recipe(recipe)

    command = read_command(shlex.split(named[1]))
    run = load_recipe(recipe, command.words[-1:])

    assert command.words[2:4] == ("--recipe", str(recipe))
    assert str(command.folder) == shipped.run.folder
    assert run.data.path != shipped.data.path
    assert run.model_copy(update={"data": shipped.data}) == shipped


def test_the_packed_bytes_of_a_70b_model_are_those_of_its_linears():
    per_layer = 2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672
    codes_and_scales = 80 * per_layer * (1 / 2 + 1 / 64 + 4 / (64 * 256))

    plan = planned(LLAMA_70B)

    assert plan["packed_bytes_total"] == pytest.approx(codes_and_scales, rel=1e-4)
    whole, halves = plan["per_rank"]["step"], planned(LLAMA_70B, "sharding.group=2")
    assert halves["per_rank"]["step"]["packed"] == whole["packed"] / 2
    assert halves["bytes_per_step_inside_node"] > plan["bytes_per_step_inside_node"]


def test_frozen_weights_on_the_host_leave_the_gpu_for_the_node_s_memory():
    here = planned(LLAMA_70B, "sharding.fragment=zero3_cpu", "sharding.group=node")
    there = planned(LLAMA_70B, "sharding.fragment=zero3_cpu_weights", "sharding.group=node")

    gone = {
        kind: n - there["per_rank"]["step"][kind] for kind, n in here["per_rank"]["step"].items()
    }
    assert gone["packed"] == here["per_rank"]["step"]["packed"] > 0
    assert {kind for kind, n in gone.items() if n} == {"packed", "dense"}
    moved = there["host_bytes_per_node"] - here["host_bytes_per_node"]
    assert moved == pytest.approx(8 * (gone["packed"] + gone["dense"]), abs=100)
    assert there["per_rank"]["forward"]["gathered"] == here["per_rank"]["forward"]["gathered"]


def test_what_crosses_between_nodes_does_not_grow_with_the_backbone_unless_it_is_cut_over_them():
    nodes = ["--nodes", 2, "sharding.group=node", "method.target_modules=[q_proj]"]
    short = planned(LLAMA_70B, *nodes)
    narrow = planned(LLAMA_70B, *nodes, "model.weights=none")
    across = planned(LLAMA_70B, *nodes, "sharding.group=world")

    trained = short["trainable"] * 2
    steps = 32 // (16 * 1)
    assert short["bytes_between_nodes"] == (steps + 1) * (trained * 15 // 16)
    assert narrow["bytes_between_nodes"] == short["bytes_between_nodes"]
    assert across["bytes_between_nodes"] > 100 * short["bytes_between_nodes"]


def test_hpz_keeps_a_second_copy_and_sends_between_nodes_what_a_group_of_a_node_sends():
    machines = ["--nodes", 2, "--gpus-per-node", 8, "--gpu", "h100"]
    node, world, hpz = (
        planned(LLAMA_70B, *overrides, *machines)
        for overrides in (
            ["sharding.group=node"],
            ["sharding.group=world"],
            ["sharding.group=world", "sharding.fragment=zero3_hpz"],
        )
    )

    packed = [plan["per_rank"]["step"]["packed"] for plan in (node, world, hpz)]
    assert packed[2] == packed[0] + packed[1]
    assert hpz["bytes_between_nodes"] == node["bytes_between_nodes"] < world["bytes_between_nodes"]


@pytest.mark.parametrize("memory", ["24GiB", "48GiB", "80GiB"])
def test_an_automatic_group_is_the_smallest_that_fits(memory):
    fits = {
        group: planned(LLAMA_70B, "--gpu-memory", memory, f"sharding.group={group}")["fits"]
        for group in (1, 2, 4, 8, "auto")
    }
    chosen = planned(LLAMA_70B, "--gpu-memory", memory, "sharding.group=auto")

    assert fits["auto"]
    assert chosen["setting"]["group"] == next(group for group in (1, 2, 4, 8) if fits[group])
    assert f"of {memory.removesuffix('GiB')}.00 GiB" in chosen["group_reason"]


def test_an_automatic_group_is_the_world_where_nothing_fits():
    plan = planned(LLAMA_70B, "--gpu-memory", "12GiB", "sharding.group=auto")

    assert not plan["fits"]
    assert plan["setting"]["group"] == 8
    assert plan["group_reason"].startswith("no group fits")


def test_what_is_advised_fits():
    without = [*TWO_SMALL, "data.max_length=256", "method.rank=4"]

    plan = planned(LLAMA_70B, *without)
    mended = planned(LLAMA_70B, *without, *plan["advice"])

    assert not plan["fits"]
    assert plan["advice"]
    assert mended["fits"]
    assert mended["advice"] == []


def test_a_model_that_fits_nothing_is_refused_by_name():
    with pytest.raises(RecipeError, match=r"--gpu-memory: 2\.0 GiB fit no setting"):
        CliRunner().invoke(
            app,
            ["plan", "--recipe", str(LLAMA_70B), "--gpu-memory", "2GiB"],
            catch_exceptions=False,
        )


def test_the_sweep_offers_what_fits_fastest_first():
    swept = planned(LLAMA_70B, "--gpus-per-node", 4, "--sweep")["sweep"]

    rates = [
        one["tokens_per_step"] / max(one["seconds_per_step_at_least"].values()) for one in swept
    ]
    assert all(one["fits"] for one in swept)
    assert rates == sorted(rates, reverse=True)
    assert len({json.dumps(one["setting"]) for one in swept}) == len(swept)


def test_checkpointing_and_smaller_micro_batches_save_activations():
    def activations(*overrides):
        plan = planned(LLAMA_70B, *overrides)
        return max(kinds.get("activations", 0) for kinds in plan["per_rank"].values())

    kept, recomputed = (
        activations(f"train.activation_checkpointing={wanted}") for wanted in ("false", "true")
    )
    doubled = activations("train.activation_checkpointing=false", "batch.micro_size=2")

    assert recomputed < kept / 4
    assert doubled == 2 * kept


@given(st.integers(1, 999), st.sampled_from(["GiB", "gib", "Gi"]))
def test_sizes_are_read(number, unit):
    assert read_bytes("--gpu-memory", f"{number}{unit}") == number * 2**30
    assert read_bytes("--gpu-memory", f"{number} GB") == number * 10**9


def test_bandwidths_are_read_in_bits_and_bytes():
    assert read_speed("--bandwidth", "400Gbit/s") == read_speed("--bandwidth", "50GB/s") == 50e9
    assert read_speed("--bandwidth", "8Gbps") == 1e9


@pytest.mark.parametrize("text", ["", "much", "80", "-1GB/s", "0Gbit/s", "80 gigs"])
def test_what_is_no_bandwidth_is_refused(text):
    with pytest.raises(RecipeError, match="is no bandwidth"):
        read_speed("--bandwidth", text)


def test_planning_does_not_depend_on_this_machine():
    assert (
        planned(LLAMA_70B)["per_rank"]["step"]["trained"]
        == planned(LLAMA_70B, "train.precision=auto")["per_rank"]["step"]["trained"]
    )
    assert not torch.cuda.is_available() or planned(LLAMA_70B)["fits"]
