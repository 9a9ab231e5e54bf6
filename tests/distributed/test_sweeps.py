"""Sweeps without a scheduler: trials of several processes where each gets its own, and a refusal where none does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lmmodules import load
from lmmodules.callbacks import read_metrics

Command = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

STEPS = 4


def values(directory: Path, metric: str) -> dict[float, float]:
    return {row["step"]: row[metric] for row in read_metrics(directory / "metrics.csv") if metric in row}


def test_trials_of_two_processes_are_the_runs_of_one(command: Command, tiny: list[str], tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra `sweep`")
    swept = command(
        "train", "-m", *tiny, "hydra/launcher=local", "hydra.sweeper.max_batch_size=2", "strategy=ddp",
        "trainer.devices=2", "data.batch_size=2", f"max_steps={STEPS}", "optimizer.lr=1e-3,1e-2", "seed=0,1",
        "paths.sweep_dir=sweep",
    )  # fmt: skip
    assert swept.returncode == 0, swept.stderr
    found = {}
    for trial in range(4):
        directory = tmp_path / "sweep" / str(trial)
        assert json.loads((directory / "summary.json").read_text())["tokens"] == STEPS * 4 * 32, "no sample twice"
        found[trial] = values(directory, "train/loss")
        assert (max(values(directory, "lr").values()) > 5e-3) == (trial >= 2)
    assert len({tuple(losses.values()) for losses in found.values()}) == 4
    one = command(
        "train", *tiny, "data.batch_size=4", f"max_steps={STEPS}", "optimizer.lr=1e-2", "seed=1",
        "paths.output_dir=one",
    )  # fmt: skip
    assert one.returncode == 0, one.stderr
    assert found[3] == pytest.approx(values(tmp_path / "one", "train/loss"), abs=1e-5)
    weights = [load(tmp_path / name).state_dict() for name in ("sweep/3", "one")]
    assert all((weights[0][name] - tensor).abs().max() < 1e-4 for name, tensor in weights[1].items())


def test_joblib_trains_trials_of_one_process_and_refuses_others(
    command: Command, tiny: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra `sweep`")
    sweep = ["-m", *tiny, "hydra/launcher=joblib", f"max_steps={STEPS}", "seed=0,1"]
    refused = command("train", *sweep, "strategy=ddp", "trainer.devices=2", "paths.sweep_dir=refused")
    assert refused.returncode == 2, refused.stderr
    assert "a trial of this sweep runs in one process, but `trainer.devices=2` needs 2" in refused.stderr
    assert not list(tmp_path.glob("refused/*/checkpoints"))
    swept = command("train", *sweep, "hydra.launcher.n_jobs=2", "paths.sweep_dir=sweep")
    assert swept.returncode == 0, swept.stderr
    one = command("train", *tiny, f"max_steps={STEPS}", "seed=1", "paths.output_dir=one")
    assert one.returncode == 0, one.stderr
    assert values(tmp_path / "sweep/1", "train/loss") == values(tmp_path / "one", "train/loss")
    weights = [load(tmp_path / name).state_dict() for name in ("sweep/1", "one")]
    assert all(torch.equal(weights[0][name], tensor) for name, tensor in weights[1].items())
