"""Two processes do what one does with twice the batch."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lmmodules import load
from lmmodules.callbacks import read_metrics

Command = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

STEPS = 12


def curve(directory: Path, metric: str) -> list[float]:
    return [row[metric] for row in read_metrics(directory / "metrics.csv") if metric in row]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("objective", ["causal_lm", "masked_lm"])
def test_two_processes_equal_one(
    strategy: str, objective: str, command: Command, tiny: list[str], tmp_path: Path
) -> None:
    model = "decoder_tiny" if objective == "causal_lm" else "encoder_tiny"
    common = [
        *tiny, f"objective={objective}", f"model={model}", f"max_steps={STEPS}", "validate_every_steps=6",
        "trainer.accumulate_grad_batches=2", "trainer.limit_val_batches=1.0",
    ]  # fmt: skip
    one = command("train", *common, "data.batch_size=4", "paths.output_dir=one")
    assert one.returncode == 0, one.stderr
    two = command(
        "train", *common, "data.batch_size=2", f"strategy={strategy}", "trainer.devices=2", "paths.output_dir=two"
    )
    assert two.returncode == 0, two.stderr

    for metric in ("train/loss", "val/loss", "lr", "tokens"):
        expected, found = curve(tmp_path / "one", metric), curve(tmp_path / "two", metric)
        assert len(found) == len(expected) > 1
        assert found == pytest.approx(expected, abs=1e-5), metric

    weights = [dict(load(tmp_path / run).state_dict()) for run in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert (tensor - weights[1][name]).abs().max() < 1e-4, name

    # Every line once, from rank zero.
    lines = [line for line in two.stderr.splitlines() if line.startswith("step ")]
    assert len(lines) == len(set(lines)) == STEPS + 2
    assert two.stdout.count("validation perplexity") == 1
    summary = json.loads((tmp_path / "two/summary.json").read_text())
    assert summary["tokens"] == STEPS * 2 * 4 * 32


def test_a_run_goes_on_with_another_number_of_processes(command: Command, tiny: list[str], tmp_path: Path) -> None:
    whole = command("train", *tiny, "max_steps=6", "data.batch_size=4", "paths.output_dir=whole")
    assert whole.returncode == 0, whole.stderr
    first = command(
        "train", *tiny, "max_steps=3", "callbacks.warmup_decay.max_steps=6", "data.batch_size=2", "strategy=ddp",
        "trainer.devices=2", "paths.output_dir=first",
    )  # fmt: skip
    assert first.returncode == 0, first.stderr
    second = command("train", *tiny, "max_steps=6", "data.batch_size=4", "resume=first", "paths.output_dir=second")
    assert second.returncode == 0, second.stderr
    expected = {
        row["step"]: row["train/loss"] for row in read_metrics(tmp_path / "whole/metrics.csv") if "train/loss" in row
    }
    found = {
        row["step"]: row["train/loss"] for row in read_metrics(tmp_path / "second/metrics.csv") if "train/loss" in row
    }
    assert sorted(found) == [4, 5, 6]
    assert found == pytest.approx({step: expected[step] for step in found}, abs=1e-5)
