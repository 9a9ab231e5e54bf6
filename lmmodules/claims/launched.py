"""Runs of several processes, started as a person starts them: each by the commands, in processes of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lmmodules.run_directory import write_json, write_text
from lmmodules.trial import OUTCOME, UNSEEN, FinishedRun, Trial

if TYPE_CHECKING:
    from torch import Tensor

FOREIGN = ("RANK", "WORLD_SIZE", "LOCAL_", "NODE_RANK", "GROUP_RANK", "MASTER_", "SLURM_", "TORCHELASTIC_", "PL_")
"""How variables begin that tell a process that somebody else started it as one of several."""
SAID = "said.txt"
WEIGHTS = "model.safetensors"
TOLD_LINES = ("corpus", "vocabulary", "training", "validation")
"""What `lmm-train` says of its data before it begins, one fact a line."""


class LaunchedTrial(Trial):
    """Trains runs by the commands, which may take several processes, each run once."""

    @classmethod
    def of(cls, trial: Trial) -> LaunchedTrial:
        """Go on where a trial is: the same directory, overrides and seed, and one list of runs.

        Args:
            trial: Of the seed that is measured.
        """
        launched = cls(trial.directory, trial.overrides, trial.seed, trial.tell)
        launched.runs = trial.runs
        return launched

    def launch(self, arm: str, *overrides: str, threads: int = 1, turn: int = 0) -> FinishedRun:
        """Train a run by `lmm-train`, unless it is finished.

        Args:
            arm: Name of the run within the claim.
            *overrides: What it does not share with the others.
            threads: Of each process.
            turn: Which of several trainings of the same run this is.

        Raises:
            RuntimeError: When the command fails; it ends with what was said last.
        """
        asked = (*self.overrides, *overrides, f"seed={self.seed}")
        directory = self.directory_of(arm, asked)
        directory = directory.with_name(f"{directory.name}{f'-turn_{turn}' if turn else ''}")

        def train() -> None:
            shutil.rmtree(directory, ignore_errors=True)  # of a run that was interrupted
            said = run_command("train", *asked, *UNSEEN, f"paths.output_dir={directory}", threads=threads)
            write_text(directory / SAID, said)
            write_json(directory / OUTCOME, _outcome(asked, directory, said, threads))

        return self.finished(arm, directory, self.directory, train)  # the run keeps its own


def run_command(name: str, *overrides: str, threads: int = 1) -> str:
    """Run a command of the package as if nobody else had started this process.

    Args:
        name: For example `train`, for `lmm-train`.
        *overrides: As on the command line.
        threads: Of each of its processes.

    Returns:
        What it said.

    Raises:
        RuntimeError: When it fails; it ends with what was said last.
    """
    environment = {variable: value for variable, value in os.environ.items() if not variable.startswith(FOREIGN)}
    process = subprocess.Popen(
        [sys.executable, "-m", f"lmmodules.{name}", *overrides],
        env=environment | {"OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # a session of its own: all ranks, and nobody else
        process.wait()
        raise
    if process.returncode:
        raise RuntimeError(f"lmm-{name} {' '.join(overrides)} ended with code {process.returncode}:\n{said[-4000:]}")
    return said


def trained_weights(run: FinishedRun) -> dict[str, Tensor]:
    """The weights of a run, by name: gathered by `lmm-export` into one file, once, in place of its checkpoints.

    Args:
        run: That was launched.
    """
    from safetensors.torch import load_file

    file = run.directory / WEIGHTS
    if not file.is_file():
        run_command("export", f"checkpoint={run.directory}", f"output={file}")
        shutil.rmtree(run.directory / "checkpoints")
    return load_file(file)


def _outcome(overrides: tuple[str, ...], directory: Path, said: str, threads: int) -> dict[str, object]:
    """What `Trial` keeps of a run, from what the command has left."""
    summary = json.loads((directory / "summary.json").read_text())
    told = dict(line.split(": ", 1) for line in said.splitlines() if line.startswith(TOLD_LINES) and ": " in line)
    facts = {"network": f"{summary['parameters']:,} parameters", "threads of a process": str(threads)}
    return {
        "overrides": list(overrides),
        "diverged": "",
        "seconds": summary["seconds"],
        "facts": facts | {name: told[name] for name in TOLD_LINES if name in told},
        "environment": json.loads((directory / "environment.json").read_text()),
    }
