"""What a process writes about its steps is what it holds."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lmmodules.callbacks.process_costs import ProcessCosts

WEIGHTS = 40 * 25 + 25


class Regression(L.LightningModule):
    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.layer = nn.Linear(40, 25)
        self.momentum = momentum

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=self.momentum)


@pytest.mark.parametrize(("momentum", "copies"), [(0.0, 2), (0.9, 3)])
def test_it_weighs_what_is_there(momentum: float, copies: int, tmp_path: Path) -> None:
    trainer = L.Trainer(
        max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[ProcessCosts(tmp_path / "costs")],
    )  # fmt: skip
    trainer.fit(Regression(momentum), DataLoader(TensorDataset(torch.randn(8, 40)), batch_size=2))
    (file,) = (tmp_path / "costs").iterdir()
    assert file.name == "process_0.json"
    costs = json.loads(file.read_text())
    assert costs["state_bytes"] == 4 * copies * WEIGHTS
    assert len(costs["step_seconds"]) == 4
    assert all(seconds > 0 for seconds in costs["step_seconds"])
    assert costs["peak_bytes"] > 10**7  # an interpreter with torch in it
