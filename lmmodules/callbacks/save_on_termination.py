"""A run that is told to stop, or to make way, leaves its last step behind."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

log = logging.getLogger(__name__)

NOTHING, STOP, REQUEUE = 0, 1, 2
"""What a signal asks for; the greatest over all ranks is done."""


class SaveOnTermination(Callback):
    """Write `last.ckpt` when the training is told to end, at a step that all ranks agree on.

    A signal reaches each rank at another moment, or only one of them, so its handler only makes a note. After every
    optimizer step the ranks compare their notes, without waiting: what was sent after one step is looked at after the
    next. When one of them has a note, all save, which for a sharded model is collective, and end. A step that is
    followed by validation, and the last one, are left to finish.

    SIGTERM ends the run. SIGUSR1 and SIGUSR2 are what schedulers send before they take a machine away
    (`sbatch --signal=SIGUSR1@90`, submitit): in a job of Slurm, rank zero puts the job back in the queue, and
    the same command goes on from the checkpoint when it is started again. An interruption from the keyboard
    may come in the middle of a step and writes nothing.

    Args:
        directory: Where the checkpoint is written.

    Differences:
        Lightning's own requeue saves inside the signal handler, wherever each rank happens to be.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.requeued = False
        """Whether the run ended because its job went back into the queue."""
        self._note = NOTHING
        self._last_step = 0
        self._group: dist.ProcessGroup | None = None
        self._sent: tuple[torch.Tensor, dist.Work] | None = None
        self._earlier: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen, in place of Lightning, whose handler of SIGTERM talks to the other ranks in the middle of a step."""
        self._note, self._sent, self._last_step = NOTHING, None, trainer.global_step
        if trainer.world_size > 1:
            # On the processor, so that no rank waits for a GPU.
            self._group = dist.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            wishes = {signal.SIGTERM: STOP}
            if "SLURM_JOB_ID" in os.environ:
                wishes |= {signal.SIGUSR1: REQUEUE, signal.SIGUSR2: REQUEUE}
            for number, wish in wishes.items():
                self._earlier[number] = signal.signal(number, self._noting(wish))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen no longer."""
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Listen no longer."""
        self._restore()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare notes, and act on them.

        Raises:
            SIGTERMException: When a rank was told to end, after the checkpoint is written.
        """
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        wish = self._agreed()
        if wish == NOTHING or step >= trainer.max_steps >= 0:
            return
        every = trainer.val_check_batch
        if every and (trainer.fit_loop.total_batch_idx + 1) % every == 0:  # validation comes first
            self._note = max(self._note, wish)
            return
        trainer.save_checkpoint(self.directory / "last.ckpt")
        if wish == REQUEUE:
            if trainer.is_global_zero:
                self.requeued = requeue(step)
            trainer.strategy.barrier()  # none may end before the job is back in the queue
        raise SIGTERMException

    def _agreed(self) -> int:
        """What the ranks wished for one step ago, the greatest first; of a single process, what it wishes now."""
        if self._group is None:
            return self._note
        wish = NOTHING
        if self._sent is not None:
            notes, work = self._sent
            work.wait()
            wish = int(notes)
        notes = torch.tensor(self._note)
        work = dist.all_reduce(notes, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._sent = notes, work
        return wish

    def _noting(self, wish: int) -> Any:
        def note(signum: int, frame: FrameType | None) -> None:
            self._note = max(self._note, wish)

        return note

    def _restore(self) -> None:
        self._sent = None
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier = {}


def requeue(step: int) -> bool:
    """Put this job of Slurm back in the queue.

    Args:
        step: Told in the log.

    Returns:
        Whether Slurm took it.
    """
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    log.warning(f"preempted: saved at step {step}, and job {job} goes back into the queue")
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        answer = getattr(error, "stderr", None) or error
        log.error(f"job {job} could not be put back into the queue: {str(answer).strip()}")
        return False
    return True
