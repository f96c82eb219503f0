"""Which model the weights of a source are, without filling one."""

from transformers import PreTrainedModel

from bigpeft.backbone.fingerprint import Fingerprint, fingerprint
from bigpeft.backbone.slots import fill_slots
from bigpeft.backbone.sources import WeightSource


def identify(model: PreTrainedModel, source: WeightSource) -> Fingerprint:
    """What the loader says of this skeleton filled from this source; one tensor is read at a time.

    Raises WeightError for weights that are damaged or do not fit.
    """
    slots = fill_slots(model, source.shapes())
    for slot in slots:
        codes = source.packed(slot.key, slot.linear.base.codec) if slot.linear else None
        if codes is None:
            source.read(slot.key)
    return fingerprint(model.config, slots, source.dtype, source.digests)
