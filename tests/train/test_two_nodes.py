"""Real launches over ssh between two nodes. Oracles: one node, the kernel's counter of bytes."""

import json
import time

import pytest

from tests.nodes import skip_without_nodes, two_nodes
from tests.train.runs import run

STEPS, FROM, TO = 14, 3, 12


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    skip_without_nodes()
    with two_nodes(tmp_path_factory.mktemp("nodes")) as both:
        yield both


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def finish(process):
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return said


def test_two_nodes_learn_what_one_learns(nodes, tmp_path):
    common = ("train.steps=4", "eval=null")

    finish(nodes.launch(1, f"run.folder={tmp_path}/two", *common))

    run(2, tmp_path / "one", *common)
    assert losses(tmp_path / "two") == losses(tmp_path / "one")
    facts = json.loads((tmp_path / "two" / "run.json").read_text())
    assert facts["plan"]["world_size"] == 2


def sent_in_a_step(nodes, folder, *overrides):
    """Bytes that leave a node of two ranks in a step, when the run is under way."""
    common = (f"train.steps={STEPS}", "eval=null")
    common += ("method.target_modules=[q_proj]", "method.rank=64")
    process = nodes.launch(2, f"run.folder={folder}", *common, *overrides)
    seen = {}
    while process.poll() is None and TO not in seen:
        step = steps_of(folder)
        if step >= FROM and step not in seen:
            seen[step] = nodes.sent()
        time.sleep(0.01)
    finish(process)
    first = min(seen)
    return (seen[max(seen)] - seen[first]) / (max(seen) - first)


def kept(folder):
    """Packed bytes on a rank."""
    return json.loads((folder / "summary.json").read_text())["packed_bytes_shard"]


def steps_of(folder):
    try:
        return len((folder / "metrics.jsonl").read_bytes().splitlines())
    except FileNotFoundError:
        return 0


def test_what_leaves_a_node_does_not_grow_with_a_backbone_that_each_node_holds(nodes, tmp_path):
    """At stage 0 nothing but gradients of adapters is sent, in an all-reduce. ZeRO-3 reduces them
    to their owners, for which gloo makes an all-reduce too (NCCL sends half), and gathers the new
    adapters, which is half an all-reduce.
    """
    wide = "model.config.intermediate_size=2816"

    gradients = sent_in_a_step(nodes, tmp_path / "zero0", "sharding.fragment=zero0")
    node = sent_in_a_step(nodes, tmp_path / "node", "sharding.group=node", wide)
    hpz = sent_in_a_step(nodes, tmp_path / "hpz", "sharding.fragment=zero3_hpz", wide)
    world = sent_in_a_step(nodes, tmp_path / "world", "sharding.group=world", wide)

    adapters = 1.5 * gradients
    assert node <= 1.2 * adapters
    assert hpz <= 1.2 * adapters
    assert losses(tmp_path / "hpz") == losses(tmp_path / "node") == losses(tmp_path / "world")
    assert kept(tmp_path / "hpz") == kept(tmp_path / "node") + kept(tmp_path / "world")
    assert world > 5 * adapters


def test_when_a_node_dies_the_other_names_it_ends_and_goes_on_alone(nodes, tmp_path):
    """The last of this file: nothing answers on the dead node afterwards."""
    folder = tmp_path / "broken"
    common = ("train.steps=500", "eval=null", "checkpoint.every=5")
    process = nodes.launch(1, f"run.folder={folder}", *common)
    while steps_of(folder) < 7 and process.poll() is None:
        time.sleep(0.01)

    nodes.kill(1)
    said, _ = process.communicate(timeout=60)

    assert process.returncode != 0
    assert said.count("rank 1 on node-b: nothing was heard from there") == 1, said
    reached = steps_of(folder)
    on = (*common, f"train.stop_after={reached + 3}")
    run(1, folder, *on, "checkpoint.resume=auto")
    run(2, tmp_path / "unbroken", *on)
    assert losses(folder) == pytest.approx(losses(tmp_path / "unbroken"), abs=1e-5)
