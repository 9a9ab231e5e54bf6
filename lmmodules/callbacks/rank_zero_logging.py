"""Every number once: reduced over ranks by one collective, written by rank zero.

The other callbacks of a trainer may take part by having one of two methods, which is how throughput reaches the log
and the log reaches the progress bar without any of them knowing the others:

- `interval_metrics(trainer) -> dict[str, float]` adds numbers of its own to each interval;
- `on_metrics(trainer, step, metrics)` is told them, on rank zero.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from lmmodules.errors import InputError
from lmmodules.parallel import Term, Totals, data_parallel_group


class RankZeroLogging(Callback):
    """Log means over the last interval, at a fixed interval, and nothing in between.

    A training step leaves scalars on the device; here they are packed into one tensor, reduced with one collective,
    and handed to the trainer's loggers, to `metrics.csv` and to the callbacks that listen. Lightning's `self.log` in
    every step costs more than everything else the trainer does.

    A LightningModule that has `collect_training_metrics()` (every objective does) names its own terms; for any other
    the returned loss is averaged.

    Args:
        every_steps: Interval in optimizer steps. The last step of a run is always logged.
        directory: Where `metrics.csv` is written, on rank zero; `None` writes none.

    Raises:
        InputError: When `every_steps` is less than 1.
        FloatingPointError: In training, on all ranks, when the mean loss of an interval is not finite.
    """

    def __init__(self, every_steps: int = 50, directory: str | os.PathLike[str] | None = None) -> None:
        if every_steps < 1:
            raise InputError(f"`log_every_steps` must be at least 1, but is {every_steps}")
        self.every_steps = every_steps
        self.latest: dict[str, float] = {}
        """Newest value of every metric, on all ranks."""
        self.validated_at = -1
        """Optimizer step of the newest validation, -1 before the first."""
        self._file = None if directory is None else MetricsFile(Path(directory) / "metrics.csv")
        self._losses = Totals()
        self._last_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on after the last step of a resumed run."""
        self._last_step = trainer.global_step
        if self._file is not None and trainer.is_global_zero:
            self._file.open(after_step=trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and at the end of an interval collect, reduce and write.

        Raises:
            FloatingPointError: When the loss is no longer a number.
        """
        collect = getattr(pl_module, "collect_training_metrics", None)
        if collect is None and outputs is not None:
            self._losses.add({"loss": Term(outputs["loss"] if isinstance(outputs, Mapping) else outputs, 1)})
        step = trainer.global_step
        if step == self._last_step or (step % self.every_steps and step != trainer.max_steps):
            return
        self._last_step = step
        means = collect() if collect is not None else self._losses.collect(data_parallel_group(pl_module))
        metrics = {f"train/{name}": value for name, value in means.items()}
        metrics["lr"] = max(group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, "interval_metrics"):
                metrics.update(callback.interval_metrics(trainer))
        self._write(trainer, step, metrics)
        # Reduced, so every rank finds the same and none is left waiting.
        if not math.isfinite(metrics.get("train/loss", 0.0)):
            raise FloatingPointError(
                f"the training loss is {metrics['train/loss']} at step {step}: the run has diverged; a lower learning "
                "rate, a longer warmup or clipping (`trainer.gradient_clip_val=1.0`) may mend it"
            )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what validation logged; it was reduced where it was computed."""
        if trainer.sanity_checking:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        if metrics:
            self.validated_at = trainer.global_step
            self._write(trainer, trainer.global_step, metrics)

    def _write(self, trainer: L.Trainer, step: int, metrics: dict[str, float]) -> None:
        self.latest.update(metrics)
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
        if self._file is not None:
            self._file.write(step, metrics)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, "on_metrics"):
                callback.on_metrics(trainer, step, metrics)


class MetricsFile:
    """A CSV file with a row per step, that survives a resumed run and metrics that appear late.

    Args:
        path: The file. Its directory is made when the first row is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] = []

    def open(self, after_step: int) -> None:
        """Keep the rows up to a step that the run goes on from, and drop those that it will write again."""
        rows = [row for row in read_metrics(self.path) if row["step"] <= after_step] if after_step else []
        if rows:
            self._columns = list(dict.fromkeys(name for row in rows for name in row))
            self._rewrite(rows)
        else:
            self._columns = []
            self.path.unlink(missing_ok=True)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a row; a metric seen for the first time adds a column to the whole file."""
        row = {"step": float(step), **metrics}
        if not set(row) <= set(self._columns):
            rows = read_metrics(self.path) if self._columns else []
            self._columns += [name for name in row if name not in self._columns]
            self._rewrite([*rows, row])
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns, restval="").writerow(_formatted(row))

    def _rewrite(self, rows: list[dict[str, float]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(map(_formatted, rows))
        temporary.replace(self.path)


def _formatted(row: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.10g}" for name, value in row.items()}


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Rows of a `metrics.csv`, each with the metrics that were logged at its step.

    Args:
        path: The file; a missing one has no rows.
    """
    path = Path(path)
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
