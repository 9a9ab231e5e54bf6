"""One voice: every line once, every warning once, and a rank that dies is heard at once."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lmmodules.launch import PORTS, free_port

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

PARTS = """
import os, signal, time, warnings
import lightning as L
import torch.distributed as dist


class Warns(L.Callback):
    def on_train_start(self, trainer, module):
        if trainer.global_rank == trainer.world_size - 1:
            warnings.warn("the last rank alone")
        warnings.warn("every rank")


class Dies(L.Callback):
    def __init__(self, rank, how="raises"):
        self.rank, self.how = rank, how

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 3 and trainer.global_rank == self.rank:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError(f"the disk of rank {self.rank} is gone")


class Waits(L.Callback):
    def on_train_batch_end(self, *_):
        time.sleep(0.02)


class Counts(L.Callback):
    def on_train_start(self, trainer, module):
        self.calls, reduce = [], dist.all_reduce
        def counted(tensor, *arguments, **options):
            self.calls.append(tensor.numel())
            return reduce(tensor, *arguments, **options)
        dist.all_reduce = counted

    def on_train_end(self, trainer, module):
        if trainer.is_global_zero:
            print("collectives", *self.calls)
"""


def environment(folder: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
        and not name.startswith(("SLURM_", "TORCHELASTIC_", "PL_", "HYDRA_"))
    }
    return kept | {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}


def launch(folder: Path, starter: str, processes: int, *overrides: str, timeout: float = 120) -> tuple[int, str, str]:
    (folder / "parts.py").write_text(PARTS)
    command = [sys.executable]
    if starter == "torchrun":
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={free_port()}"]
    command += ["-m", "lmmodules.train", *overrides, f"trainer.devices={processes}", "paths.output_dir=run"]
    command += ["strategy=ddp"] if processes > 1 else []
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("starter", "processes"), [("lightning", 1), ("lightning", 2), ("lightning", 4), ("torchrun", 2)]
)
def test_every_line_and_every_warning_once(starter: str, processes: int, tiny: list[str], tmp_path: Path) -> None:
    parts = [f"+callbacks.{name}._target_=parts.{name.title()}" for name in ("warns", "counts")]
    code, out, err = launch(tmp_path, starter, processes, *tiny, "max_steps=4", "log_every_steps=2", *parts)
    assert code == 0, err
    lines = [line for line in err.splitlines() if line.startswith(("step ", "corpus", "vocabulary", "training:"))]
    assert len(lines) == len(set(lines)) == 3 + 2 + 1
    assert out.count("validation perplexity") == 1
    for warning in ("the last rank alone", "every rank"):
        assert err.count(f"UserWarning: {warning}") == 1, err
    if processes > 1:
        assert "the last rank alone" in (tmp_path / "run/warnings.txt").read_text()
        # One number per batch for the count of targets and one per step for signals; all losses of each of the two
        # intervals together, and those of the validation.
        sizes = [int(size) for size in re.findall(r"collectives (.*)", out)[0].split()]
        assert len([size for size in sizes if size > 1]) == 3, sizes


@pytest.mark.parametrize("starter", ["lightning", "torchrun"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_ends_the_run_with_its_traceback(
    starter: str, rank: int, tiny: list[str], tmp_path: Path
) -> None:
    parts = ["+callbacks.dies._target_=parts.Dies", f"+callbacks.dies.rank={rank}"]
    code, _, err = launch(tmp_path, starter, 2, *tiny, "max_steps=100000", *parts)  # hours, if it went on
    assert code != 0
    assert f"RuntimeError: the disk of rank {rank} is gone" in err
    assert "parts.py" in err


def test_ranks_meet_at_the_port_that_was_given_or_at_one_that_nobody_is_lent(tiny: list[str], tmp_path: Path) -> None:
    asks = """
import os
import lightning as L

class Port(L.Callback):
    def on_train_start(self, trainer, module):
        open(f"port_{trainer.global_rank}", "w").write(os.environ["MASTER_PORT"])
