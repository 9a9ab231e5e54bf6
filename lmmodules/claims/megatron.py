"""Megatron-LM: what processes that share a network learn, keep, and take for a step, beside one process alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING, Any

from lmmodules.claims.base import Claim, Measurement
from lmmodules.claims.launched import LaunchedTrial, trained_weights
from lmmodules.claims.rules import Below, NotAbove

if TYPE_CHECKING:
    from torch import Tensor

    from lmmodules.trial import FinishedRun, Trial

ONE, TENSOR, FSDP, DDP, MESH = "one process", "TP 2", "FSDP 2", "DDP 2", "FSDP 2 x TP 2"
ACCUMULATED, HALF_BATCH = "one process, two half batches", "one process, half the batch"
CLIPPED_ONE, CLIPPED_MESH = "one process, clipped", "FSDP 2 x TP 2, clipped"
IN_TABLE_ONLY = (HALF_BATCH, CLIPPED_ONE, CLIPPED_MESH)
TWO_THREADS = "one process, two threads"
HALF = "half of one process"
MILLION = 1e6
STEPS, PEAK_RATE = 20, 3e-3
LOOKED_AT = (1, 5, 10, 20)
WARMUP_STEPS, TURNS = 2, 3


@dataclass(frozen=True)
class EqualityClaim(Claim):
    """Trains the same run by processes that share it in every way, and looks for the largest difference from one.

    Attributes:
        weights: Whether the weights after the last step are compared, and not the losses of all steps.
    """

    weights: bool = False

    def measure(self, trial: Trial) -> Measurement:
        """Differences in millionths; the curves are the largest difference so far.

        Args:
            trial: Of the seed; its runs are started by `lmm-train`, and their weights gathered by `lmm-export`.
        """
        launched = LaunchedTrial.of(trial)
        runs = {arm: launched.launch(arm, *overrides) for arm, overrides in self.arms.items()}
        losses = {arm: [loss for _, loss in run.curve("train/loss")] for arm, run in runs.items()}
        weights = {arm: trained_weights(run) for arm, run in runs.items()}
        pairs = {arm: CLIPPED_ONE if arm == CLIPPED_MESH else ONE for arm in runs if arm not in (ONE, CLIPPED_ONE)}
        apart = {arm: largest_so_far(losses[arm], losses[other]) for arm, other in pairs.items()}
        moved = {arm: farthest(weights[arm], weights[other]) for arm, other in pairs.items()}
        table: list[Mapping[str, str | int | float]] = [
            {"run": arm, "compared with": other, "a loss": f"{apart[arm][-1]:.1e}", "a weight": f"{moved[arm]:.1e}"}
            for arm, other in pairs.items()
        ]
        learned: list[Mapping[str, str | int | float]] = [
            {"step": step, "loss": f"{losses[ONE][step - 1]:.4f}"} for step in LOOKED_AT
        ]
        tables = {"Largest differences, first seed": table, "What one process learns, first seed": learned}
        compared = [arm for arm in pairs if arm not in IN_TABLE_ONLY]
        if self.weights:
            return Measurement({arm: MILLION * moved[arm] for arm in compared} | {ONE: 0.0}, tables=tables)
        curves = {
            arm: [(float(step), MILLION * value) for step, value in enumerate(apart[arm], start=1)] for arm in compared
        }
        return Measurement({arm: MILLION * apart[arm][-1] for arm in compared} | {ONE: 0.0}, curves, tables)


def largest_so_far(losses: Sequence[float], expected: Sequence[float]) -> list[float]:
    """The largest absolute difference up to each step.

    Args:
        losses: One a step.
        expected: As many.
    """
    return list(accumulate((abs(one - other) for one, other in zip(losses, expected, strict=True)), max))


def farthest(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest absolute difference of any weight.

    Args:
        weights: By name.
        expected: By the same names.
    """
    assert weights.keys() == expected.keys()
    return max(float((weights[name] - expected[name]).abs().max()) for name in expected)


