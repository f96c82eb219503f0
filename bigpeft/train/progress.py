"""What a run tells: terminal lines, metrics.jsonl, summary.json."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bigpeft.backbone import PackedMeter
from bigpeft.checkpoint.engine import Engine
from bigpeft.plan import Plan
from bigpeft.plan.forecast import Forecast
from bigpeft.recipe import Recipe
from bigpeft.train.engine import peak_memory
from bigpeft.train.evaluation import Result
from bigpeft.train.expected import beside
from bigpeft.train.folder import write_json
from bigpeft.train.judge import BEFORE
from bigpeft.train.metrics import MetricsFile, read_rows
from bigpeft.train.saving import Position
from bigpeft.train.step import StepRecord
from bigpeft.train.terminal import Terminal


def total_steps(recipe: Recipe, rows: int, start: Position) -> int:
    """train.steps, or the steps after which train.epochs passes over the rows are made."""
    if recipe.train.steps is not None:
        return recipe.train.steps
    assert recipe.train.epochs is not None
    left = math.ceil((recipe.train.epochs * rows - start.rows) / recipe.batch.global_size)
    return max(1, start.step + max(0, left))


class Progress:
    """Keeps the record of one run; only the first rank writes."""

    def __init__(
        self,
        folder: Path,
        terminal: Terminal,
        engine: Engine,
        meter: PackedMeter,
        steps: int,
        done: int,
    ) -> None:
        self._folder, self._terminal, self._meter, self._done = folder, terminal, meter, done
        self._first = dist.get_rank() == 0
        self._metrics = MetricsFile(folder / "metrics.jsonl")
        if self._first:
            self._metrics.cut(done)
        self._lines = terminal.progress(steps, done)
        self._started = time.monotonic()

    def before(self, result: Result | None) -> None:
        """The evaluation before the first step of a fresh run, if there is one."""
        self._say("before", result)

    def after(
        self,
        step: int,
        record: StepRecord,
        rate: float,
        seconds: float,
        waited: float,
        slowest: Mapping[str, Any],
        result: Result | None,
    ) -> None:
        """One finished optimizer step; `waited` of its `seconds` were spent on the batch, and
        `slowest` has the columns about the slowest rank.
        """
        memory = peak_memory()
        row: dict[str, Any] = {
            "step": step,
            "loss": record.loss,
            "grad_norm": record.grad_norm,
            "learning_rate": rate,
            "tokens": record.tokens,
            "target_tokens": record.target_tokens,
            "seconds": round(seconds, 4),
            "waiting_seconds": round(waited, 4),
            "memory_bytes": memory,
            **slowest,
        }
        if record.penalty is not None:
            row["penalty"] = record.penalty
        if result is not None:
            row |= result.as_metrics()
        if self._first:
            self._metrics.add(row)
        self._lines.show(step, record.loss, record.tokens, seconds, memory)
        self._say(f"after step {step}", result)

    def finish(self) -> None:
        """No more steps."""
        self._lines.close()

    def summarise(self, plan: Plan, expected: Forecast | None) -> None:
        """Write summary.json from all ranks' figures and say the last line."""
        self.finish()
        mine = {
            "peak_memory_bytes": peak_memory(),
            "packed_bytes_shard": self._meter.shard,
            "packed_bytes_gathered_peak": self._meter.gathered_peak,
        }
        ranks: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(ranks, mine)
        if not self._first:
            return
        rows = read_rows(self._folder / "metrics.jsonl")
        summary = {
            "steps": rows[-1]["step"] if rows else self._done,
            **_losses(rows),
            "seconds": round(time.monotonic() - self._started, 3),
            "world_size": dist.get_world_size(),
            "trainable_parameters": plan.trainable,
            "peak_memory_bytes": [rank["peak_memory_bytes"] for rank in ranks],
            "packed_bytes_total": self._meter.total,
            "packed_bytes_shard": max(rank["packed_bytes_shard"] for rank in ranks),
            "packed_bytes_gathered_peak": max(r["packed_bytes_gathered_peak"] for r in ranks),
            "held_bytes_planned": plan.held.sum,
            **({"peak_bytes_planned": expected.peak} if expected else {}),
        }
        summary |= self._evaluations(rows)
        write_json(self._folder / "summary.json", summary)
        peak = max(summary["peak_memory_bytes"])
        self._terminal.say(beside(expected, peak, torch.accelerator.is_available()))
        told = f"loss {rows[0]['loss']:.4f} → {rows[-1]['loss']:.4f}; " if rows else ""
        self._terminal.say(f"{told}run folder {self._folder}")

    def _evaluations(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """Before and after, under the names that scripts read.

        A run that goes on from a converted checkpoint has not seen its beginning.
        """
        evaluated = [row for row in rows if any(key.startswith("eval_") for key in row)]
        if not evaluated:
            return {}
        moments = {"after": evaluated[-1]}
        if (self._folder / BEFORE).exists():
            moments["before"] = json.loads((self._folder / BEFORE).read_text())
        return {
            f"{'accuracy' if key == 'eval_accuracy' else key}_{moment}": value
            for moment, values in moments.items()
            for key, value in values.items()
            if key.startswith("eval_")
        }

    def _say(self, when: str, result: Result | None) -> None:
        for line in result.lines(when) if result is not None else ():
            self._terminal.say(line)


def _losses(rows: list[dict[str, Any]]) -> dict[str, float]:
    """None where a run had nothing left to do after a converted checkpoint."""
    return {"loss_first": rows[0]["loss"], "loss_last": rows[-1]["loss"]} if rows else {}
