"""The frozen model: a skeleton, packed weights, one streaming pass to fill it, its partition."""

from bigpeft.backbone.linear import PackedLinear, freeze_linears
from bigpeft.backbone.loader import Loader
from bigpeft.backbone.meter import PackedMeter
from bigpeft.backbone.partition import Partition, Whole, ZeroThree, node_group
from bigpeft.backbone.reader import RandomWeights, SafetensorsFolder, WeightSource
from bigpeft.backbone.skeleton import build_skeleton, read_config
from bigpeft.backbone.slots import fill_slots

__all__ = [
    "Loader",
    "PackedLinear",
    "PackedMeter",
    "Partition",
    "RandomWeights",
    "SafetensorsFolder",
    "WeightSource",
    "Whole",
    "ZeroThree",
    "build_skeleton",
    "fill_slots",
    "freeze_linears",
    "node_group",
    "read_config",
]
