"""States of jobs come from the queue where there are no accounts, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lmmodules.sweep_states import JobStates, queue_watcher

submitit = pytest.importorskip("submitit", reason="needs the extra `sweep`")


def test_states_of_arrays_and_of_jobs() -> None:
    watcher = queue_watcher()
    assert watcher._make_command() is None, "nothing to ask for"
    for job in ("7_0", "7_2", "8", "9"):
        watcher._registered.add(job)
    command = watcher._make_command()
    assert command is not None
    assert command[0] == "squeue"
    watcher._info_dict = watcher.read_info("7_0|FAILED|node1\n7_[1-2]|PENDING|\n8|RUNNING|node2\n")
    states = {job: watcher.get_state(job, mode="cache") for job in ("7_0", "7_2", "8", "9")}
    assert states == {"7_0": "FAILED", "7_2": "PENDING", "8": "RUNNING", "9": "UNKNOWN"}
    assert [job for job in states if watcher.is_done(job, mode="cache")] == ["7_0"]


@pytest.mark.parametrize(
    ("launcher", "accounts", "asks_the_queue"),
    [("slurm", False, True), ("slurm", True, False), ("slurm", None, True), ("local", False, False)],
)
def test_who_is_asked(
    launcher: str, accounts: bool | None, asks_the_queue: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if accounts is not None:
        (tmp_path / "sacct").write_text(f"#!/bin/sh\nexit {0 if accounts else 1}\n")
        (tmp_path / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    before = submitit.SlurmJob.watcher
    monkeypatch.setattr(submitit.SlurmJob, "watcher", before)
    target = f"hydra_plugins.hydra_submitit_launcher.submitit_launcher.{launcher.title()}Launcher"
    JobStates().on_multirun_start(OmegaConf.create({"hydra": {"launcher": {"_target_": target}}}))
    assert (submitit.SlurmJob.watcher is not before) is asks_the_queue
