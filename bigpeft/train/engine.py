"""The DeepSpeed engine: processes, partition, optimizer; the one place that knows its corners."""

import os
from datetime import timedelta
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel

from bigpeft.backbone import (
    Partition,
    Readers,
    ReadersOfNodes,
    Whole,
    ZeroThree,
    group_across_nodes,
    node_group,
)
from bigpeft.checkpoint.engine import Engine, accelerator
from bigpeft.errors import RecipeError, UserError
from bigpeft.placement import Trained, optimizer_groups
from bigpeft.plan import Plan
from bigpeft.world import World, announce, meeting_port


def join_processes(world: World, patience: float = 1800.0) -> torch.device:
    """Join the process group; returns this rank's device.

    No rank may move for `patience`, in seconds, before a watch ends them all. Raises UserError
    where the port of the meeting is in use.
    """
    announce(world)
    _use_no_compiled_collectives()
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")  # it would end the watch too
    accelerator().set_device(world.local_rank)
    try:
        deepspeed.init_distributed(
            dist_backend=accelerator().communication_backend_name(),
            auto_mpi_discovery=False,
            timeout=_longer_than(patience),
        )
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise UserError(
            f"port {meeting_port()} of {world.host}",
            "is in use, perhaps by another run",
            "choose another one: --master_port of deepspeed, --master-port of torchrun, "
            "MASTER_PORT for any launcher",
        ) from error
    return torch.device(accelerator().device_name(world.local_rank))


def _longer_than(patience: float) -> timedelta:
    """How long a collective may last: the watch speaks first."""
    return timedelta(seconds=2 * patience)


def _use_no_compiled_collectives() -> None:
    """On a CPU DeepSpeed would compile its shared-memory collectives at first use, which takes a
    compiler and most of a minute; gloo does without.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def leave_processes() -> None:
    """Leave the process group, all ranks together."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def make_partition(plan: Plan) -> Partition:
    """How this plan cuts parameters while they load.

    Raises RecipeError, on every rank, where ranks have chosen unlike groups.
    """
    if plan.stage < 3:
        return Whole()
    if plan.recipe.sharding.group == "auto":
        _refuse_unlike_groups(plan)
    return ZeroThree(plan.ds_config, _group_of(plan, plan.group_size))


def _refuse_unlike_groups(plan: Plan) -> None:
    chosen: list[tuple[str, int]] = [("", 0)] * plan.world.size
    dist.all_gather_object(chosen, (plan.world.host, plan.group_size))
    if len({size for _, size in chosen}) > 1:
        told = ", ".join(f"{size} on {host}" for host, size in dict.fromkeys(chosen))
        raise RecipeError(
            "sharding.group",
            f"auto chose unlike groups, since memory differs: {told}",
            f"write sharding.group={max(size for _, size in chosen)}",
        )


def make_readers(plan: Plan) -> Readers:
    """Who shares the reading of weight files: the world, or each node by itself."""
    rank, ranks, size = plan.world.rank, plan.world.size, plan.world.local_size
    of_world = plan.recipe.sharding.readers == "world"
    if size == ranks or (of_world and size == 1):
        return Readers.of_world()
    node = _group_of(plan, size)
    if not of_world:
        return Readers(rank % size, size, node)
    across = group_across_nodes(size, _longer_than(plan.recipe.train.timeout))
    return ReadersOfNodes(rank, ranks, node, across)


def _group_of(plan: Plan, size: int) -> dist.ProcessGroup | None:
    return node_group(size, _longer_than(plan.recipe.train.timeout))


def build_engine(model: PreTrainedModel, trained: list[Trained], plan: Plan) -> Engine:
    """Optimizer and engine over a loaded model."""
    wanted = plan.recipe.optimizer
    model.enable_input_require_grads()
    if plan.recipe.train.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(
        optimizer_groups(trained, plan.learning_rate, wanted.weight_decay),
        betas=wanted.betas,
        eps=wanted.epsilon,
    )
    initialize: Any = deepspeed.initialize
    engine: Engine
    engine, *_ = initialize(
        model=model,
        optimizer=optimizer,
        model_parameters=[item.parameter for item in trained],
        config=plan.ds_config,
    )
    optimizer.state.clear()  # stage 0 in half precision makes a step with zero gradients
    if plan.stage == 3:
        _keep_gathered(engine, [item.parameter for item in trained])
    return engine


def _keep_gathered(engine: Engine, parameters: list[nn.Parameter]) -> None:
    """Mark adapters that are too large for the threshold, so that they never share a gather with
    frozen weights, whose group may be another.
    """
    zero = engine.optimizer
    late = [p for p in parameters if not p.ds_persist]  # type: ignore[attr-defined]
    for parameter in late:
        parameter.ds_persist = True  # type: ignore[attr-defined]
        zero.persistent_parameters.append(parameter)
    gather(late)


def gather(parameters: list[nn.Parameter]) -> None:
    """Make trained parameters whole again. ZeRO-3 keeps them so, but not while it learns the order
    of modules, in the first step and after evaluations.
    """
    absent = [
        p
        for p in parameters
        if getattr(p, "ds_status", None)
        == deepspeed.zero.partition_parameters.ZeroParamStatus.NOT_AVAILABLE
    ]
    if absent:
        absent[0].all_gather(absent)  # type: ignore[attr-defined]


def set_learning_rate(engine: Engine, factor: float) -> float:
    """Scale every group's peak; returns the largest learning rate."""
    groups = engine.optimizer.param_groups
    for group in groups:
        group["lr"] = factor * group["peak"]
    return max(group["lr"] for group in groups)


def unreduced_norm(engine: Engine) -> Tensor | None:
    """The global gradient norm where no ZeRO optimizer will know it: stage 0 in fp32."""
    if engine.zero_optimization_stage() or hasattr(engine.optimizer, "_global_grad_norm"):
        return None
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else None


def gradient_norm(engine: Engine, norm: Tensor | None) -> float:
    """The norm before clipping: as measured, or as the ZeRO optimizer reports it."""
    value = norm if norm is not None else engine.get_global_grad_norm()
    return float(value) if value is not None else float("nan")


def peak_memory() -> int:
    """Largest memory of this rank so far, bytes: of the accelerator, or resident on a CPU."""
    return int(accelerator().max_memory_allocated())
