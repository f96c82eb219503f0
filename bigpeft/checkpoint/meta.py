"""What a checkpoint says about itself, and whether a run may go on from it."""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from bigpeft.backbone import Fingerprint
from bigpeft.checkpoint.keeping import META
from bigpeft.errors import CheckpointError
from bigpeft.recipe import CHANGEABLE

VERSION = 3


@dataclass(frozen=True)
class Meta:
    """Everything beside tensors: where the run stood and what it was.

    `rows` of the data were seen in `step` optimizer steps, of which `updates` changed something.
    `evaluation` holds the figures of this step by their names in metrics.jsonl.
    `stream` is where the rows come from next, in a run that streams them.
    `recipe`, `plan` and `versions` are for people; what must not change is the `identity`.
    """

    step: int
    rows: int
    updates: int
    world_size: int
    identity: dict[str, Any]
    parameters: dict[str, list[int]]
    base: dict[str, Any]
    loss_scale: dict[str, Any] | None = None
    evaluation: dict[str, float] = field(default_factory=dict)
    stream: dict[str, Any] | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    version: int = VERSION

    def as_json(self) -> dict[str, Any]:
        """For meta.json."""
        return asdict(self)

    def refuse_another_run(self, where: str, now: "Meta", changed: Collection[str] = ()) -> None:
        """Raises CheckpointError where the numerics of the run would change by going on, but for
        what is `changed` on purpose.
        """
        for key in sorted((self.identity.keys() | now.identity.keys()) - set(changed)):
            before, after = self.identity.get(key), now.identity.get(key)
            if before != after:
                fix = "keep the recipe of the run, or start another run.folder"
                if key in CHANGEABLE:
                    fix += f"; to go on with the change, add checkpoint.changed=[{key}]"
                raise CheckpointError(
                    where, f"was saved with {key} = {before!r}, the recipe says {after!r}", fix
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


def read_meta(path: Path) -> Meta:
    """meta.json of a verified checkpoint. Raises CheckpointError for what is none."""
    file = path / META
    try:
        content = json.loads(file.read_text())
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}, this bigpeft reads {VERSION}")
        meta = TypeAdapter(Meta).validate_python(content)
        Fingerprint.from_json(meta.base)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            str(file), f"describes no checkpoint ({reason})", "use another checkpoint"
        ) from error
    return meta
