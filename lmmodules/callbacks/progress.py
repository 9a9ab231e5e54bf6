"""One line that moves: step, loss, learning rate, tokens per second, time left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class TrainingProgress(ProgressBar):
    """A live bar over optimizer steps on a terminal; a line per log interval anywhere else.

    What it shows comes from `RankZeroLogging`, so a number on the screen is the number in the log.

    Args:
        console: Where to draw; `None` for standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self.console = console or Console(stderr=True, force_jupyter=False)
        self._enabled = True
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._figures = ""
        self._started = 0.0
        self._first_step = 0

    def enable(self) -> None:
        """Draw."""
        self._enabled = True

    def disable(self) -> None:
        """Do not draw; Lightning calls this on every rank but zero."""
        self._enabled = False

    @property
    def is_enabled(self) -> bool:
        """Whether this rank draws."""
        return self._enabled

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put up the bar, where there is a terminal for it."""
        self._started, self._first_step = time.perf_counter(), trainer.global_step
        if not self._enabled or not self.console.is_terminal or trainer.max_steps < 0:
            return
        self._bar = Progress(
            TextColumn("[bold]training"),
            BarColumn(bar_width=None, complete_style="cyan", finished_style="cyan"),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("", total=trainer.max_steps, completed=trainer.global_step, figures="")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar; its own thread draws it."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=trainer.global_step)

    def on_metrics(self, trainer: L.Trainer, step: int, metrics: Mapping[str, float]) -> None:
        """Show the newest figures."""
        if not self._enabled or (not trainer.training and "val/loss" not in metrics):
            return
        figures = format_figures(metrics)
        if self._bar is not None and self._task is not None:
            if "val/loss" in metrics:
                self._bar.console.print(f"[dim]step {step:>6}[/dim]  {figures}", highlight=False)
            else:
                self._bar.update(self._task, figures=figures)
            return
        line = f"step {step:>6}/{trainer.max_steps}  {figures}"
        if "val/loss" not in metrics:
            line += f"  {self._time_left(trainer, step)} left"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _time_left(self, trainer: L.Trainer, step: int) -> str:
        done = step - self._first_step
        if done <= 0 or trainer.max_steps < 0:
            return "?"
        return format_seconds((trainer.max_steps - step) * (time.perf_counter() - self._started) / done)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the last state of the bar on the screen."""
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def format_figures(metrics: Mapping[str, float]) -> str:
    """The figures worth a glance, in a fixed order."""
    parts = []
    if "train/loss" in metrics:
        parts.append(f"loss {metrics['train/loss']:.3f}")
    if "val/loss" in metrics:
        parts.append(f"validation loss {metrics['val/loss']:.3f}")
    if "val/perplexity" in metrics:
        parts.append(f"perplexity {metrics['val/perplexity']:,.1f}")
    if "lr" in metrics:
        parts.append(f"lr {metrics['lr']:.2e}")
    if "throughput/tokens_per_second" in metrics:
        parts.append(f"{format_count(metrics['throughput/tokens_per_second'])} tokens/s")
    if "throughput/mfu" in metrics:
        parts.append(f"{metrics['throughput/mfu']:.1%} MFU")
    return "  ".join(parts)


def format_count(number: float) -> str:
    """A count in three significant digits and a letter: 950, 18.2k, 1.24B."""
    number = float(f"{number:.3g}")  # first, so that 999,950 is 1M and not 1e+03k
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def format_seconds(seconds: float) -> str:
    """A duration as a clock shows it: 0:42, 12:05, 3:07:12."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_duration(seconds: float) -> str:
    """A duration in words: 42 s, 3 min 25 s, 7 h 12 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
