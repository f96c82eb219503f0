"""Whether the model keeps packed rows apart, asked of the model itself before it learns."""

import torch
from torch import Tensor

from bigpeft.checkpoint.engine import Engine
from bigpeft.errors import RecipeError
from bigpeft.plan import Plan

_ROW = 4  # tokens
_NEAR = 1e-3
"""Of the largest logit. Rows kept apart differ by rounding, others by far more."""


def refuse_leaks(engine: Engine, plan: Plan) -> None:
    """Raises RecipeError, on all ranks, where what a token sees goes beyond its own row.

    transformers keeps rows apart whose positions begin again at 0, in models that hand positions
    to the mask; some do not, and would learn from their neighbours without a word. Here one row
    stands behind two others in turn, and its logits must not tell which. Two short passes.
    """
    vocabulary = plan.model.config.get_text_config().vocab_size
    tokens = torch.randperm(max(vocabulary, 3 * _ROW), generator=torch.Generator().manual_seed(0))
    one, other, last = (tokens % vocabulary).to(engine.device).split(_ROW)[:3]
    engine.eval()
    with torch.no_grad():
        first, second = (_logits_of_last(engine, before, last) for before in (one, other))
    engine.train()
    if (first - second).abs().max() > _NEAR * first.abs().max():
        raise RecipeError(
            "data.packing",
            f"{plan.model.config.model_type} models do not keep packed rows apart",
            "remove data.packing; data.group_by_length saves padding, too",
        )


def _logits_of_last(engine: Engine, before: Tensor, last: Tensor) -> Tensor:
    positions = torch.arange(_ROW, device=engine.device).repeat(2)
    ids = torch.cat([before, last])
    logits: Tensor = engine(input_ids=ids[None], position_ids=positions[None]).logits
    return logits[0, _ROW:].float()
