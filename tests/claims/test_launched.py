"""Runs that are started by the commands are kept, told and cleaned up like any other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import lmmodules.claims.launched
from lmmodules.claims.launched import LaunchedTrial, run_command
from lmmodules.run_directory import write_json
from lmmodules.trial import OUTCOME, Trial

SAID = "corpus: of shoes\nvocabulary: 300 tokens\nstep 1  loss 5.0\ntraining time: long\n"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was started, in place of starting it."""
    calls: list[dict[str, Any]] = []

    def run(name: str, *overrides: str, threads: int = 1) -> str:
        calls.append({"name": name, "overrides": overrides, "threads": threads})
        directory = Path(overrides[-1].removeprefix("paths.output_dir="))
        assert not directory.exists()
        directory.mkdir(parents=True)
        write_json(directory / "summary.json", {"parameters": 1234, "seconds": 2.5})
        write_json(directory / "environment.json", {"device": "a foot", "packages": {}})
        return SAID

    monkeypatch.setattr(lmmodules.claims.launched, "run_command", run)
    return calls


def test_a_finished_run_is_not_started_again(started: list[dict[str, Any]], tmp_path: Path) -> None:
    told: list[tuple[str, bool]] = []
    for _ in range(2):
        trial = Trial(tmp_path, ["max_steps=3"], 7, lambda arm, run: told.append((arm, run is not None)))
        run = LaunchedTrial.of(trial).launch("two of them", "strategy=ddp", "trainer.devices=2", threads=2)
        assert trial.runs == [run]
    (call,) = started
    assert (call["name"], call["threads"]) == ("train", 2)
    assert call["overrides"][:4] == ("max_steps=3", "strategy=ddp", "trainer.devices=2", "seed=7")
    assert told == [("two of them", False), ("two of them", True), ("two of them", True)]
    assert run.overrides == ["max_steps=3", "strategy=ddp", "trainer.devices=2"]
    assert run.seconds == 2.5
    assert run.outcome["environment"]["device"] == "a foot"
    assert run.outcome["facts"] == {
        "network": "1,234 parameters",
        "threads of a process": "2",
        "corpus": "of shoes",
        "vocabulary": "300 tokens",
    }


def test_a_turn_is_a_run_of_its_own_and_what_was_interrupted_is_gone(
    started: list[dict[str, Any]], tmp_path: Path
) -> None:
    launched = LaunchedTrial.of(Trial(tmp_path, ["max_steps=3"], 0))
    first, second = (launched.launch("arm", turn=turn) for turn in (0, 1))
    assert second.directory.name == f"{first.directory.name}-turn_1"
    (first.directory / OUTCOME).unlink()
    launched.launch("arm")
    assert len(started) == 3


def as_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Make `run_command("train", ...)` run a script in place of the command."""
    file = tmp_path / "script.py"
    file.write_text(script)
    starter = tmp_path / "python"
    starter.write_text(f'#!/bin/sh\nexec {sys.executable} {file} "$@"\n')
    starter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(starter))


def test_nobody_else_started_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    as_command(monkeypatch, tmp_path, "import json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))")
    for name in ("RANK", "LOCAL_RANK", "SLURM_NTASKS", "TORCHELASTIC_RUN_ID", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("LMM_SHOES", "two")
    arguments, environment = json.loads(run_command("train", "max_steps=3", threads=2))
    assert arguments == ["-m", "lmmodules.train", "max_steps=3"]
    assert not {name for name in environment if name.startswith(("RANK", "LOCAL_", "SLURM_", "TORCHEL", "MASTER_"))}
    assert (environment["OMP_NUM_THREADS"], environment["LMM_SHOES"]) == ("2", "two")


def test_a_command_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    as_command(monkeypatch, tmp_path, "import sys\nsys.exit('lmm-train: `max_steps` is no shoe')")
    with pytest.raises(RuntimeError, match=r"lmm-train max_steps=x ended with code 1:\nlmm-train: `max_steps` is no"):
        run_command("train", "max_steps=x")


def test_whoever_is_interrupted_leaves_no_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    as_command(
        monkeypatch, tmp_path, f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    )

    # A process that a shell started in the background ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    communicate, listening = subprocess.Popen.communicate, threading.Event()

    def listen(process: subprocess.Popen[str]) -> tuple[str, str]:
        listening.set()
        return communicate(process)

    monkeypatch.setattr(subprocess.Popen, "communicate", listen)

    def interrupt() -> None:
        listening.wait()
        while not (pid.is_file() and pid.read_text()):
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_command("train")
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
