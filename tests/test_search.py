"""A search over learning rates by Optuna: each trial is a run of its own, and the study is kept."""

from __future__ import annotations

import csv
import json
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra `optuna`")

pytestmark = pytest.mark.slow

Command = Callable[..., "subprocess.CompletedProcess[str]"]

SEARCH = [
    "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_jobs=1", "hydra.sweeper.storage=sqlite:///study.db",
    "hydra.sweeper.study_name=rates", "optimizer.lr=tag(log,interval(1e-4,1e-1))", "max_steps=3",
]  # fmt: skip


def rates_of_study(path: Path) -> list[float]:
    with sqlite3.connect(path) as study:
        return sorted(value for (value,) in study.execute("select param_value from trial_params"))


def test_the_best_trial_is_that_of_the_table_and_the_study_goes_on(
    command: Command, tiny: list[str], tmp_path: Path
) -> None:
    searched = command("train", *SEARCH, *tiny, "hydra.sweeper.n_trials=3", "paths.sweep_dir=sweep")
    assert searched.returncode == 0, searched.stderr
    losses = {trial: json.loads((tmp_path / f"sweep/{trial}/summary.json").read_text())["val_loss"] for trial in "012"}
    best = OmegaConf.load(tmp_path / "sweep/optimization_results.yaml")
    assert best.best_value == pytest.approx(min(losses.values()))

    compared = command("compare", "sweep")
    assert compared.returncode == 0, compared.stderr
    with (tmp_path / "sweep/comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == sorted(losses, key=losses.__getitem__)
    assert float(rows[0]["optimizer.lr"]) == pytest.approx(best.best_params["optimizer.lr"])
    before = rates_of_study(tmp_path / "study.db")
    assert before == pytest.approx(sorted(float(row["optimizer.lr"]) for row in rows))

    more = command("train", *SEARCH, *tiny, "hydra.sweeper.n_trials=1", "paths.sweep_dir=more")
    assert more.returncode == 0, more.stderr
    assert set(before) < set(rates_of_study(tmp_path / "study.db"))


def test_a_trial_of_two_processes_is_refused(command: Command, tiny: list[str], tmp_path: Path) -> None:
    refused = command(
        "train", *SEARCH, *tiny, "hydra.sweeper.n_trials=2", "strategy=ddp", "trainer.devices=2", "paths.sweep_dir=two"
    )
    assert refused.returncode == 2
    assert "a trial of this sweep runs in one process, but `trainer.devices=2` needs 2" in refused.stderr
    assert not list(tmp_path.glob("two/*/checkpoints"))
