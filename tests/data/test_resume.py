"""The training stream through a real `Trainer`: interrupted and unbroken runs see the same batches."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lmmodules.data import ByteLevelBPE, CorpusDataModule, Masking, SentencePairs
from lmmodules.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")


class Recorder(L.LightningModule):
    """Remembers what it was given."""

    def __init__(self, estimate: bool = False) -> None:
        super().__init__()
        self.estimate = estimate
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []
        self.validated: list[list[int]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.seen.append(batch["input_ids"].flatten().tolist())
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.validated.append(batch["input_ids"].flatten().tolist())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.estimate:
            assert self.trainer.estimated_stepping_batches > 0  # builds the loaders before a checkpoint is restored
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def run(tmp_path: Path, corpus_of: Callable, prose: Callable) -> Callable[..., tuple[Recorder, CorpusDataModule]]:
    def fit(
        max_steps: int,
        resume: Path | None = None,
        *,
        estimate: bool = False,
        data: CorpusDataModule | None = None,
        save_every: int | None = None,
        **options: Any,
    ) -> tuple[Recorder, CorpusDataModule]:
        options = {"batch_size": 7, "max_length": 64, "transform": Masking(), **options}
        data = data or CorpusDataModule(
            corpus_of(prose(60)), ByteLevelBPE(300), cache_dir=tmp_path / "cache", **options
        )
        callbacks = (
            []
            if save_every is None
            else [ModelCheckpoint(tmp_path / "kept", "{step}", every_n_train_steps=save_every, save_top_k=-1)]
        )
        trainer = L.Trainer(
            max_steps=max_steps,
            accelerator="cpu",
            logger=False,
            callbacks=callbacks,
            enable_checkpointing=bool(callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=1,
        )
        module = Recorder(estimate)
        trainer.fit(module, data, ckpt_path=resume)
        return module, data

    return fit


@pytest.mark.parametrize(("num_workers", "estimate"), [(0, False), (0, True), (2, True)])
def test_an_interrupted_run_sees_what_an_unbroken_one_sees(
    run: Callable, tmp_path: Path, num_workers: int, estimate: bool
) -> None:
    options = {"num_workers": num_workers, "estimate": estimate}
    whole, data = run(30, save_every=1, **options)
    per_pass = len(data.train_dataloader())
    assert per_pass == 13  # so a run of 30 steps crosses two ends
    assert data.num_train_samples % 7
    assert len({tuple(batch) for batch in whole.seen}) == 30
    for step in (3, per_pass, per_pass + 2):
        resumed, _ = run(30, tmp_path / "kept" / f"step={step}.ckpt", **options)
        assert resumed.seen == whole.seen[step:]
    assert not multiprocessing.active_children()


def test_a_run_can_go_on_with_another_batch_size(run: Callable, tmp_path: Path) -> None:
    whole, _ = run(8, save_every=4)
    resumed, _ = run(18, tmp_path / "kept" / "step=4.ckpt", batch_size=2)
    expected = [token for batch in whole.seen[4:] for token in batch]
    assert [token for batch in resumed.seen for token in batch] == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_of_token_batches_is_resumed(run: Callable, tmp_path: Path, num_workers: int) -> None:
    options: dict[str, Any] = {
        "num_workers": num_workers,
        "batch_tokens": 800,
        "packing": SentencePairs(),
        "estimate": True,
    }
    whole, data = run(20, save_every=1, **options)
    per_pass = len(data.train_dataloader())
    assert 4 < per_pass < 15  # so a run of 20 steps crosses an end
    assert len({len(batch) for batch in whole.seen}) > 3
    for step in (2, per_pass, per_pass + 1):
        resumed, _ = run(20, tmp_path / "kept" / f"step={step}.ckpt", **options)
        assert resumed.seen == whole.seen[step:]


def test_accumulated_and_validated_runs_see_the_same_stream(run: Callable) -> None:
    whole, _ = run(6)
    again, _ = run(6)
    assert again.seen == whole.seen
    assert whole.validated
    assert again.validated == whole.validated


def test_a_new_run_begins_at_the_beginning(run: Callable) -> None:
    first, data = run(5)
    second, _ = run(5, data=data)
    assert second.seen == first.seen


def test_a_trainer_that_goes_on_goes_on(run: Callable, tmp_path: Path) -> None:
    whole, _ = run(9)
    _, data = run(1)
    module = Recorder()
    trainer = L.Trainer(
        max_steps=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    trainer.fit_loop.epoch_loop.max_steps = 9
    trainer.fit(module, data)
    assert module.seen == whole.seen


def test_what_a_checkpoint_does_not_belong_to(run: Callable, tmp_path: Path, tokenizer: Any) -> None:
    run(4, save_every=2)
    checkpoint = tmp_path / "kept" / "step=2.ckpt"
    state = torch.load(checkpoint, weights_only=True)["CorpusDataModule"]
    assert state["stream"]["samples_seen"] == 14
    with pytest.raises(InputError, match=r"`num_samples` was \d+ and is now \d+; use the `data` settings"):
        run(8, checkpoint, max_length=32)
    with pytest.raises(InputError, match=r"`seed` was 0 and is now 1; use the `seed` settings"):
        run(8, checkpoint, seed=1)
    other = ByteLevelBPE(290)
    with pytest.raises(InputError, match="must use the tokenizer of its checkpoint"):
        run(8, checkpoint, data=_other_tokenizer(run, other, tmp_path))


def _other_tokenizer(run: Callable, recipe: ByteLevelBPE, tmp_path: Path) -> CorpusDataModule:
    _, data = run(1)
    return CorpusDataModule(data.corpus, recipe, Masking(), batch_size=7, max_length=64, cache_dir=tmp_path / "cache")


SCRIPT = """
import json, sys
from pathlib import Path
import lightning as L, torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lmmodules.data import ByteLevelBPE, CorpusDataModule, Masking, TextFiles

