"""What masters and moments on NVMe ask of a machine, before weights are read."""

from pathlib import Path

from deepspeed.ops.op_builder import AsyncIOBuilder  # pyright: ignore[reportAttributeAccessIssue]

from bigpeft.errors import FileError, RecipeError
from bigpeft.plan import Plan


def refuse_missing_nvme(plan: Plan) -> None:
    """Raises RecipeError where DeepSpeed cannot build what reads and writes the drive, FileError
    where its folder cannot be made.
    """
    section = plan.ds_config["zero_optimization"].get("offload_optimizer") or {}
    if section.get("device") != "nvme":
        return
    if not AsyncIOBuilder().is_compatible():
        raise RecipeError(
            f"{plan.recipe.sharding.fragment}: offload_optimizer",
            "nvme needs DeepSpeed's async_io, which cannot be built on this machine",
            "install libaio's headers (libaio-dev) and a C++ compiler, or write cpu",
        )
    try:
        Path(section["nvme_path"]).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            section["nvme_path"], f"cannot be made ({error.strerror})", "choose another nvme_path"
        ) from error
