"""Sweeps and preemption on a real scheduler."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lmmodules import load
from lmmodules.callbacks import read_metrics

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

Submit = Callable[..., "subprocess.CompletedProcess[str]"]

TWO_RANKS = ["strategy=ddp", "trainer.devices=2"]
SLURM = ["hydra/launcher=slurm", "paths.sweep_dir=sweep"]


def losses(directory: Path, metric: str = "train/loss") -> dict[float, float]:
    return {row["step"]: row[metric] for row in read_metrics(directory / "metrics.csv") if metric in row}


def test_a_sweep_of_jobs_of_two_processes(submit: Submit, train: list[str], tiny: list[str], tmp_path: Path) -> None:
    swept = submit(*train, "-m", *tiny, *TWO_RANKS, *SLURM, "max_steps=4", "optimizer.lr=1e-3,1e-2", "seed=0,1")
    assert swept.returncode == 0, swept.stderr
    print(swept.stdout, swept.stderr)
    rates = {}
    for trial in range(4):
        directory = tmp_path / "sweep" / str(trial)
        summary = json.loads((directory / "summary.json").read_text())
        assert summary["steps"] == 4
        assert summary["tokens"] == 4 * 2 * 4 * 32, "both ranks had data of their own"
        rates[trial] = max(losses(directory, "lr").values())
    assert [rates[trial] > 5e-3 for trial in range(4)] == [False, False, True, True]
    # A trial is the run that one process makes of the same samples.
    one = submit(
        *train, *tiny, "data.batch_size=8", "max_steps=4", "optimizer.lr=1e-2", "seed=1", "paths.output_dir=one"
    )
    assert one.returncode == 0, one.stderr
    assert losses(tmp_path / "sweep/3") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)


@pytest.mark.parametrize("launcher", ["slurm", "srun"])
def test_a_preempted_job_ends_with_the_weights_of_an_unbroken_one(
    launcher: str, submit: Submit, slurm: dict[str, str], train: list[str], tiny: list[str], tmp_path: Path
) -> None:
    run = [*tiny, *TWO_RANKS, "max_steps=400", "validate_every_steps=100", "checkpoint_every_steps=1000",
           "model.dropout=0.1", "model.attention_dropout=0.1"]  # fmt: skip
    whole = submit(*train, *run, "paths.output_dir=whole")
    assert whole.returncode == 0, whole.stderr
    if launcher == "slurm":
        command = [*train, "-m", *run, *SLURM, "seed=0"]
        directory = tmp_path / "sweep/0"
        signal_name = "USR2"
    else:
        script = tmp_path / "job.sh"
        script.write_text(f"#!/bin/bash\nsrun {' '.join(train + run)} paths.output_dir=run\n")
        command = ["sbatch", "--wait", "--ntasks-per-node=2", "--nodes=1", "--requeue", "--open-mode=append",
                   "--job-name=preempted", f"--output={tmp_path}/job.log", str(script)]  # fmt: skip
        directory = tmp_path / "run"
        signal_name = "USR1"
    with subprocess.Popen(
        command, cwd=tmp_path, env=slurm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            end = time.monotonic() + 120
            while len(losses(directory)) < 20:
                assert time.monotonic() < end, submit("squeue").stdout
                time.sleep(0.1)
            job = submit("squeue", "-h", "-o", "%A").stdout.split()[0]
            sent = submit("scancel", f"--signal={signal_name}", job)
            assert sent.returncode == 0, sent.stderr
            output = process.communicate(timeout=200)[0]
        finally:
            process.kill()
    assert process.returncode == 0, output
    logs = output + "".join(
        path.read_text() for path in [*tmp_path.glob("sweep/.jobs/*.err"), *tmp_path.glob("job.log")]
    )
    saved = re.findall(r"preempted: saved at step (\d+), and job \S+ goes back into the queue", logs)
    assert len(saved) == 1, logs
    print("\n".join(line for line in logs.splitlines() if re.search(r"preempted|requeue|stopped|REQUEUE", line)))
    assert "stopped at step" not in logs, "the job goes on by itself"
    assert "`srun` command is available" not in logs
    assert 20 <= int(saved[0]) < 400
    weights = [load(path).state_dict() for path in (tmp_path / "whole", directory)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert losses(directory) == pytest.approx(losses(tmp_path / "whole"), abs=1e-6), "every step once"
    assert losses(directory, "val/loss") == pytest.approx(losses(tmp_path / "whole", "val/loss"), abs=1e-6)


def test_a_job_that_crashes_ends_the_sweep_with_its_error(
    submit: Submit, train: list[str], tiny: list[str], tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text(
        "import os, lightning as L\n"
        "class Broken(L.Callback):\n"
        "    def on_train_batch_end(self, trainer, *_):\n"
        "        if trainer.global_rank == 1 and trainer.global_step == 3:\n"
        "            raise RuntimeError('the disk of rank one is gone')\n"
    )
    began = time.monotonic()
    swept = submit(
        "env", f"PYTHONPATH={tmp_path}:{Path(__file__).parents[2]}",
        *train, "-m", *tiny, *TWO_RANKS, *SLURM, "max_steps=2000", "seed=0", "+callbacks.broken._target_=broken.Broken",
        timeout=120,
    )  # fmt: skip
    assert swept.returncode == 1, swept.stderr
    assert "RuntimeError: the disk of rank one is gone" in swept.stderr
    assert "broken.py" in swept.stderr, "with its traceback"
    assert "the disk of rank one is gone" in (tmp_path / "sweep/0/error.txt").read_text()
    print(f"{time.monotonic() - began:.0f} s")
    print(swept.stderr[-3000:])


def test_a_job_that_is_killed_ends_the_sweep(submit: Submit, train: list[str], tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "import os, signal, lightning as L\n"
        "class Killed(L.Callback):\n"
        "    def on_train_batch_end(self, trainer, *_):\n"
        "        if trainer.global_step == 3:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    swept = submit(
        "env", f"PYTHONPATH={tmp_path}:{Path(__file__).parents[2]}",
        *train, "-m", *tiny, *SLURM, "max_steps=2000", "seed=0", "+callbacks.broken._target_=broken.Killed",
        timeout=200,
    )  # fmt: skip
    assert swept.returncode == 1, swept.stderr
    assert "has not produced any output (state: FAILED)" in swept.stderr, swept.stderr
    assert "Bypassing sacct error" not in swept.stderr


def test_wrong_input_of_a_trial_is_one_sentence(submit: Submit, train: list[str], tiny: list[str]) -> None:
    swept = submit(*train, "-m", *tiny, *TWO_RANKS, *SLURM, "max_steps=2", "hydra.launcher.tasks_per_node=1", "seed=0")
    assert swept.returncode == 2, swept.stderr
    assert "started (1), but is 2; use `hydra.launcher.tasks_per_node=2`" in swept.stderr
    assert "Traceback" not in swept.stderr
