"""What a person sees of a run, on a terminal and in a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import StringIO
from typing import Any

import lightning as L
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lmmodules.callbacks import RankZeroLogging, TrainingProgress
from lmmodules.callbacks.progress import format_count, format_duration, format_figures, format_seconds

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Countdown(L.LightningModule):
    """Its loss is 1 / 8 at every step."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.fails_at = fails_at

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if batch_idx == self.fails_at:
            raise RuntimeError("the disk is on fire")
        return self.weight * 0 + 0.125

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log_dict({"val/loss": torch.tensor(2.5), "val/perplexity": torch.tensor(12.18)})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def fit(progress: TrainingProgress, *callbacks: L.Callback, module: Countdown | None = None, **options: Any) -> None:
    trainer = L.Trainer(
        **{
            "max_steps": 6,
            "callbacks": [RankZeroLogging(2), progress, *callbacks],
            "logger": False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "accelerator": "cpu",
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
            **options,
        }
    )
    data = DataLoader(torch.zeros(40, 1), batch_size=1)
    trainer.fit(module or Countdown(), data, DataLoader(torch.zeros(2, 1)))


def terminal() -> tuple[Console, StringIO]:
    file = StringIO()
    return Console(file=file, force_terminal=True, width=120, legacy_windows=False), file


def screen(file: StringIO) -> str:
    return ESCAPES.sub("", file.getvalue())


class TestFormats:
    @pytest.mark.parametrize(
        ("number", "shown"),
        [
            (0, "0"),
            (7.123, "7.12"),
            (950, "950"),
            (1_000, "1k"),
            (18_240, "18.2k"),
            (1_000_000, "1M"),
            (1_240_000_000, "1.24B"),
            (3.3e12, "3.3T"),
        ],
    )
    def test_count(self, number: float, shown: str) -> None:
        assert format_count(number) == shown

    @pytest.mark.parametrize(
        ("number", "shown"), [(999.4, "999"), (999.9, "1k"), (999_499, "999k"), (999_950, "1M"), (999_999_999, "1B")]
    )
    def test_count_just_below_a_letter(self, number: float, shown: str) -> None:
        assert format_count(number) == shown

    @pytest.mark.parametrize(
        ("seconds", "shown"),
        [(0, "0:00"), (42, "0:42"), (59.6, "1:00"), (725, "12:05"), (3599.7, "1:00:00"), (11232, "3:07:12")],
    )
    def test_seconds(self, seconds: float, shown: str) -> None:
        assert format_seconds(seconds) == shown

    @pytest.mark.parametrize(
        ("seconds", "shown"),
        [(0.2, "0 s"), (42, "42 s"), (59.7, "1 min 0 s"), (205, "3 min 25 s"), (25920, "7 h 12 min")],
    )
    def test_duration(self, seconds: float, shown: str) -> None:
        assert format_duration(seconds) == shown

    @pytest.mark.parametrize(
        ("metrics", "shown"),
        [
            ({}, ""),
            ({"of_another": 1.0}, ""),
            ({"lr": 3e-4, "train/loss": 2.34567}, "loss 2.346  lr 3.00e-04"),
            ({"val/perplexity": 1234.56, "val/loss": 7.1}, "validation loss 7.100  perplexity 1,234.6"),
            (
                {"throughput/mfu": 0.4567, "throughput/tokens_per_second": 45_678.0, "train/loss": 1.0},
                "loss 1.000  45.7k tokens/s  45.7% MFU",
            ),
        ],
    )
    def test_figures(self, metrics: Mapping[str, float], shown: str) -> None:
        assert format_figures(metrics) == shown


