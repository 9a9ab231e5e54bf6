from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lmmodules.callbacks.warmup_decay import WarmupDecay
from lmmodules.errors import InputError
from lmmodules.optim import BertLinear, Linear, ParameterGroups, build_optimizer

PEAK = 0.01
SCHEDULE = Linear(warmup_steps=4)
TRACE = [0, 0.25, 0.5, 0.75, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]  # by hand: warmup 4 of 12


class Regression(L.LightningModule):
    """A line through noise; writes down the learning rates at which its updates are made."""

    def __init__(self, lr: float = PEAK, rates: tuple[float, ...] = (1.0,), scheduler: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in rates)
        self.lr, self.rates, self.scheduler = lr, rates, scheduler
        self.used: list[list[float]] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        (inputs,) = batch
        for layer in self.layers:
            inputs = layer(inputs)
        return inputs.square().mean()

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": list(layer.parameters()), "lr": self.lr * rate}
            for layer, rate in zip(self.layers, self.rates, strict=True)
        ]
        optimizer = torch.optim.AdamW(groups)
        if not self.scheduler:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3)}

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer.step(closure=optimizer_closure)
        self.used.append([group["lr"] for group in optimizer.param_groups])


class TwoPlayers(L.LightningModule):
    """Manual optimization: two optimizers take turns, the given number of times in a batch."""

    def __init__(self, turns: int = 1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.first, self.second, self.turns = nn.Linear(3, 1), nn.Linear(3, 1), turns
        self.used: list[list[float]] = [[], []]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        for _ in range(self.turns):
            for index, (player, optimizer) in enumerate(zip((self.first, self.second), self.optimizers(), strict=True)):
                optimizer.zero_grad()
                self.manual_backward(player(batch[0]).square().mean())
                optimizer.step()
                self.used[index].append(optimizer.param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.first.parameters(), lr=PEAK), torch.optim.SGD(self.second.parameters(), lr=2 * PEAK)


def loader() -> DataLoader[Any]:
    """Six batches, all the same: which of them a resumed epoch starts with is not the subject here."""
    generator = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(2, 3, generator=generator).repeat(6, 1)), batch_size=2)


def trainer(*callbacks: Callback, max_steps: int = 12, **options: Any) -> L.Trainer:
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(max_steps=max_steps, max_epochs=-1, callbacks=list(callbacks), **(quiet | options))


def fit(module: L.LightningModule, *callbacks: Callback, checkpoint: Path | None = None, **options: Any) -> L.Trainer:
    run = trainer(*callbacks, **options)
    run.fit(module, loader(), ckpt_path=checkpoint)
    return run


def first(used: list[list[float]]) -> list[float]:
    return [rates[0] for rates in used]


def scaled(factors: list[float], peak: float = PEAK) -> Any:
    return pytest.approx([peak * factor for factor in factors], rel=1e-12)


