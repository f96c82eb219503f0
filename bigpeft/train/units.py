"""What batch sizes count: rows, or packs of them."""

from bigpeft.data import Packed, Padded, Tokens, pack
from bigpeft.plan import Plan

Units = Padded | Packed


def side_by_side(tokens: Tokens, pad_id: int, plan: Plan) -> Units:
    """These rows as the recipe wants them beside each other."""
    data = plan.recipe.data
    if not data.packing:
        return Padded(tokens, pad_id)
    packs = pack(tokens.offsets.diff(), data.max_length)
    return Packed(tokens, packs, pad_id, flat=plan.flash)
