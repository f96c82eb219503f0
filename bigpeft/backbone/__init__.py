"""The frozen model: a skeleton, packed weights, one streaming pass to fill it, its partition."""

from bigpeft.backbone.copies.cache import through_cache
from bigpeft.backbone.copies.quantize import quantize
from bigpeft.backbone.fingerprint import Fingerprint
from bigpeft.backbone.identify import identify
from bigpeft.backbone.linear import PackedLinear, freeze_linears
from bigpeft.backbone.loader import Loader
from bigpeft.backbone.meter import PackedMeter
from bigpeft.backbone.partition import Partition, Whole, ZeroThree, group_across_nodes, node_group
from bigpeft.backbone.readers import Readers, ReadersOfNodes
from bigpeft.backbone.skeleton import build_skeleton, read_config
from bigpeft.backbone.slots import fill_slots
from bigpeft.backbone.sources import (
    RandomWeights,
    SafetensorsFolder,
    Verified,
    WeightSource,
    open_folder,
    written_dtype,
)
from bigpeft.backbone.stopwatch import Stopwatch

__all__ = [
    "Fingerprint",
    "Loader",
    "PackedLinear",
    "PackedMeter",
    "Partition",
    "RandomWeights",
    "Readers",
    "ReadersOfNodes",
    "SafetensorsFolder",
    "Stopwatch",
    "Verified",
    "WeightSource",
    "Whole",
    "ZeroThree",
    "build_skeleton",
    "fill_slots",
    "freeze_linears",
    "group_across_nodes",
    "identify",
    "node_group",
    "open_folder",
    "quantize",
    "read_config",
    "through_cache",
    "written_dtype",
]
