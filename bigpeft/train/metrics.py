"""metrics.jsonl: one object per optimizer step, one continuous record over resumes."""

import json
import math
import os
from pathlib import Path
from typing import Any


class MetricsFile:
    """Appends rows; `cut(step)` drops what a resumed run will do again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def cut(self, step: int) -> None:
        """Keep rows up to this step; a half-written last line goes too."""
        if not self._path.exists():
            return
        rows = [row for row in read_rows(self._path) if row["step"] <= step]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(temporary, self._path)

    def add(self, row: dict[str, Any]) -> None:
        """One row, on disk before the next step starts. Numbers that are not finite become null."""
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.items()
        }
        with self._path.open("a") as file:
            file.write(json.dumps(finite) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Every whole row of a metrics file; none where there is no file yet."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
