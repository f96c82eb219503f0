"""What a checkpoint says about itself, and whether a run may go on from it."""

from dataclasses import asdict, dataclass
from typing import Any

from bigpeft.backbone import Fingerprint
from bigpeft.errors import CheckpointError


@dataclass(frozen=True)
class Meta:
    """Everything beside tensors: where the run stood and what it was."""

    step: int
    updates: int
    world_size: int
    identity: dict[str, Any]
    parameters: dict[str, list[int]]
    base: dict[str, Any]
    loss_scale: dict[str, Any] | None = None
    eval_loss: float | None = None
    version: int = 1

    def as_json(self) -> dict[str, Any]:
        """For meta.json."""
        return asdict(self)

    def refuse_another_run(self, where: str, now: "Meta") -> None:
        """Raises CheckpointError where the numerics of the run would change by going on."""
        for key in sorted(self.identity.keys() | now.identity.keys()):
            before, after = self.identity.get(key), now.identity.get(key)
            if before != after:
                raise CheckpointError(
                    where,
                    f"was saved with {key} = {before!r}, the recipe says {after!r}",
                    "keep the recipe of the run, or start another run.folder",
                )
        saved, here = Fingerprint.from_json(self.base), Fingerprint.from_json(now.base)
        saved.refuse_another(where, here, CheckpointError)
        before, after = self.parameters, now.parameters
        changed = sorted(n for n in before | after if before.get(n) != after.get(n))
        if changed:
            raise CheckpointError(
                where,
                f"holds other trained parameters ({changed[0]} and {len(changed) - 1} more)",
                "keep model and method of the run, or start another run.folder",
            )