@pytest.fixture(scope="module")
def after_six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a run of twelve steps that stopped after six."""

    class Stop(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.global_step == 6

    path = tmp_path_factory.mktemp("checkpoint") / "six.ckpt"
    torch.manual_seed(0)
    run = fit(Regression(), WarmupDecay(SCHEDULE), Stop())
    assert run.global_step == 6
    run.save_checkpoint(path)
    return path


def test_rate_of_every_update() -> None:
    module = Regression()
    fit(module, WarmupDecay(SCHEDULE))
    assert first(module.used) == scaled(TRACE)


def test_first_update_moves_nothing_but_the_moments() -> None:
    module = Regression()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    run = fit(module, WarmupDecay(SCHEDULE, max_steps=12), max_steps=1)
    assert all(torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))
    assert all(state["exp_avg"].any() for state in run.optimizers[0].state.values())


def test_bert_drops_at_the_end_of_its_warmup() -> None:
    module = Regression()
    fit(module, WarmupDecay(BertLinear(warmup_steps=4)), max_steps=8)
    assert first(module.used) == scaled([0, 0.25, 0.5, 0.75, 0.5, 0.375, 0.25, 0.125])


def test_accumulation_does_not_stretch_the_schedule() -> None:
    module = Regression()
    seen: list[float] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(module, WarmupDecay(SCHEDULE), Watch(), accumulate_grad_batches=2)
    assert first(module.used) == scaled(TRACE)
    assert seen == scaled([factor for factor in TRACE for _ in range(2)])


def test_groups_keep_their_proportions() -> None:
    module = Regression(rates=(1.0, 0.5, 0.1))
    fit(module, WarmupDecay(SCHEDULE))
    for index, rate in enumerate(module.rates):
        assert [rates[index] for rates in module.used] == scaled(TRACE, PEAK * rate)


def test_layer_wise_rates_survive_warmup_and_resume(tmp_path: Path) -> None:
    class Deep(Regression):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList()
            self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return self.blocks[1](self.blocks[0](batch[0])).square().mean()

        def configure_optimizers(self) -> Any:
            return build_optimizer(
                self, lambda groups: torch.optim.AdamW(groups, lr=PEAK), ParameterGroups(layer_decay=0.5)
            )

    module = Deep()
    run = fit(module, WarmupDecay(SCHEDULE, max_steps=12), max_steps=6)
    run.save_checkpoint(tmp_path / "six.ckpt")
    resumed = Deep()
    fit(resumed, WarmupDecay(SCHEDULE), checkpoint=tmp_path / "six.ckpt")
    used = module.used + resumed.used
    # Two groups for each block, decayed and not: a quarter for the lower, half for the upper.
    for index, rate in enumerate((0.25, 0.25, 0.5, 0.5)):
        assert [rates[index] for rates in used] == scaled(TRACE, PEAK * rate)


def test_resume_equals_an_unbroken_run(after_six: Path) -> None:
    torch.manual_seed(0)
    unbroken, resumed = Regression(), Regression()
    fit(unbroken, WarmupDecay(SCHEDULE))
    fit(resumed, WarmupDecay(SCHEDULE), checkpoint=after_six)
    assert first(resumed.used) == scaled(TRACE[6:])
    for one, other in zip(unbroken.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_checkpoint_holds_no_state_of_the_callback(after_six: Path) -> None:
    checkpoint = torch.load(after_six, weights_only=True)
    assert not checkpoint["callbacks"]
    assert checkpoint["lr_schedulers"] == []
    # The trap: the checkpoint's `lr` is that of its last step, and no peak.
    group = checkpoint["optimizer_states"][0]["param_groups"][0]
    assert (group["lr"], group["initial_lr"]) == (pytest.approx(PEAK * TRACE[5]), PEAK)


def test_changed_learning_rate_takes_effect_on_resume(after_six: Path) -> None:
    module = Regression(lr=0.05)
    fit(module, WarmupDecay(SCHEDULE), checkpoint=after_six)
    assert first(module.used) == scaled(TRACE[6:], 0.05)


def test_changed_length_takes_effect_on_resume(after_six: Path) -> None:
    module = Regression()
    fit(module, WarmupDecay(SCHEDULE), checkpoint=after_six, max_steps=24)
    assert first(module.used) == scaled([(24 - step) / 20 for step in range(6, 24)])


def test_changed_schedule_takes_effect_on_resume(after_six: Path) -> None:
    module = Regression()
    fit(module, WarmupDecay(Linear(warmup_steps=8, floor=0.5)), checkpoint=after_six)
    assert first(module.used) == scaled([0.75, 0.875, 1, 0.875, 0.75, 0.625])


def test_second_fit_of_the_same_trainer_and_optimizer() -> None:
    class Keeps(Regression):
        def configure_optimizers(self) -> Any:
            if not hasattr(self, "kept"):
                self.kept = super().configure_optimizers()
            return self.kept

    module = Keeps()
    for _ in range(2):
        module.used.clear()
        fit(module, WarmupDecay(SCHEDULE))
        assert first(module.used) == scaled(TRACE)


def test_own_length_and_end_of_the_run() -> None:
    module = Regression()
    fit(module, WarmupDecay(SCHEDULE, max_steps=6), max_steps=8)
    assert first(module.used) == scaled([0, 0.25, 0.5, 0.75, 1, 0.5, 0, 0])


def test_shows_the_rate_that_was_used() -> None:
    callback = WarmupDecay(SCHEDULE)
    shown: list[tuple[float, float]] = []

    class Log(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            shown.append((callback.current_factor, callback.current_lr))

    fit(Regression(rates=(0.5, 1.0, 0.1)), callback, Log())
    assert [factor for factor, _ in shown] == pytest.approx(TRACE)
    assert [lr for _, lr in shown] == scaled(TRACE), "of the groups, the largest"


def test_learning_rate_monitor_behind_it_logs_the_rate_used(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    monitor = LearningRateMonitor("step")
    fit(Regression(), WarmupDecay(SCHEDULE), monitor, logger=logger, log_every_n_steps=1)
    assert monitor.lrs["lr-AdamW"] == scaled(TRACE)


def test_learning_rate_may_be_a_tensor() -> None:
    class Compiled(Regression):
        def configure_optimizers(self) -> Any:
            self.rate = torch.tensor(PEAK, dtype=torch.float64)
            return torch.optim.AdamW(self.parameters(), lr=self.rate, foreach=False)

        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            optimizer.step(closure=optimizer_closure)
            self.used.append([float(group["lr"]) for group in optimizer.param_groups])

    module = Compiled()
    run = fit(module, WarmupDecay(SCHEDULE))
    assert first(module.used) == scaled(TRACE)
    assert run.optimizers[0].param_groups[0]["lr"] is module.rate, "compiled code reads this very tensor"


def test_group_that_is_added_later_joins_the_schedule() -> None:
    class Unfreeze(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 6:
                trainer.optimizers[0].add_param_group({"params": [pl_module.late], "lr": 0.2})

    module = Regression()
    module.late = nn.Parameter(torch.zeros(1))
    module.configure_optimizers = lambda: torch.optim.SGD(module.layers.parameters(), lr=PEAK)  # type: ignore[method-assign]
    fit(module, WarmupDecay(SCHEDULE), Unfreeze())
    assert first(module.used) == scaled(TRACE)
    assert [rates[1] for rates in module.used[6:]] == scaled(TRACE[6:], 0.2)


@pytest.mark.parametrize("turns", [1, 3])
def test_two_optimizers_that_take_turns(turns: int) -> None:
    module = TwoPlayers(turns)
    run = fit(module, WarmupDecay(SCHEDULE), max_steps=24)  # the trainer counts the steps of both
    assert run.global_step == 24
    assert module.used[0] == scaled(TRACE)
    assert module.used[1] == scaled(TRACE, 2 * PEAK)


def test_unknown_length_is_told() -> None:
    with pytest.raises(InputError, match=r"`max_steps` must be known for the learning rate to decay, .* is -1"):
        fit(Regression(), WarmupDecay(SCHEDULE), max_steps=-1)


def test_warmup_that_does_not_fit_is_told_before_anything_runs() -> None:
    started = []

    class Next(Callback):
        def on_fit_start(self, *_: Any) -> None:
            started.append(True)

    with pytest.raises(InputError, match=r"`warmup_steps` must be less than `max_steps` \(3\), but is 4"):
        fit(Regression(), WarmupDecay(SCHEDULE), Next(), max_steps=3)
    assert not started


def test_a_scheduler_beside_it_is_told() -> None:
    with pytest.raises(InputError, match=r"`configure_optimizers` must not return a scheduler .* but returned StepLR"):
        fit(Regression(scheduler=True), WarmupDecay(SCHEDULE))


SCRIPT = """
import json, sys
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from lmmodules.callbacks.warmup_decay import WarmupDecay
from lmmodules.optim import Linear