"""
    (tmp_path / "asks.py").write_text(asks)
    overrides = [*tiny, "max_steps=2", "+callbacks.port._target_=asks.Port"]
    code, _, err = launch(tmp_path, "lightning", 2, *overrides)
    assert code == 0, err
    chosen = [int((tmp_path / f"port_{rank}").read_text()) for rank in (0, 1)]
    assert chosen[0] == chosen[1]
    assert chosen[0] in PORTS
    given = free_port()
    command = [sys.executable, "-m", "lmmodules.train", *overrides, "trainer.devices=2", "strategy=ddp"]
    told = environment(tmp_path) | {"MASTER_PORT": str(given)}
    done = subprocess.run(
        [*command, "paths.output_dir=given"], cwd=tmp_path, env=told, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert [int((tmp_path / f"port_{rank}").read_text()) for rank in (0, 1)] == [given, given]


@pytest.mark.parametrize("starter", ["lightning", "torchrun"])
def test_a_rank_that_is_killed_ends_the_run(starter: str, tiny: list[str], tmp_path: Path) -> None:
    parts = ["+callbacks.dies._target_=parts.Dies", "+callbacks.dies.rank=1", "+callbacks.dies.how=killed"]
    code, _, err = launch(tmp_path, starter, 2, *tiny, "max_steps=100000", *parts)
    assert code != 0, err


def test_ranks_stop_at_the_same_step_when_one_is_told_to(tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text(PARTS)
    command = [
        sys.executable, "-m", "lmmodules.train", *tiny, "strategy=ddp", "trainer.devices=2", "max_steps=100000",
        "checkpoint_every_steps=100000", "paths.output_dir=run", "+callbacks.waits._target_=parts.Waits",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step     10/"):
                process.send_signal(signal.SIGTERM)
                break
        end = time.monotonic() + 60
        rest = process.stderr.read()
        process.wait(timeout=max(1.0, end - time.monotonic()))
    assert process.returncode == 143, rest
    stopped = re.findall(r"stopped at step (\d+) of 100000: go on with `resume=", rest)
    assert len(stopped) == 1, rest
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert saved == int(stopped[0])
    assert "Traceback" not in rest


def test_processes_from_outside_must_be_those_of_the_run(tiny: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lmmodules.train"]
    outside = environment(tmp_path) | {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    wrong = {
        "that torchrun started (2), but is 1; use `trainer.devices=2`": [],
        "`paths.output_dir` must be given where torchrun starts": ["strategy=ddp", "trainer.devices=2"],
        "a sweep must not be started by torchrun, whose 2 processes": ["-m", "seed=0,1"],
    }
    for sentence, overrides in wrong.items():
        done = subprocess.run(
            [*command, *overrides, *tiny, "max_steps=2"],
            cwd=tmp_path,
            env=outside,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2, done.stderr
        assert sentence in done.stderr
    batch_script = environment(tmp_path) | {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train"}
    command += [*tiny, "max_steps=2"]
    done = subprocess.run(command, cwd=tmp_path, env=batch_script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "put `srun` before the command" in done.stderr


@pytest.mark.parametrize(
    ("override", "name"),
    [("seed='${oc.decode:${oc.env:RANK}}'", "seed"), ("data.path=${oc.env:TEXTS}/${oc.env:RANK}.txt", "data")],
)
def test_ranks_that_were_told_different_things_are_refused(
    override: str, name: str, tiny: list[str], texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXTS", str(texts))
    code, _, err = launch(tmp_path, "torchrun", 2, *tiny, "max_steps=4", override)
    assert code != 0
    said = f"lmm-train: `{name}` must be the same on all ranks, but differs between rank 0 and rank 1"
    assert err.count(said) == 1, err
    assert not (tmp_path / "run/checkpoints").exists()


def test_what_only_one_rank_finds_wrong_is_told_by_it(tiny: list[str], texts: Path, tmp_path: Path) -> None:
    shutil.copytree(texts, tmp_path / "0")
    code, _, err = launch(tmp_path, "torchrun", 2, *tiny, "max_steps=4", f"data.path={tmp_path}/${{oc.env:RANK}}")
    assert code != 0
    assert err.count("lmm-train: rank 1: `") == 1, err
