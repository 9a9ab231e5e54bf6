"""The learning rate: a pure function of the optimizer step, written by one callback."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from lmmodules.errors import InputError
from lmmodules.optim.schedules import Schedule


class WarmupDecay(Callback):
    """Write the learning rate of every optimizer step into every parameter group.

    A group gets its own configured rate times `schedule.factor(step, max_steps)`, so layer-wise rates keep their
    proportions. The step is the trainer's count of optimizer steps: gradient accumulation does not stretch the
    schedule, and nothing needs to be saved. A resumed run continues as if it had never stopped, and a changed learning
    rate or length takes effect from the step at which it resumes.

    The rate is in place before a batch starts, and stays there until the next one: whatever reads
    `optimizer.param_groups` while or after a batch is processed sees the rate of the update of that batch.
    `LearningRateMonitor` reads when the batch starts, so it must stand behind this callback in the trainer's list.

    Under manual optimization with several optimizers the trainer's step, and its `max_steps`, count the steps of all
    of them; both are divided by the number of optimizers here, which is right where they take turns. An explicit
    `max_steps` counts the steps of one optimizer. When the scaler of 16-bit training skips an update because of an
    overflow, the step counts nevertheless.

    Args:
        schedule: The curve.
        max_steps: Length of the run in optimizer steps; by default the trainer's.
    """

    def __init__(self, schedule: Schedule, max_steps: int | None = None) -> None:
        self.schedule = schedule
        self.max_steps = max_steps
        self.current_factor = 0.0
        """Share of the peak at which the latest update was made, or the running one will be."""
        self.current_lr = 0.0
        """Largest learning rate among the parameter groups at that update."""
        self._configured: list[list[float]] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the configured learning rates, before a checkpoint replaces them with those it was written at.

        Raises:
            InputError: If the length of the run is unknown, the warmup does not fit into it, or a scheduler of the
                module would write the learning rate as well.
        """
        if trainer.lr_scheduler_configs:
            names = ", ".join(type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs)
            raise InputError(
                f"`configure_optimizers` must not return a scheduler beside `WarmupDecay`, but returned {names}; "
                "leave out one of the two, for example with `~callbacks.warmup_decay`"
            )
        self.schedule.factor(0, self._horizon(trainer))
        self._configured = [
            [group.setdefault("initial_lr", float(group["lr"])) for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the configured learning rates back in place of those of the checkpoint, and the first step's in force."""
        for optimizer, rates in zip(trainer.optimizers, self._configured, strict=True):
            # Not strict: a callback that unfreezes layers may have added groups since.
            for group, rate in zip(optimizer.param_groups, rates, strict=False):
                group["initial_lr"] = rate
        self._write(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the rate of the update that this batch belongs to."""
        self._write(trainer)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Set it again under manual optimization, where one batch may make several updates."""
        if not pl_module.automatic_optimization:
            self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        step = trainer.global_step // max(1, len(trainer.optimizers))
        self.current_factor = self.schedule.factor(step, self._horizon(trainer))
        self.current_lr = 0.0
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                # A group that was added in the middle of a run has no configured rate yet.
                rate = group.setdefault("initial_lr", float(group["lr"])) * self.current_factor
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
                self.current_lr = max(self.current_lr, rate)

    def _horizon(self, trainer: L.Trainer) -> int:
        if self.max_steps is not None:
            return self.max_steps
        if trainer.max_steps < 1:
            raise InputError(
                f"`max_steps` must be known for the learning rate to decay, but the trainer's is {trainer.max_steps}; "
                "use `max_steps=10000`, or `WarmupDecay(schedule, max_steps=10000)`"
            )
        return trainer.max_steps // max(1, len(trainer.optimizers))
