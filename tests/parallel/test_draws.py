"""What a batch draws at random follows from the seed, its number and its data rank, and from nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lmmodules.batch import CausalBatch
from lmmodules.objectives import Objective
from lmmodules.parallel import Term
from lmmodules.parallel.draws import seed_draws

pytestmark = pytest.mark.filterwarnings("ignore")


def drawn(seed: int = 3, batch: int = 5, data_rank: int = 1) -> list[float]:
    seed_draws(seed, batch, data_rank, torch.device("cpu"))
    return torch.rand(4).tolist()


def test_equal_for_equal_batches_and_different_otherwise() -> None:
    ours = drawn()
    torch.manual_seed(17)
    assert drawn() == ours
    others = [drawn(seed=4), drawn(batch=6), drawn(data_rank=0), drawn(batch=1, data_rank=5), drawn(4, 4, 1)]
    assert len({tuple(draws) for draws in [ours, *others]}) == 6


def test_seeds_of_any_size_and_many_batches_are_told_apart() -> None:
    assert len({tuple(drawn(seed)) for seed in (0, 1, 2**32, 2**32 + 1, 2**64 - 1)}) == 5
    assert len({tuple(drawn(batch=batch, data_rank=rank)) for batch in range(100) for rank in range(4)}) == 400


class Scalar(nn.Module):
    causal = True
    vocab_size = 10

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))


class Drawing(Objective):
    """Remembers what it drew in training, and draws in validation, too."""

    batch_type = CausalBatch

    def __init__(self) -> None:
        super().__init__(Scalar())  # type: ignore[arg-type]
        self.drawn: list[float] = []

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Term]:
        number = torch.rand(())
        if self.training:
            self.drawn.append(number.item())
        return {"loss": Term(number * self.backbone.weight, 1)}


def fit(max_steps: int, folder: Path, resume: str | None = None, *, validated: bool = True) -> list[float]:
    """Six batches in a pass, two in a step, kept after every step."""
    sample = {"input_ids": torch.zeros(2, dtype=torch.long), "labels": torch.zeros(2, dtype=torch.long)}
    batches: Any = DataLoader([sample] * 6, batch_size=1)  # type: ignore[arg-type]
    keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = L.Trainer(
        max_steps=max_steps, accumulate_grad_batches=2, accelerator="cpu", logger=False, callbacks=[keep],
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=None if validated else 0,
    )  # fmt: skip
    objective = Drawing()
    trainer.fit(objective, batches, batches, ckpt_path=None if resume is None else folder / resume)
    return objective.drawn


@pytest.mark.parametrize("step", [2, 3, 4])  # within a pass, at its end, and in the next
def test_a_resumed_run_draws_what_an_unbroken_one_does(step: int, tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = fit(6, tmp_path)
    assert len(set(whole)) == len(whole) == 12
    torch.manual_seed(2)  # whatever else a notebook draws in between
    assert fit(6, tmp_path, f"step={step}.ckpt") == whole[2 * step :]
    torch.manual_seed(1)
    assert fit(6, tmp_path / "again", validated=False) == whole
    assert fit(6, tmp_path / "another") != whole
