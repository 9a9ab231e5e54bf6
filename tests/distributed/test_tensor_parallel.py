"""Networks spread over processes learn what one process does: the same losses, step by step, and the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmmodules.launch import free_port

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

SCRIPT = Path(__file__).with_name("against_one_process.py")
FOREIGN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
TOLERANCE = 1e-5


def launch(processes: int, output: Path, *layouts: str) -> dict[str, Any]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in FOREIGN and not name.startswith(("SLURM_", "TORCHELASTIC_", "PL_"))
    }
    environment |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    process = subprocess.Popen(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_addr",
            "127.0.0.1", "--master_port", str(free_port()), str(SCRIPT), str(output), *layouts,
        ],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # a session of its own: every rank, and nobody else
        raise
    assert process.returncode == 0, said[-4000:]
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def differences(found: dict[str, Any]) -> dict[str, Any]:
    return {name: row for name, row in found.items() if "loss" in row}


OBJECTIVES = ("causal", "grouped", "masked", "coco_lm", "electra", "p_tuning")


def test_two_processes(tmp_path: Path) -> None:
    found = launch(2, tmp_path / "found.json", "2", "2s", "1", "ddp")
    rows = differences(found)
    assert rows.keys() == {f"{layout} {name}" for layout in ("2", "2s", "1", "ddp") for name in OBJECTIVES}
    for name, row in rows.items():
        assert row["steps"] == 20
        assert row["loss"] < TOLERANCE, (name, row)
        assert row["weights"] < 10 * TOLERANCE, (name, row)
    # Two all-reduces forwards and two backwards for each layer, and nothing else.
    assert found["2 collectives"] == {"forward": ["allreduce_"] * 2, "backward": ["allreduce_"] * 2}


def test_four_processes(tmp_path: Path) -> None:
    rows = differences(launch(4, tmp_path / "found.json", "4", "2", "2s"))
    assert rows.keys() == {f"{layout} {name}" for layout in ("4", "2", "2s") for name in OBJECTIVES}
    for name, row in rows.items():
        assert row["loss"] < TOLERANCE, (name, row)
        assert row["weights"] < 10 * TOLERANCE, (name, row)
