from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lmmodules.callbacks import ConfigSnapshot
from lmmodules.callbacks.config_snapshot import SNAPSHOT_KEY

MODEL = {"_target_": "lmmodules.models.Transformer", "position": {"_target_": "lmmodules.models.Rotary", "theta": 1e4}}
OBJECTIVE = {"_target_": "lmmodules.objectives.CausalLM", "label_smoothing": 0.0}


def saved(snapshot: ConfigSnapshot, path: Path) -> Any:
    trainer = L.Trainer(
        logger=False, callbacks=[snapshot], enable_checkpointing=False, enable_model_summary=False, accelerator="cpu"
    )
    trainer.strategy.connect(L.LightningModule())
    trainer.save_checkpoint(path)
    return torch.load(path, weights_only=True)


def test_every_checkpoint_carries_what_builds_its_network(tmp_path: Path) -> None:
    config = {"seed": 7, "data": {"path": None, "betas": [0.9, 0.95]}}
    checkpoint = saved(ConfigSnapshot(MODEL, OBJECTIVE, '{"version": "1.0"}', config), tmp_path / "x.ckpt")
    assert checkpoint[SNAPSHOT_KEY] == {
        "model": MODEL,
        "objective": OBJECTIVE,
        "tokenizer": '{"version": "1.0"}',
        "config": config,
    }


def test_tokenizer_and_config_may_be_left_out(tmp_path: Path) -> None:
    checkpoint = saved(ConfigSnapshot(MODEL, OBJECTIVE), tmp_path / "x.ckpt")
    assert checkpoint[SNAPSHOT_KEY] == {"model": MODEL, "objective": OBJECTIVE, "tokenizer": None, "config": {}}


@pytest.mark.filterwarnings("ignore")
def test_it_has_no_state_that_a_resumed_run_would_read_back(tmp_path: Path) -> None:
    checkpoint = saved(ConfigSnapshot(MODEL, OBJECTIVE, None, {"seed": 7}), tmp_path / "x.ckpt")
    assert not [name for name in checkpoint["callbacks"] if "ConfigSnapshot" in name]
