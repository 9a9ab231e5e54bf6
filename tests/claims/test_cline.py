"""What the claims of CLINE compare."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from lmmodules.claims.cline import CLAIMS, CLINE, MASKED, RANDOM, UNTRAINED, WITHOUT
from lmmodules.composition import compose_config

NEARER, ATTACK = CLAIMS


class Trial:
    """Runs that are finished, with figures by arm."""

    def __init__(
        self,
        curves: dict[str, list[tuple[float, float]]] | None = None,
        figures: dict[str, dict[str, float]] | None = None,
        diverged: str = "",
    ) -> None:
        self.curves, self.figures, self.diverged = curves or {}, figures or {}, diverged
        self.asked: dict[str, tuple[str, ...]] = {}

    def train(self, arm: str, *overrides: str) -> Any:
        self.asked[arm] = overrides
        curve = self.curves.get(arm, [(1.0, 0.5)])
        return SimpleNamespace(
            arm=arm,
            directory=Path("runs", arm),
            curve=lambda metric: curve,
            outcome={"diverged": "so it did" if arm == self.diverged else ""},
        )

    def evaluate(self, run: Any, *overrides: str) -> Any:
        assert {"evaluation=synonym_attack", "evaluation.max_rows=300"} <= set(overrides)
        return self.figures[run.arm.removesuffix(", fine-tuned")]


def held(claim: Any, measured: Any) -> bool:
    return all(rule.judge([measured.figures]).held for rule in claim.rules)


@pytest.mark.parametrize(("without", "holds"), [(0.6, True), (0.95, False)])
def test_the_last_share_counts(without: float, holds: bool) -> None:
    curves = {CLINE: [(1.0, 0.2), (2.0, 0.9)], WITHOUT: [(1.0, 0.1), (2.0, without)], UNTRAINED: [(1.0, 0.3)]}
    measured = NEARER.measure(Trial(curves))  # type: ignore[arg-type]
    assert measured.figures == {CLINE: 0.9, WITHOUT: without, UNTRAINED: 0.3}
    assert set(measured.curves) == {CLINE, WITHOUT}
    assert held(NEARER, measured) is holds


def test_a_run_that_diverged_is_near_nothing() -> None:
    measured = NEARER.measure(Trial(diverged=CLINE))  # type: ignore[arg-type]
    assert measured.figures[CLINE] == 0
    assert not held(NEARER, measured)


@pytest.mark.parametrize(("masked", "plain", "holds"), [(0.3, 0.6, True), (0.45, 0.6, False), (0.3, 0.9, False)])
def test_what_is_left_under_attack_counts_where_it_costs_nothing(masked: float, plain: float, holds: bool) -> None:
    figures = {
        CLINE: {"accuracy": 0.6, "attacked_accuracy": 0.4, "turned": 1 / 3},
        MASKED: {"accuracy": plain, "attacked_accuracy": masked, "turned": 2 / 3},
        RANDOM: {"accuracy": 0.5, "attacked_accuracy": 0.1, "turned": 0.8},
    }
    trial = Trial(figures=figures)
    measured = ATTACK.measure(trial)  # type: ignore[arg-type]
    assert {arm: measured.figures[arm] for arm in figures} == {CLINE: 0.4, MASKED: masked, RANDOM: 0.1}
    assert measured.figures[f"{MASKED}: not attacked"] == plain
    assert held(ATTACK, measured) is holds
    weights = {arm: [o for o in trial.asked[f"{arm}, fine-tuned"] if "weights" in o] for arm in figures}
    assert weights == {CLINE: [f"model.weights=runs/{CLINE}"], MASKED: [f"model.weights=runs/{MASKED}"], RANDOM: []}
    assert f"tokenizer.path=runs/{CLINE}" in trial.asked[f"{RANDOM}, fine-tuned"]


def test_a_network_that_diverged_keeps_nothing() -> None:
    lost = {"loss": float("inf")}
    measured = ATTACK.measure(Trial(figures=dict.fromkeys((CLINE, MASKED, RANDOM), lost)))  # type: ignore[arg-type]
    assert measured.figures[CLINE] == 0
    assert not held(ATTACK, measured)


def test_both_pretrain_alike_and_cline_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMM_WORDNET", "wordnet")
    monkeypatch.setenv("LMM_REVIEWS", "reviews.tsv")
    first = compose_config("train", *NEARER.overrides("cpu"), *NEARER.arms[CLINE])
    again, masked = (compose_config("train", *ATTACK.overrides("cpu"), *ATTACK.arms[arm]) for arm in (CLINE, MASKED))
    assert OmegaConf.to_yaml(first) == OmegaConf.to_yaml(again)  # unresolved: the time of day may be another by now
    for part in ("model", "data.corpus", "data.batch_size", "data.max_length", "tokenizer", "optimizer", "max_steps"):
        assert OmegaConf.select(again, part) == OmegaConf.select(masked, part), part
    assert again.transform.wordnet == "wordnet"
    tuned = compose_config("train", *ATTACK.overrides("cpu"), *ATTACK.fine_tuning, *ATTACK.network)
    for key in ("num_layers", "hidden_size", "num_heads", "intermediate_size"):
        assert tuned.model.get(key) == again.model.get(key)
    assert tuned.model.position._target_ == again.model.position._target_
    without = compose_config("train", *NEARER.overrides("cpu"), *NEARER.arms[WITHOUT])
    assert (first.objective.contrast_weight, without.objective.contrast_weight) == (1.0, 0)
