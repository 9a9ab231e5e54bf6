from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lmmodules.callbacks import RankZeroLogging, Throughput, read_metrics
from lmmodules.callbacks.rank_zero_logging import MetricsFile
from lmmodules.errors import InputError
from lmmodules.parallel import Term, Totals


class Counting(L.LightningModule):
    """Its loss at batch k is k, over k + 1 targets."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.totals = Totals()
        self.seen = 0

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.totals.add({"loss": Term(torch.tensor(float(self.seen)), self.seen + 1)})
        self.seen += 1
        return self.weight.sum() * 0

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val/loss", torch.tensor(float(self.seen)))

    def collect_training_metrics(self) -> dict[str, float]:
        return self.totals.collect()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


class Plain(Counting):
    collect_training_metrics = None  # type: ignore[assignment]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.seen += 1
        return self.weight.sum() * 0 + float(self.seen)


class Listener(L.Callback):
    def __init__(self) -> None:
        self.heard: list[tuple[int, dict[str, float]]] = []

    def on_metrics(self, trainer: L.Trainer, step: int, metrics: dict[str, float]) -> None:
        self.heard.append((step, dict(metrics)))


def fit(module: L.LightningModule, *callbacks: L.Callback, steps: int = 7, **trainer: Any) -> L.Trainer:
    batch = {"input_ids": torch.zeros(3, 5, dtype=torch.int64)}
    options: dict[str, Any] = {
        "max_steps": steps,
        "callbacks": list(callbacks),
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
    }
    runner = L.Trainer(**(options | trainer))
    runner.fit(module, DataLoader([batch] * 100, batch_size=None), DataLoader([batch], batch_size=None))
    return runner


def test_means_of_each_interval_and_of_the_rest_at_the_end(tmp_path: Path) -> None:
    listener = Listener()
    fit(Counting(), RankZeroLogging(3, tmp_path), listener)
    assert [step for step, _ in listener.heard] == [3, 6, 7]
    expected = [(0 + 1 + 2) / (1 + 2 + 3), (3 + 4 + 5) / (4 + 5 + 6), 6 / 7]
    assert [metrics["train/loss"] for _, metrics in listener.heard] == pytest.approx(expected)
    assert all(metrics["lr"] == 0.5 for _, metrics in listener.heard)
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == [3, 6, 7]
    assert [row["train/loss"] for row in rows] == pytest.approx(expected)


def test_accumulated_batches_are_one_step() -> None:
    listener = Listener()
    fit(Counting(), RankZeroLogging(2), listener, steps=4, accumulate_grad_batches=3)
    assert [step for step, _ in listener.heard] == [2, 4]
    assert listener.heard[0][1]["train/loss"] == pytest.approx(sum(range(6)) / sum(range(1, 7)))


def test_any_module_can_be_logged() -> None:
    listener = Listener()
    fit(Plain(), RankZeroLogging(2), listener, steps=4)
    assert [metrics["train/loss"] for _, metrics in listener.heard] == [1.5, 3.5]


def test_validation_is_logged_at_its_step_and_added_as_a_column(tmp_path: Path) -> None:
    logging = RankZeroLogging(2, tmp_path)
    fit(Counting(), logging, steps=4, limit_val_batches=1, val_check_interval=3, check_val_every_n_epoch=None)
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [(row["step"], row.get("val/loss")) for row in rows] == [(2, None), (3, 3.0), (4, None)]
    assert logging.validated_at == 3
    assert logging.latest["val/loss"] == 3.0
    with (tmp_path / "metrics.csv").open() as file:
        assert len({len(row) for row in csv.reader(file)}) == 1, "every row has every column"


def test_tokens_and_speed_reach_the_log() -> None:
    listener = Listener()
    fit(Counting(), Throughput(), RankZeroLogging(2), listener, steps=4)
    assert [metrics["tokens"] for _, metrics in listener.heard] == [30, 60]
    assert all(metrics["throughput/tokens_per_second"] > 0 for _, metrics in listener.heard)
    assert all(metrics["throughput/memory_gb"] > 0.01 for _, metrics in listener.heard)
    assert "throughput/mfu" not in listener.heard[0][1], "a processor's peak is not known"


def test_utilisation_is_the_achieved_share_of_the_peak() -> None:
    class Measured(Counting):
        def flops_per_token(self, length: int) -> float:
            assert length == 5
            return 100.0

    module, listener = Measured(), Listener()
    fit(module, Throughput(peak_flops=1e9), RankZeroLogging(2), listener, steps=2)
    metrics = listener.heard[0][1]
    assert metrics["throughput/mfu"] == pytest.approx(metrics["throughput/tokens_per_second"] * 300 / 1e9)


def test_throughput_leaves_validation_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("lmmodules.callbacks.throughput.time.perf_counter", lambda: now[0])

    class Clock(L.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            now[0] += 1.0

        def on_validation_batch_start(self, *_: Any) -> None:
            now[0] += 50.0

    throughput, listener = Throughput(), Listener()
    fit(
        Counting(),
        Clock(),
        throughput,
        RankZeroLogging(4),
        listener,
        steps=4,
        limit_val_batches=1,
        val_check_interval=2,
        check_val_every_n_epoch=None,
    )
    assert next(m for _, m in listener.heard if "tokens" in m)["throughput/tokens_per_second"] == 60 / 4
    assert throughput.state_dict() == {"tokens": 60, "seconds": 4.0}


def test_a_resumed_file_keeps_what_was_and_drops_what_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    first = MetricsFile(path)
    first.open(after_step=0)
    for step in (10, 20, 30):
        first.write(step, {"train/loss": step / 10})
    second = MetricsFile(path)
    second.open(after_step=20)
    second.write(30, {"train/loss": 9.0, "val/loss": 1.0})
    assert read_metrics(path) == [
        {"step": 10, "train/loss": 1.0},
        {"step": 20, "train/loss": 2.0},
        {"step": 30, "train/loss": 9.0, "val/loss": 1.0},
    ]
    MetricsFile(path).open(after_step=0)
    assert read_metrics(path) == [], "a run that starts at 0 starts a file"


def test_an_interval_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="`log_every_steps` must be at least 1, but is 0"):
        RankZeroLogging(0)
