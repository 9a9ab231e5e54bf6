"""Two processes with unequal shares of CLINE's words do what one does with both shares."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lmmodules import load
from lmmodules.callbacks import read_metrics

Command = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

STEPS = 8
METRICS = (
    "train/loss",
    "val/loss",
    "val/masked_lm",
    "val/detection",
    "val/contrast",
    "val/nearer",
    "val/contrast_weight",
)


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    """Two lines in three hold no word that can be replaced, so that a row often has nothing to compare."""
    lines = [("the hot dog ran to a cold mat", "nobody else would", "several others should")[i % 3] for i in range(900)]
    path = tmp_path / "uneven.txt"
    path.write_text("\n".join(f"{line} {number % 11}." for number, line in enumerate(lines)))
    return path


def test_uneven_batches_equal_one_process(
    command: Command, tiny: list[str], uneven: Path, tiny_wordnet: Path, tmp_path: Path
) -> None:
    common = [
        *tiny, "objective=cline", "model=encoder_tiny", f"transform.wordnet={tiny_wordnet}", "objective.pooled=true",
        f"data.path={uneven}", "data.max_length=24", f"max_steps={STEPS}", "validate_every_steps=4",
        "trainer.limit_val_batches=1.0",
    ]  # fmt: skip
    one = command("train", *common, "data.batch_size=2", "paths.output_dir=one")
    assert one.returncode == 0, one.stderr
    two = command("train", *common, "data.batch_size=1", "strategy=ddp", "trainer.devices=2", "paths.output_dir=two")
    assert two.returncode == 0, two.stderr
    rows = [read_metrics(tmp_path / run / "metrics.csv") for run in ("one", "two")]
    for metric in METRICS:
        expected, found = ([row[metric] for row in of_run if metric in row] for of_run in rows)
        assert len(found) == len(expected) > 1, metric
        assert found == pytest.approx(expected, abs=1e-4), metric
    losses = [row["train/loss"] for row in rows[1] if "train/loss" in row]
    assert len(set(losses)) == STEPS
    weights = [dict(load(tmp_path / run).state_dict()) for run in ("one", "two")]
    assert "log_variances" in weights[0]
    for name, tensor in weights[0].items():
        assert (tensor - weights[1][name]).abs().max() < 1e-4, name
