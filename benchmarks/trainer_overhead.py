"""What a training step costs in `lmm-train` beside a bare PyTorch loop over the same modules.

    python -m benchmarks.trainer_overhead [overrides of lmm-train ...]

Both train the same objective on the same data with the same optimizer, learning-rate schedule and gradient clipping,
in one process, in turns. The run of `lmm-train` has all its callbacks: schedule, log, throughput, progress. The ratio
of each round is that of its two neighbours in time, so a slow spell of the machine meets both.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import tempfile
import time
from typing import Any

import lightning as L
import torch

from lmmodules.composition import compose_config
from lmmodules.train import Run, assemble, build_trainer

ROUNDS = 7
STEPS = 24
WARMUP_STEPS = 4


class StepTimes(L.Callback):
    """Wall and processor time from one batch to the next, which is a step with everything around it."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def on_train_batch_start(self, *_: Any) -> None:
        """Mark the end of one step and the start of the next."""
        self.marks.append((time.perf_counter(), time.process_time()))


def per_step(marks: list[tuple[float, float]]) -> tuple[float, float]:
    """Median seconds between two marks, wall and processor, after the first few."""
    pairs = list(zip(marks[WARMUP_STEPS:], marks[WARMUP_STEPS + 1 :], strict=False))
    return tuple(statistics.median(later[i] - earlier[i] for earlier, later in pairs) for i in (0, 1))  # type: ignore[return-value]


def in_trainer(run: Run) -> tuple[float, float]:
    """A round under `lightning.Trainer`, as `lmm-train` builds it."""
    trainer = build_trainer(run.config, run.data)
    times = StepTimes()
    trainer.callbacks.append(times)  # type: ignore[attr-defined]
    trainer.limit_val_batches = 0
    with contextlib.redirect_stderr(io.StringIO()):
        trainer.fit(run.objective, run.data)
    return per_step(times.marks)


def bare(run: Run) -> tuple[float, float]:
    """A round of a loop that anybody would write."""
    objective, marks = run.objective.train(), []
    optimizer = objective.configure_optimizers()
    schedule = next(callback.schedule for callback in run.trainer.callbacks if hasattr(callback, "schedule"))  # type: ignore[attr-defined]
    peaks = [group["lr"] for group in optimizer.param_groups]
    batches = iter(run.data.train_dataloader())
    for step in range(STEPS):
        marks.append((time.perf_counter(), time.process_time()))
        batch = next(batches)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule.factor(step, STEPS)
        term = objective.losses(batch)["loss"]
        loss = term.sum / term.count
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), run.config.trainer.gradient_clip_val)
        optimizer.step()
    return per_step(marks)


def main() -> None:
    overrides = sys.argv[1:] or ["experiment=start_here"]
    with tempfile.TemporaryDirectory() as directory:
        # No checkpoints and no validation: the loop it is compared with has none either.
        own = [f"max_steps={STEPS}", f"paths.output_dir={directory}", "~callbacks.best", "~callbacks.last",
               f"trainer.val_check_interval={STEPS * 1000}", "+trainer.enable_checkpointing=false"]  # fmt: skip
        config = compose_config("train", *overrides, *own)
        run = assemble(config)
        rounds = []
        for number in range(ROUNDS):
            first, second = (in_trainer, bare) if number % 2 else (bare, in_trainer)
            results = {first: first(run), second: second(run)}
            rounds.append((results[in_trainer], results[bare]))
            (ours, ours_processor), (loop, loop_processor) = rounds[-1]
            print(
                f"round {number + 1}: lmm-train {ours * 1e3:.2f} ms, bare loop {loop * 1e3:.2f} ms, "
                f"ratio {ours / loop:.4f} (processor time {ours_processor / loop_processor:.4f})",
                flush=True,
            )
    for i, name in enumerate(("wall time", "processor time")):
        ratios = sorted(trainer[i] / loop[i] for trainer, loop in rounds)
        print(f"{name}: median ratio {statistics.median(ratios):.4f}, from {ratios[0]:.4f} to {ratios[-1]:.4f}")
    print(f"{sum(p.numel() for p in run.objective.parameters()):,} parameters, torch {torch.__version__}, "
          f"lightning {L.__version__}, {torch.get_num_threads()} threads")  # fmt: skip


if __name__ == "__main__":
    main()
