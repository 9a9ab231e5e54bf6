"""What the claims of ALiBi compare, and what they weigh."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lmmodules.claims.alibi import CLAIMS, LENGTHS, CostClaim, ExtrapolationClaim, TrainingStep
from lmmodules.composition import compose_config
from lmmodules.models import Alibi, Sinusoidal, Transformer
from lmmodules.objectives import CausalLM

EXTRAPOLATION, STEP_TIME, STEP_MEMORY = CLAIMS


class Trial:
    """Runs that are finished, whose losses follow a formula."""

    overrides = ("trainer.accelerator=cpu",)

    def __init__(self, losses: dict[str, Any]) -> None:
        self.losses = losses

    def train(self, arm: str, *overrides: str) -> Any:
        return SimpleNamespace(arm=arm, directory=Path(arm))

    def evaluate(self, run: Any, *overrides: str) -> Any:
        assert "evaluation=extrapolation" in overrides
        losses = self.losses[run.arm]
        if losses is None:
            return {"loss": math.inf}
        return {"lengths": [{"length": length, "loss": loss} for length, loss in zip(LENGTHS, losses, strict=False)]}


def losses(alibi_at_1024: float = 3.5, sinusoidal_at_1024: float = 6.0) -> dict[str, Any]:
    return {
        "alibi": [3.7, 3.6, 3.55, alibi_at_1024, 3.5],
        "rotary": [3.6, 3.7, 4.0, 4.5, 5.0],
        "sinusoidal": [3.7, 4.0, 5.0, sinusoidal_at_1024, 7.0],
        "learned": [3.7],
    }


def held(measured: Any) -> bool:
    return all(rule.judge([measured.figures]).held for rule in EXTRAPOLATION.rules)


def test_extrapolation_compares_far_lengths_with_that_of_training() -> None:
    measured = EXTRAPOLATION.measure(Trial(losses()))  # type: ignore[arg-type]
    assert measured.figures["alibi"] == 3.5
    assert measured.figures["alibi at 128"] == 3.7
    assert measured.figures["sinusoidal"] == 6.0
    assert "learned" not in measured.figures
    assert measured.curves["alibi"] == list(zip(LENGTHS, losses()["alibi"], strict=True))
    assert measured.curves["learned at 128"] == [(128, 3.7)]
    assert set(measured.curves) <= set(measured.figures), "a curve has the colour of its figure"
    assert held(measured)


@pytest.mark.parametrize("wrong", [{"alibi_at_1024": 3.71}, {"sinusoidal_at_1024": 3.6}])
def test_it_can_fail(wrong: dict[str, float]) -> None:
    assert not held(EXTRAPOLATION.measure(Trial(losses(**wrong))))  # type: ignore[arg-type]


def test_a_run_that_diverged_is_infinitely_bad() -> None:
    measured = EXTRAPOLATION.measure(Trial({**losses(), "sinusoidal": None}))  # type: ignore[arg-type]
    assert measured.figures["sinusoidal"] == measured.figures["sinusoidal at 128"] == math.inf


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_every_arm_composes(claim: Any, scale: str) -> None:
    for overrides in claim.arms.values():
        config = compose_config("train", *claim.overrides(scale), *overrides)
        if isinstance(claim, ExtrapolationClaim):
            assert config.data.max_length == 128


def test_rules_name_figures_that_there_are() -> None:
    measured = EXTRAPOLATION.measure(Trial(losses()))  # type: ignore[arg-type]
    for rule in EXTRAPOLATION.rules:
        assert {rule.first, rule.second} <= set(measured.figures)
    for claim in (STEP_TIME, STEP_MEMORY):
        assert isinstance(claim, CostClaim)
        assert set(dict(claim.lengths)) == set(claim.arms)
        assert claim.compared_with in claim.arms
        for rule in claim.rules:
            assert {rule.first, rule.second} <= set(claim.arms)


def objective(position: Any) -> CausalLM:
    torch.manual_seed(0)
    network = Transformer(
        vocab_size=50, hidden_size=16, num_layers=2, num_heads=2, causal=True, position=position, initializer_std=0.3
    )
    return CausalLM(network).train()


def test_costs_are_relative(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"alibi": 2.0, "sinusoidal": 4.0, "sinusoidal at twice the length": 6.0}
    made: list[str] = []

    class Step:
        def __init__(self, model: Any, length: int, tokens: int) -> None:
            self.arm = model.arm
            assert length == {"alibi": 1024, "sinusoidal": 1024}.get(self.arm, 2048)
            assert tokens == 8192

        def seconds(self) -> float:
            made.append(self.arm)
            return seconds[self.arm] * (5.0 if len(made) == 7 else 1.0)

        def kept_bytes(self) -> int:
            return int(seconds[self.arm])

    def load(directory: Path, device: str) -> Any:
        return SimpleNamespace(train=lambda: SimpleNamespace(arm=str(directory)))

    monkeypatch.setattr("lmmodules.claims.alibi.TrainingStep", Step)
    monkeypatch.setattr("lmmodules.checkpoint.load", load)
    expected = {"alibi": 0.5, "sinusoidal": 1.0, "sinusoidal at twice the length": 1.5}
    assert STEP_TIME.measure(Trial({})).figures == expected, "one slow step is no matter"  # type: ignore[arg-type]
    assert len(made) == 3 * 8
    assert STEP_MEMORY.measure(Trial({})).figures == expected  # type: ignore[arg-type]


def test_a_step_learns_and_is_timed() -> None:
    model = objective(Alibi(2))
    before = model.backbone.token_embedding.weight.clone()
    step = TrainingStep(model, 8, 32)
    assert step.batch["input_ids"].shape == (4, 8)
    assert step.seconds() > 0
    assert not torch.equal(model.backbone.token_embedding.weight, before)
    assert model.backbone.token_embedding.weight.grad is None


def test_what_is_kept_is_weighed() -> None:
    """Weights are counted once; a batch twice as large keeps more; the bias is a row and no matrix."""
    small, large = (TrainingStep(objective(Alibi(2)), 64, tokens).kept_bytes() for tokens in (256, 512))
    assert 1.3 * small < large < 2 * small
    ours, waves = (TrainingStep(objective(position), 256, 1024).kept_bytes() for position in (Alibi(2), Sinusoidal()))
    assert abs(ours - waves) < 2 * 256 * 256 * 4, "less than one matrix (H, T, T)"
