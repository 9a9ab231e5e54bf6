"""A run that was saved in parts goes on with another strategy and another number of processes, as if unbroken."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lmmodules import load
from lmmodules.callbacks import read_metrics

Command = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

IN_PARTS = "strategy.save_distributed_checkpoint=true"
TENSOR = ["strategy=tensor_parallel", "data.batch_size=4"]
SHARDED = ["strategy=fsdp", "trainer.devices=2", "data.batch_size=2"]
ONE = ["data.batch_size=4"]
DDP = ["strategy=ddp", "trainer.devices=2", "data.batch_size=2"]


def losses(directory: Path) -> dict[float, float]:
    return {row["step"]: row["train/loss"] for row in read_metrics(directory / "metrics.csv") if "train/loss" in row}


def test_a_run_goes_on_with_another_strategy(command: Command, tiny: list[str], tmp_path: Path) -> None:
    common = [*tiny, "callbacks.warmup_decay.max_steps=6"]
    whole = command("train", *common, *ONE, "max_steps=6", "paths.output_dir=whole")
    assert whole.returncode == 0, whole.stderr
    for name, strategy in (("tensor", TENSOR), ("sharded", SHARDED)):
        first = command("train", *common, *strategy, IN_PARTS, "max_steps=3", f"paths.output_dir={name}")
        assert first.returncode == 0, first.stderr
        # Each process wrote what it holds, and nobody the whole.
        parts = sorted(path.name for path in (tmp_path / name / "checkpoints/last.ckpt").glob("*.distcp"))
        assert parts == ["__0_0.distcp", "__1_0.distcp"]
    expected = losses(tmp_path / "whole")
    for start, strategy in (("tensor", SHARDED), ("sharded", TENSOR), ("tensor", ONE), ("sharded", DDP)):
        directory = f"{start}_{strategy[0].replace('=', '_')}"
        second = command("train", *common, *strategy, "max_steps=6", f"resume={start}", f"paths.output_dir={directory}")
        assert second.returncode == 0, second.stderr
        found = losses(tmp_path / directory)
        assert sorted(found) == [4, 5, 6]
        assert found == pytest.approx({step: expected[step] for step in found}, abs=1e-5), directory
        weights = dict(load(tmp_path / "whole").state_dict())
        for key, tensor in load(tmp_path / directory).state_dict().items():
            assert (tensor - weights[key]).abs().max() < 1e-4, (directory, key)

    exported = command("export", "checkpoint=tensor", "output=exported")
    if "needs the extra" not in exported.stderr:
        assert exported.returncode == 0, exported.stderr
        assert (tmp_path / "exported/model.safetensors").exists()

    shutil.copytree(tmp_path / "tensor", tmp_path / "damaged")
    (tmp_path / "damaged/checkpoints/last.ckpt/__1_0.distcp").unlink()
    refused = command("train", *common, *ONE, "max_steps=6", "resume=damaged", "paths.output_dir=refused")
    assert refused.returncode == 2
    assert "`__1_0.distcp` is missing" in refused.stderr

    with (tmp_path / "sharded/checkpoints/last.ckpt/__0_0.distcp").open("r+b") as part:
        part.truncate(5000)
    refused = command("train", *common, *SHARDED, "max_steps=6", "resume=sharded", "paths.output_dir=refused")
    assert refused.returncode == 2
    assert "bytes, by the index of the checkpoint, but has 5000; copy the whole directory" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model.num_heads=1"], "`num_heads` must be a multiple of `strategy.tensor_parallel_size` (2), but is 1"),
        (["model.vocab_size=301"], "`vocab_size` must be a multiple"),
        (["trainer.devices=1"], "must be `strategy.tensor_parallel_size` (2), but is 1"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    overrides: list[str], sentence: str, command: Command, tiny: list[str]
) -> None:
    refused = command("train", *tiny, *TENSOR, *overrides, "max_steps=2", "paths.output_dir=refused", timeout=100)
    assert refused.returncode != 0
    assert sentence in refused.stderr, refused.stderr
