"""Two processes validate on the rows of one, each once, and fine-tune as one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lmmodules.callbacks import read_metrics

Command = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

OBJECTIVES = {
    "classification": ["val/loss", "val/accuracy", "val/f1", "val/matthews", "train/loss"],
    "regression": ["val/loss", "val/pearson", "val/spearman", "train/loss"],
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_equal_one(objective: str, command: Command, tmp_path: Path) -> None:
    label = "label" if objective == "classification" else "score"
    lines = [f"{'the film ' * (1 + index * 5 % 7)}{'good' if index % 2 else 'bad'}\t{index % 2}" for index in range(97)]
    for name, part in (("train.tsv", lines), ("dev.tsv", lines[:37])):  # 37 rows fill neither 5 nor 10 to the end
        (tmp_path / name).write_text("\n".join([f"sentence\t{label}", *part]) + "\n")
    common = [
        f"objective={objective}", "model=encoder_tiny", "trainer.accelerator=cpu", "data.path=train.tsv",
        "data.validation_path=dev.tsv", "tokenizer.vocab_size=270", "max_steps=6", "validate_every_steps=3",
        "log_every_steps=1", "trainer.accumulate_grad_batches=2",
    ]  # fmt: skip
    one = command("train", *common, "data.batch_size=10", "paths.output_dir=one")
    assert one.returncode == 0, one.stderr
    two = command("train", *common, "data.batch_size=5", "strategy=ddp", "trainer.devices=2", "paths.output_dir=two")
    assert two.returncode == 0, two.stderr
    for metric in OBJECTIVES[objective]:
        expected, found = (
            [row[metric] for row in read_metrics(tmp_path / run / "metrics.csv") if metric in row]
            for run in ("one", "two")
        )
        assert len(found) == len(expected) > 1
        # Rows of the same text have nearly the same score, and rounding says which ranks first.
        assert found == pytest.approx(expected, abs=1e-3 if metric == "val/spearman" else 2e-5), metric
