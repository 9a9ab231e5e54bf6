"""What the claims of Megatron-LM compare: runs that are started as a person starts them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lmmodules.claims.launched import LaunchedTrial
from lmmodules.claims.megatron import (
    ACCUMULATED,
    CLAIMS,
    CLIPPED_MESH,
    CLIPPED_ONE,
    DDP,
    FSDP,
    HALF,
    HALF_BATCH,
    MESH,
    ONE,
    TENSOR,
    TWO_THREADS,
    CostClaim,
    EqualityClaim,
    farthest,
    largest_so_far,
    process_costs,
)
from lmmodules.composition import compose_config
from lmmodules.run_directory import write_json
from lmmodules.trial import Trial

EQUAL_LOSSES, EQUAL_WEIGHTS, STEP_MEMORY, STEP_TIME = CLAIMS
SHARED = (TENSOR, FSDP, DDP, MESH)


def held(claim: Any, measured: Any) -> bool:
    return all(rule.judge([measured.figures]).held for rule in claim.rules)


def test_the_largest_difference_so_far() -> None:
    assert largest_so_far([5.0, 4.5, 4.0], [5.25, 4.0, 4.0]) == [0.25, 0.5, 0.5]
    weights = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([0.5])}
    assert farthest(weights, {"a": torch.tensor([1.0, -2.5]), "b": torch.tensor([0.25])}) == 0.5


class Launched:
    """Runs that are finished: losses and weights are off by so much, by arm."""

    def __init__(self, off: dict[str, float]) -> None:
        self.off = off

    def launch(self, arm: str, *overrides: str) -> Any:
        losses = [(1.0, 8.0), (2.0, 7.0 + self.off.get(arm, 0.0)), *((float(step), 6.0) for step in range(3, 21))]
        return SimpleNamespace(arm=arm, curve=lambda metric: losses if metric == "train/loss" else [])


def measure_equality(claim: Any, off: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("lmmodules.claims.megatron.LaunchedTrial.of", lambda trial: Launched(off))
    monkeypatch.setattr(
        "lmmodules.claims.megatron.trained_weights", lambda run: {"w": torch.tensor([off.get(run.arm, 0.0)])}
    )
    return claim.measure(None)


@pytest.mark.parametrize("wrong", [None, *SHARED])
def test_whoever_is_off_breaks_the_claim(wrong: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    off = {HALF_BATCH: 0.1, ACCUMULATED: 5e-7, CLIPPED_ONE: 1.0, CLIPPED_MESH: 1.00025} | (
        {wrong: 2e-3} if wrong else {}
    )
    losses = measure_equality(EQUAL_LOSSES, off, monkeypatch)
    assert losses.figures == pytest.approx(
        {TENSOR: 0, FSDP: 0, DDP: 0, MESH: 0, ACCUMULATED: 0.5, ONE: 0} | ({wrong: 2000} if wrong else {}), abs=1e-6
    )
    assert [step for step, _ in losses.curves[ACCUMULATED]] == list(range(1, 21))
    assert [value for _, value in losses.curves[ACCUMULATED][:3]] == pytest.approx([0, 0.5, 0.5], abs=1e-6)
    assert held(EQUAL_LOSSES, losses) is (wrong is None)

    weights = measure_equality(EQUAL_WEIGHTS, off, monkeypatch)
    assert weights.figures[ACCUMULATED] == pytest.approx(0.5)
    assert not weights.curves
    assert held(EQUAL_WEIGHTS, weights) is (wrong is None)

    (table, learned) = losses.tables.values()
    rows = {row["run"]: row for row in table}
    assert rows[HALF_BATCH] == {"run": HALF_BATCH, "compared with": ONE, "a loss": "1.0e-01", "a weight": "1.0e-01"}
    assert rows[CLIPPED_MESH]["compared with"] == CLIPPED_ONE
    assert rows[CLIPPED_MESH]["a loss"] == "2.5e-04"
    assert [row["loss"] for row in learned] == ["8.0000", "6.0000", "6.0000", "6.0000"]


def test_a_step_sees_as_many_sequences_whoever_shares_them() -> None:
    def sequences(claim: Any, arm: str) -> int:
        config = compose_config("train", *claim.overrides("cpu"), *claim.arms[arm])
        strategy = str(config.trainer.strategy)
        tensor = config.strategy.tensor_parallel_size if "MeshStrategy" in strategy else 1
        batches = config.data.batch_size * config.trainer.accumulate_grad_batches
        return int(batches * config.trainer.devices // tensor)

    assert {arm: sequences(EQUAL_LOSSES, arm) for arm in EQUAL_LOSSES.arms} == dict.fromkeys(EQUAL_LOSSES.arms, 16) | {
        HALF_BATCH: 8
    }
    assert {sequences(STEP_TIME, arm) for arm in STEP_TIME.arms} == {4}


@pytest.mark.parametrize(("arm", "clipped"), [(MESH, None), (CLIPPED_MESH, 1.0)])
def test_only_what_says_so_is_clipped(arm: str, clipped: float | None) -> None:
    config = compose_config("train", *EQUAL_LOSSES.overrides("cpu"), *EQUAL_LOSSES.arms[arm])
    assert config.trainer.gradient_clip_val == clipped


def test_claims_share_their_runs() -> None:
    for first, second in ((EQUAL_LOSSES, EQUAL_WEIGHTS), (STEP_MEMORY, STEP_TIME)):
        assert (first.arms, first.overrides("cpu")) == (second.arms, second.overrides("cpu"))


class Turns:
    """Runs of some cost, by arm; the third that is asked for is on a busy machine."""

    def __init__(self, directory: Path, seconds: dict[str, float], states: dict[str, int]) -> None:
        self.directory, self.seconds, self.states = directory, seconds, states
        self.asked: list[tuple[str, int, int]] = []

    def launch(self, arm: str, *overrides: str, threads: int = 1, turn: int = 0) -> Any:
        self.asked.append((arm, threads, turn))
        directory = self.directory / f"{arm}{turn}"
        (directory / "checkpoints").mkdir(parents=True)
        slow = 10.0 if len(self.asked) == 3 else 1.0
        for rank in range(1 if arm in (ONE, TWO_THREADS) else 2):
            steps = [99.0, 99.0, *[self.seconds[arm] * slow] * 5]
            costs = {"step_seconds": steps, "state_bytes": self.states[arm] - rank, "peak_bytes": 5e8 + rank}
            write_json(directory / f"process_{rank}.json", costs)
        return SimpleNamespace(arm=arm, directory=directory)


@pytest.mark.parametrize("good", [True, False])
def test_costs_are_relative_and_one_slow_turn_is_no_matter(
    good: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {ONE: 2.0, TENSOR: 1.5 if good else 2.5, FSDP: 1.0, TWO_THREADS: 1.25}
    states = {ONE: 1000, TENSOR: 510 if good else 530, FSDP: 500, TWO_THREADS: 1000}
    made = [Turns(tmp_path / name, seconds, states) for name in ("time", "memory")]
    launched = iter(made)
    monkeypatch.setattr("lmmodules.claims.megatron.LaunchedTrial.of", lambda trial: next(launched))
    time = STEP_TIME.measure(None)  # type: ignore[arg-type]
    assert time.figures == {ONE: 1.0, TENSOR: 0.75 if good else 1.25, FSDP: 0.5, TWO_THREADS: 0.625}
    memory = STEP_MEMORY.measure(None)  # type: ignore[arg-type]
    assert memory.figures == {ONE: 1.0, TENSOR: 0.51 if good else 0.53, FSDP: 0.5, HALF: 0.5}
    assert (held(STEP_TIME, time), held(STEP_MEMORY, memory)) == (good, good)

    arms = [ONE, TENSOR, FSDP, TWO_THREADS]
    assert [arm for arm, _, _ in made[0].asked] == [*arms, *arms[1:], *arms[:1], *arms[2:], *arms[:2]]
    assert Counter(made[0].asked) == Counter(
        (arm, 2 if arm == TWO_THREADS else 1, turn) for arm in arms for turn in range(3)
    )
    assert not list(tmp_path.rglob("checkpoints"))
    (table,) = time.tables.values()
    assert [list(row.values()) for row in table][2] == [FSDP, "1.00", "0.0", "500"]


def test_the_process_that_took_most_counts(tmp_path: Path) -> None:
    for rank, second in enumerate((1.0, 3.0)):
        costs = {"step_seconds": [50.0, 50.0, second], "state_bytes": 10 - rank, "peak_bytes": 7 + rank}
        write_json(tmp_path / f"process_{rank}.json", costs)
    assert process_costs(SimpleNamespace(directory=tmp_path)) == {"seconds": 3, "states": 10, "peak": 8}  # type: ignore[arg-type]


@pytest.fixture
def small(tiny: list[str]) -> tuple[str, ...]:
    """Overrides that come after those of a claim and make its runs small."""
    return (*(override for override in tiny if "batch_size" not in override), "objective=megatron")


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_and_one(small: tuple[str, ...], tmp_path: Path) -> None:
    arms = {arm: EQUAL_LOSSES.arms[arm] for arm in (ONE, TENSOR, HALF_BATCH)}
    setting = (*small, "max_steps=20", "trainer.gradient_clip_val=null")
    claim = EqualityClaim(**{**vars(EQUAL_LOSSES), "arms": arms, "setting": setting, "rules": EQUAL_LOSSES.rules[:1]})
    trial = Trial(tmp_path, claim.overrides("cpu"), 0)
    measured = claim.measure(trial)
    assert held(claim, measured)
    assert 0 < measured.figures[TENSOR] < 10
    (table, _) = measured.tables.values()
    assert float(table[1]["a loss"]) > 1e-3, "half of the batch is another run"
    assert [run.arm for run in trial.runs] == list(arms)
    again = dataclasses.replace(claim, weights=True).measure(Trial(tmp_path, claim.overrides("cpu"), 0))
    assert 0 < again.figures[TENSOR] < 100


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_hold_half_each(small: tuple[str, ...], tmp_path: Path) -> None:
    setting = [override for override in STEP_MEMORY.setting if "experiment" not in override]
    trial = Trial(tmp_path, (*small, *setting, "trainer.accelerator=cpu"), 0)
    assert isinstance(STEP_MEMORY, CostClaim)
    launched = LaunchedTrial.of(trial)
    held_by = {arm: process_costs(launched.launch(arm, *STEP_MEMORY.arms[arm])) for arm in (ONE, TENSOR, FSDP)}
    for arm in (TENSOR, FSDP):
        assert 0.49 < held_by[arm]["states"] / held_by[ONE]["states"] < 0.55  # norms and positions are not divided