@dataclass(frozen=True)
class CostClaim(Claim):
    """Trains short runs that take turns, each several times, and compares what a process of each took.

    Attributes:
        memory: Whether what a process keeps is compared, and not how long its steps are.
    """

    memory: bool = False

    def measure(self, trial: Trial) -> Measurement:
        """Costs relative to those of one process in the same turn: medians over turns.

        Args:
            trial: Of the seed; its runs are started by `lmm-train`.
        """
        from lmmodules.trial import drop_checkpoints

        launched = LaunchedTrial.of(trial)
        arms = [*self.arms, TWO_THREADS]
        turns = []
        for turn in range(TURNS):
            taken = {}
            for arm in [*arms[turn % len(arms) :], *arms[: turn % len(arms)]]:
                own = self.arms[ONE if arm == TWO_THREADS else arm]
                run = launched.launch(arm, *own, threads=2 if arm == TWO_THREADS else 1, turn=turn)
                drop_checkpoints(run)
                taken[arm] = process_costs(run)
            turns.append(taken)
        medians = {arm: {cost: median(turn[arm][cost] for turn in turns) for cost in turns[0][arm]} for arm in arms}
        table: list[Mapping[str, str | int | float]] = [
            {
                "run": arm,
                "seconds of a step": f"{costs['seconds']:.2f}",
                "parameters, gradients and moments of a process, MB": f"{costs['states'] / 1e6:.1f}",
                "peak memory of a process, MB": f"{costs['peak'] / 1e6:.0f}",
            }
            for arm, costs in medians.items()
        ]
        cost, others = ("states", [ONE, TENSOR, FSDP]) if self.memory else ("seconds", arms)
        figures = {arm: median(turn[arm][cost] / turn[ONE][cost] for turn in turns) for arm in others}
        return Measurement(figures | ({HALF: 0.5} if self.memory else {}), tables={"A step of each, first seed": table})


def process_costs(run: FinishedRun) -> dict[str, float]:
    """Seconds of a step, the first ones left out, and bytes: of the process of a run that took most.

    Args:
        run: Trained with `ProcessCosts` in its directory.
    """
    processes: list[dict[str, Any]] = [
        json.loads(file.read_text()) for file in sorted(run.directory.glob("process_*.json"))
    ]
    return {
        "seconds": max(median(process["step_seconds"][WARMUP_STEPS:]) for process in processes),
        "states": max(float(process["state_bytes"]) for process in processes),
        "peak": max(float(process["peak_bytes"]) for process in processes),
    }


_IN_PARTS = "strategy.save_distributed_checkpoint=true"
_CLIPPED = "trainer.gradient_clip_val=1.0"
_EQUALITY: dict[str, Any] = {
    "paper": "megatron",
    "source": "Shoeybi et al. 2019, section 3",
    "arms": {
        ONE: ("data.batch_size=16",),
        TENSOR: ("data.batch_size=16", "strategy=tensor_parallel", _IN_PARTS),
        FSDP: ("data.batch_size=8", "strategy=fsdp", "trainer.devices=2", _IN_PARTS),
        DDP: ("data.batch_size=8", "strategy=ddp", "trainer.devices=2"),
        MESH: ("data.batch_size=8", "strategy=fsdp_tensor_parallel", _IN_PARTS),
        ACCUMULATED: ("data.batch_size=8", "trainer.accumulate_grad_batches=2"),
        HALF_BATCH: ("data.batch_size=8",),
        CLIPPED_ONE: ("data.batch_size=16", _CLIPPED),
        CLIPPED_MESH: ("data.batch_size=8", "strategy=fsdp_tensor_parallel", _IN_PARTS, _CLIPPED),
    },
    "setting": (
        "experiment=megatron",
        f"optimizer.lr={PEAK_RATE}",
        "trainer.gradient_clip_val=null",
        f"max_steps={STEPS}",
        "log_every_steps=1",
        "trainer.limit_val_batches=4",
    ),
    "sizes": {"cpu": (), "gpu": ("model.hidden_size=1024", "model.num_layers=24", "model.num_heads=16")},
}
_EQUALITY_REMARKS = (
    f"{STEPS} optimizer steps on real text, of 16 sequences each whoever shares them, in float32; every run is a "
    "command of its own, and every process has one thread. Nobody sums in the same order, so that the last digits "
    f"differ; `{ACCUMULATED}` shows how much of that needs no second process. `{HALF_BATCH}` is what each process "
    "would learn if they did not speak to each other. Gradients are not clipped: on a processor, torch's norm of a "
    "large tensor is off in the sixth digit, that of its half less, and with clipping this is nearly all of the "
    "difference, as the table shows. `scale=gpu` takes four GPUs and computes in bfloat16, for which the bound is not "
    "meant."
)
_COST: dict[str, Any] = {
    "paper": "megatron",
    "arms": {
        ONE: ("data.batch_size=4",),
        TENSOR: ("data.batch_size=4", "strategy=tensor_parallel"),
        FSDP: ("data.batch_size=2", "strategy=fsdp", "trainer.devices=2"),
    },
    "setting": (
        "experiment=megatron",
        "max_steps=10",
        "log_every_steps=10",
        "trainer.limit_val_batches=1",
        "+callbacks.costs._target_=lmmodules.callbacks.process_costs.ProcessCosts",
        "+callbacks.costs.directory=${paths.output_dir}",
    ),
    "sizes": {
        "cpu": ("model.hidden_size=512", "model.num_heads=8"),
        "gpu": ("model.hidden_size=1024", "model.num_layers=24", "model.num_heads=16", "model.max_length=1024"),
    },
}
_COST_REMARKS = (
    f"Ten steps of 512 tokens in float32, whoever shares them, of which the first {WARMUP_STEPS} are left out; medians "
    f"of {TURNS} turns. A process has one core, and `{TWO_THREADS}` is what one process makes of the two cores that "
    "the others have. Processes of one machine speak over gloo, through memory: this says nothing of GPUs and of "
    "their links, and one step more or less of a busy machine shows."
)

