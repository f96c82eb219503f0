"""One run over many worlds and stages. Oracle: the same run on one process, never stopped."""

from numpy.testing import assert_allclose

from tests.train.runs import column, final_state, run

OVERRIDES = [
    "batch={global_size: 12, micro_size: 1}",
    "data.limit=20",  # a stop is in the middle of an epoch
    "method.train_modules=[norm]",
    "model.layers=2",
    "train.steps=5",
    "eval=null",
]
CHAIN = [(1, "zero0", 1), (2, "zero3", 1), (4, "zero2", 3), (3, "zero3", 2)]


def test_ranks_stages_and_micro_batches_change_along_the_way(tmp_path):
    expected = final_state(1, tmp_path / "whole", *OVERRIDES)

    for step, (size, stage, micro) in enumerate(CHAIN, 1):
        here = [f"sharding.fragment={stage}", f"batch.micro_size={micro}"]
        run(
            size,
            tmp_path / "chain",
            *OVERRIDES,
            *here,
            f"train.stop_after={step}",
            "checkpoint={resume: auto, async: true}",
        )
    state = final_state(1, tmp_path / "chain", *OVERRIDES, "checkpoint.resume=auto")

    assert column(tmp_path / "chain", "step") == [1, 2, 3, 4, 5]
    # fp32: sums over ranks in another order
    for key in ("loss", "grad_norm"):
        assert_allclose(
            column(tmp_path / "chain", key), column(tmp_path / "whole", key), rtol=0, atol=1e-5
        )
    for name, value in expected.items():
        assert_allclose(state[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