@pytest.mark.filterwarnings("ignore")
class TestLines:
    def test_one_per_interval(self, capsys: pytest.CaptureFixture[str]) -> None:
        fit(TrainingProgress())
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line.startswith("step")]
        assert [line.split()[1] for line in lines] == ["2/6", "4/6", "6/6"]
        assert all(re.fullmatch(r"step +\d/6  loss 0\.125  lr 5\.00e-02  \d+:\d\d left", line) for line in lines)
        assert lines[-1].endswith("0:00 left")
        assert "step" not in out, "standard output is for what the command makes"
        assert "\x1b" not in err

    def test_validation_has_its_own(self, capsys: pytest.CaptureFixture[str]) -> None:
        fit(TrainingProgress(), limit_val_batches=2, val_check_interval=3, check_val_every_n_epoch=None)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step")]
        assert [line.split()[1] for line in lines] == ["2/6", "3/6", "4/6", "6/6", "6/6"]
        assert [line for line in lines if "validation" in line] == [
            f"step      {step}/6  validation loss 2.500  perplexity 12.2" for step in (3, 6)
        ]

    def test_they_go_to_the_console_that_was_given(self, capsys: pytest.CaptureFixture[str]) -> None:
        file = StringIO()
        fit(TrainingProgress(Console(file=file, width=120)))
        assert file.getvalue().count("step") == 3
        assert "step" not in capsys.readouterr().err

    def test_they_are_left_out_on_request(self, capsys: pytest.CaptureFixture[str]) -> None:
        progress = TrainingProgress()
        progress.disable()
        fit(progress)
        assert "step" not in capsys.readouterr().err
        progress.enable()
        fit(progress)
        assert "step" in capsys.readouterr().err

    def test_other_ranks_are_silent(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(L.Trainer, "is_global_zero", property(lambda self: False))
        console, file = terminal()
        progress = TrainingProgress(console)
        fit(progress)
        assert not progress.is_enabled
        assert file.getvalue() == ""
        assert "step" not in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
class TestBar:
    def test_loss_and_rate_are_drawn(self, capsys: pytest.CaptureFixture[str]) -> None:
        console, file = terminal()
        fit(TrainingProgress(console))
        last = screen(file).rstrip().splitlines()[-1]
        assert last.startswith("training")
        assert "6/6" in last
        assert "loss 0.125  lr 5.00e-02" in last
        assert "\u2501" in last, "a bar"
        assert "step" not in capsys.readouterr().err

    def test_validation_stays_above_it(self) -> None:
        console, file = terminal()
        fit(TrainingProgress(console), limit_val_batches=2, val_check_interval=3, check_val_every_n_epoch=None)
        lines = screen(file).splitlines()
        for step in (3, 6):
            assert sum(f"step      {step}  validation loss 2.500  perplexity 12.2" in line for line in lines) == 1

    def test_a_resumed_run_goes_on_where_it_was(self, tmp_path: Any) -> None:
        steps: list[float] = []

        class Watch(L.Callback):
            def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
                bar = next(c for c in trainer.callbacks if isinstance(c, TrainingProgress))._bar  # type: ignore[attr-defined]
                assert bar is not None
                steps.append(bar.tasks[0].completed)

            def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
                trainer.save_checkpoint(tmp_path / "x.ckpt")

        fit(TrainingProgress(terminal()[0]), Watch(), max_steps=3)
        assert steps == [0, 1, 2]
        trainer = L.Trainer(
            max_steps=5, callbacks=[TrainingProgress(terminal()[0]), Watch()], logger=False, accelerator="cpu",
            enable_checkpointing=False, enable_model_summary=False, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(Countdown(), DataLoader(torch.zeros(40, 1)), ckpt_path=str(tmp_path / "x.ckpt"))
        assert steps == [0, 1, 2, 3, 4]

    def test_an_exception_gives_the_terminal_back(self) -> None:
        console, file = terminal()
        progress = TrainingProgress(console)
        with pytest.raises(RuntimeError, match="the disk is on fire"):
            fit(progress, module=Countdown(fails_at=3))
        assert "\x1b[?25l" in file.getvalue(), "the cursor was hidden"
        assert file.getvalue().rstrip().endswith("\x1b[?25h"), "and is shown again"
        assert progress._bar is None

    def test_a_run_without_an_end_has_no_bar(self, capsys: pytest.CaptureFixture[str]) -> None:
        console, file = terminal()
        fit(TrainingProgress(console), max_steps=-1, max_epochs=1, limit_train_batches=4)
        assert "training" not in file.getvalue()