class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.used = nn.Linear(3, 1), []
    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).square().mean()
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        optimizer.step(closure=optimizer_closure)
        self.used.append(optimizer.param_groups[0]["lr"])

module = Module()
trainer = L.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_steps=12, max_epochs=-1, accumulate_grad_batches=2, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    callbacks=[WarmupDecay(Linear(warmup_steps=4))],
)
trainer.fit(module, DataLoader(TensorDataset(torch.randn(24, 3)), batch_size=2))
with open(f"{sys.argv[1]}/{trainer.global_rank}.json", "w") as file:
    json.dump({"used": module.used, "weight": module.layer.weight.tolist()}, file)
# gloo aborts a rank whose partner has left while it was still connected.
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.mark.distributed
def test_both_ranks_of_ddp_learn_at_the_same_rates(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ours = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "PL_GLOBAL_SEED")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not name.startswith(("MASTER_", "SLURM_", "TORCHELASTIC_"))
    }
    environment["OMP_NUM_THREADS"] = "1"
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    # `--standalone` finds a free port by itself.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    process = subprocess.Popen(
        [*command, str(script), str(tmp_path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"two ranks did not finish\n{process.communicate()[0]}")
    assert process.returncode == 0, output
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert results[0] == results[1]
    assert results[0]["used"] == scaled(TRACE)