folder, devices, resume = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]


class Recorder(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen, self.counted = [], 0

    def training_step(self, batch, batch_idx):
        self.seen.append(batch["input_ids"].tolist())
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.counted += int((batch["labels"] != -100).sum())

    def configure_optimizers(self):
        self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), lr=0.1)


data = CorpusDataModule(
    TextFiles(folder / "text"), ByteLevelBPE(300), Masking(), max_length=32, batch_size=8 // devices,
    cache_dir=folder / "cache", num_workers=1,
)
trainer = L.Trainer(
    accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_steps=30, logger=False,
    enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    callbacks=[ModelCheckpoint(folder / "kept", "{step}", every_n_train_steps=17, save_top_k=-1)],
)
module = Recorder()
trainer.fit(module, data, ckpt_path=resume[0] if resume else None)
validated = module.counted
trainer.validate(module, data, verbose=False)
name = f"{devices}-{trainer.global_rank}-{len(resume)}.json"
(folder / name).write_text(json.dumps([module.seen, module.counted - validated]))
"""


@pytest.mark.distributed
def test_two_processes_share_one_stream_and_resume_as_one(tmp_path: Path, prose: Callable) -> None:
    (tmp_path / "text").mkdir()
    for number, text in enumerate(prose(80)):
        (tmp_path / "text" / f"{number}.txt").write_text(text)
    (tmp_path / "script.py").write_text(SCRIPT)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in names}

    def launch(devices: int, *resume: str) -> list[tuple[list[list[list[int]]], int]]:
        command = [sys.executable, "script.py", str(tmp_path), str(devices), *resume]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            text=True,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            output, _ = process.communicate(timeout=150)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert process.returncode == 0, output
        return [json.loads((tmp_path / f"{devices}-{rank}-{len(resume)}.json").read_text()) for rank in range(devices)]

    ((alone, counted),) = launch(1)
    first, second = launch(2)
    assert [a + b for a, b in zip(first[0], second[0], strict=True)] == alone
    assert first[1] + second[1] == counted
    first, second = launch(2, str(tmp_path / "kept" / "step=17.ckpt"))
    assert [a + b for a, b in zip(first[0], second[0], strict=True)] == alone[17:]
