"""What Lightning and the callbacks of a run add to a bare PyTorch loop over the same modules.

`start_here` is the run of `lmm-train` as it is, with schedule, log, throughput and progress. The small network shows
the microseconds themselves: there, ours writes loss and learning rate every 50 steps by a callback, and the peer does
what most Lightning modules do, `self.log` in every step with a CSV logger. What is compared is what the two add to
the bare loop. Where the time goes is told of whole runs of 200 steps, what sets them up included.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor

from benchmarks.workload import OURS, Candidate, Case, Comparison, Grid, Seconds, Step, Workload
from lmmodules import CausalLM, RankZeroLogging, Transformer, WarmupDecay
from lmmodules.command import quiet_lightning
from lmmodules.optim import Cosine

BARE = "bare loop"
PLAIN = "Lightning, nothing logged"
LOGGED = "Lightning, self.log every step + CSV"
WARMUP_STEPS = 4
GOAL, FLOOR = 2.0, 1.6
"""Ours adds at most half, and never more than 0.6, of what the peer adds."""


@dataclass(frozen=True)
class TrainerOverhead(Workload):
    """See the module."""

    title: ClassVar[str] = "What the trainer adds to a loop"

    run_steps: int = 16
    small_steps: int = 204

    def cases(self, grid: Grid) -> Iterator[Case]:
        """A real run, and a network so small that only the trainer shows."""
        yield Case(
            "experiment=start_here",
            (Candidate(OURS, self.run_step), Candidate(BARE, self.bare_run_step)),
            (Comparison(BARE),),
            units=1,
            unit="steps",
            counts_operations=False,
        )
        candidates = (
            Candidate(OURS, self.small_step),
            Candidate(BARE, self.bare_small_step),
            Candidate(PLAIN, partial(self.lightning_step, log=False)),
            Candidate(LOGGED, partial(self.lightning_step, log=True)),
        )
        comparisons = (Comparison(LOGGED, GOAL, FLOOR, beyond=BARE), Comparison(PLAIN, beyond=BARE))
        yield Case(
            "a small network",
            candidates,
            comparisons,
            units=1,
            unit="steps",
            counts_operations=False,
            told_by="functions",
        )

    # The run of `lmm-train`

    def assemble(self, directory: str) -> Any:
        """The run, without checkpoints and validation: the loop it is compared with has none either."""
        from lmmodules.composition import compose_config
        from lmmodules.train import assemble

        own = ["experiment=start_here", f"max_steps={self.run_steps}", f"paths.output_dir={directory}"]
        own += ["~callbacks.best", "~callbacks.last", "+trainer.enable_checkpointing=false"]
        return assemble(compose_config("train", *own, f"trainer.val_check_interval={self.run_steps * 1000}"))

    def run_step(self) -> Step:
        """A run under `lightning.Trainer`, as the command builds it."""
        from lmmodules.train import build_trainer

        directory = tempfile.TemporaryDirectory()
        run = self.assemble(directory.name)

        def step() -> Seconds:
            trainer = build_trainer(run.config, run.data)
            trainer.limit_val_batches = 0
            assert directory.name == run.config.paths.output_dir  # it lives as long as the step
            return _fit(trainer, run.objective, run.data)

        return step

    def bare_run_step(self) -> Step:
        """A loop that anybody would write, with the schedule and the clipping of the run."""
        with tempfile.TemporaryDirectory() as directory:
            run = self.assemble(directory)
        objective = run.objective.train()
        schedule = next(callback.schedule for callback in run.trainer.callbacks if hasattr(callback, "schedule"))
        clip = run.config.trainer.gradient_clip_val
        return lambda: _bare_loop(objective, iter(run.data.train_dataloader()), self.run_steps, schedule, clip)

    # A network so small that only the trainer shows

    def objective(self) -> CausalLM:
        """A layer of 16 over 64 tokens."""
        torch.manual_seed(0)
        backbone = Transformer(vocab_size=64, hidden_size=16, num_layers=1, num_heads=1, causal=True)
        return CausalLM(backbone)

    def batches(self) -> list[dict[str, Tensor]]:
        """Two samples of eight tokens, for every step the same."""
        ids = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(0))
        return [{"input_ids": ids[:, :-1], "labels": ids[:, 1:]}] * self.small_steps

    def bare_small_step(self) -> Step:
        """Forward, backward, optimizer, schedule."""
        objective, batches = self.objective().train(), self.batches()
        return lambda: _bare_loop(objective, iter(batches), self.small_steps, Cosine(warmup_steps=10))

    def small_step(self) -> Step:
        """Our callbacks, at an interval of 50 steps."""
        objective = self.objective()

        def step() -> Seconds:
            with tempfile.TemporaryDirectory() as directory:
                callbacks = [WarmupDecay(Cosine(warmup_steps=10)), RankZeroLogging(50, directory)]
                return _fit(self.trainer(directory, callbacks, logger=False), objective, self.loader())

        return step

    def lightning_step(self, log: bool) -> Step:
        """What the documentation of Lightning shows first."""
        from lightning.pytorch.callbacks import LearningRateMonitor
        from lightning.pytorch.loggers import CSVLogger

        module = _Usual(self.objective(), log)

        def step() -> Seconds:
            with tempfile.TemporaryDirectory() as directory:
                logger = CSVLogger(directory) if log else False
                callbacks: list[L.Callback] = [LearningRateMonitor("step")] if log else []
                return _fit(self.trainer(directory, callbacks, logger), module, self.loader())

        return step

    def loader(self) -> Any:
        """Batches as they are, without a worker."""
        return torch.utils.data.DataLoader(self.batches(), batch_size=None)  # type: ignore[arg-type]

    def trainer(self, directory: str, callbacks: Any, logger: Any) -> L.Trainer:
        """The same for all, and nothing that only shows something."""
        quiet_lightning()
        return L.Trainer(
            max_steps=self.small_steps,
            accelerator="cpu",
            callbacks=callbacks,
            logger=logger,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=Path(directory),
            log_every_n_steps=50,
        )


class _Usual(L.LightningModule):
    """A module as most are written."""

    def __init__(self, objective: CausalLM, log_loss: bool) -> None:
        super().__init__()
        self.objective = objective
        self.log_loss = log_loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        term = self.objective.losses(batch)["loss"]
        loss: Tensor = term.sum / term.count
        if self.log_loss:
            self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = self.objective.configure_optimizers()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _StepTimes(L.Callback):
    """When each batch began, which is a step with everything around it."""

    def __init__(self) -> None:
        self.marks: list[Seconds] = []

    def on_train_batch_start(self, *_: Any) -> None:
        """The end of one step and the start of the next."""
        self.marks.append(_now())


def _now() -> Seconds:
    return Seconds(time.perf_counter(), time.process_time())


def _per_step(marks: list[Seconds]) -> Seconds:
    """Mean over all steps but the first few: what is done every 50 steps counts too."""
    first, last, steps = marks[WARMUP_STEPS], marks[-1], len(marks) - 1 - WARMUP_STEPS
    return Seconds((last.wall - first.wall) / steps, (last.processor - first.processor) / steps)


def _fit(trainer: L.Trainer, module: L.LightningModule, data: Any) -> Seconds:
    times = _StepTimes()
    trainer.callbacks.append(times)  # type: ignore[attr-defined]
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, data)
    return _per_step(times.marks)


def _bare_loop(objective: Any, batches: Iterator[Any], steps: int, schedule: Any, clip: float | None = None) -> Seconds:
    optimizer, marks = objective.configure_optimizers(), []
    peaks = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        marks.append(_now())
        batch = next(batches)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule.factor(step, steps)
        term = objective.losses(batch)["loss"]
        loss = term.sum / term.count
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(objective.parameters(), clip)
        optimizer.step()
    return _per_step(marks)
