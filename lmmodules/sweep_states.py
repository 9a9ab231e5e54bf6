"""What became of the jobs of a sweep, where Slurm keeps no accounts."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from submitit.slurm.slurm import SlurmInfoWatcher

SECONDS = 60
"""Between two looks at the queue, which shows a job that has ended for `MinJobAge`, by default 300 seconds."""


class JobStates(Callback):
    """Ask the queue for the states of jobs where `sacct` cannot be asked.

    A job that ends without a result, because a process of it was killed, is otherwise waited for without an end.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Give submitit something else to ask, if jobs go to a Slurm without accounts."""
        if not str(config.hydra.launcher._target_).endswith(".SlurmLauncher") or has_accounts():
            return
        from submitit import SlurmJob

        SlurmJob.watcher = queue_watcher()


def has_accounts() -> bool:
    """Whether `sacct` answers here."""
    sacct = shutil.which("sacct")
    return (
        sacct is not None
        and subprocess.run([sacct, "--noheader", "--starttime=now"], capture_output=True).returncode == 0
    )


def queue_watcher() -> SlurmInfoWatcher:
    """What submitit asks for the states of jobs, by `squeue`."""
    from submitit.slurm.slurm import SlurmInfoWatcher

    class QueueWatcher(SlurmInfoWatcher):
        def _make_command(self) -> list[str] | None:
            # Not of certain jobs: it fails for one that is not known any more.
            queue = ["squeue", "--me", "--noheader", "--states=all", "--format=%i|%T|%N"]
            return queue if self._registered - self._finished else None

        def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
            lines = string if isinstance(string, str) else string.decode()
            read: dict[str, dict[str, str]] = super().read_info(f"JobID|State|NodeList\n{lines}")
            return read

    return QueueWatcher(delay_s=SECONDS)