CLAIMS = [
    EqualityClaim(
        **_EQUALITY,
        name="equal_to_one_process",
        statement="Processes that share the matrices, the data or both have the losses of one process, step by step.",
        reported="No figure: what is divided is the same function.",
        rules=tuple(NotAbove(arm, ONE, tolerance=100) for arm in (TENSOR, FSDP, DDP, MESH)),
        remarks=_EQUALITY_REMARKS,
        unit="largest difference of a loss, millionths of a nat",
    ),
    EqualityClaim(
        **_EQUALITY,
        name="equal_weights",
        statement="Processes that share the matrices, the data or both end with the weights of one process.",
        reported="No figure: what is divided is the same function.",
        rules=tuple(NotAbove(arm, ONE, tolerance=MILLION * PEAK_RATE / 3) for arm in (TENSOR, FSDP, DDP, MESH)),
        remarks=f"{_EQUALITY_REMARKS} Adam divides a gradient by its size, so that rounding moves a weight whose "
        "gradient is next to nothing as far as any other; the bound is a third of what one step may move.",
        unit="largest difference of a weight, millionths",
        weights=True,
    ),
    CostClaim(
        **_COST,
        name="step_memory",
        statement="Each of two processes that share the matrices holds half of parameters, gradients and moments.",
        source="Shoeybi et al. 2019, table 1 (as reading notes of the paper tell it)",
        reported="1.2B parameters on one device, 2.5B on two, 4.2B on four and 8.3B on eight.",
        rules=tuple(NotAbove(arm, HALF, tolerance=0.02) for arm in (TENSOR, FSDP)),
        remarks=f"{_COST_REMARKS} Peak memory is that of the whole process, with its libraries, activations and the "
        "network, which every process builds whole before it keeps its part.",
        unit="bytes of parameters, gradients and moments, one process = 1",
        memory=True,
    ),
    CostClaim(
        **_COST,
        name="step_time",
        statement="Two processes that share the matrices, or the data, take less time for a step than one.",
        source="Shoeybi et al. 2019, strong scaling of the 1.2B model (as reading notes of the paper tell it)",
        reported="1.64, 2.34 and 2.98 times as fast on 2, 4 and 8 GPUs as on one, with batches of 8 sequences.",
        rules=(Below(TENSOR, ONE), Below(FSDP, ONE)),
        remarks=_COST_REMARKS,
        unit="time of a step, one process = 1",
    ),
]
