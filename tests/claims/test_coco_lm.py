"""What the claims of COCO-LM compare."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from lmmodules.claims import coco_lm
from lmmodules.claims.coco_lm import CLAIMS, COCO_LM, MIXTURE, RANDOM, ROBERTA, WITHOUT
from lmmodules.composition import compose_config

TWO_VIEWS, CORRECTION, FINE_TUNING = CLAIMS


class Trial:
    """Runs that are finished, with figures by arm."""

    overrides = ("trainer.accelerator=cpu",)

    def __init__(self, figures: dict[str, dict[str, float]], curves: dict[str, list[tuple[float, float]]]) -> None:
        self.figures, self.curves = figures, curves
        self.asked: dict[str, tuple[str, ...]] = {}

    def train(self, arm: str, *overrides: str) -> Any:
        self.asked[arm] = overrides
        return SimpleNamespace(
            arm=arm, directory=Path("runs", arm), curve=lambda metric="val/loss": self.curves.get(arm, [(1, 0.5)])
        )

    def evaluate(self, run: Any, *overrides: str) -> Any:
        assert "evaluation=correction" in overrides
        return self.figures[run.arm]


def held(claim: Any, measured: Any) -> bool:
    return all(rule.judge([measured.figures]).held for rule in claim.rules)


@pytest.mark.parametrize(("without", "holds"), [(0.9, True), (0.3, False)])
def test_two_views_are_judged_by_how_far_unrelated_ones_stay(without: float, holds: bool) -> None:
    trial = Trial(
        {
            COCO_LM: {"positive_pairs": 0.9, "unrelated_pairs": 0.1},
            WITHOUT: {"positive_pairs": 0.95, "unrelated_pairs": without - 0.3 if not holds else without},
        },
        {},
    )
    measured = TWO_VIEWS.measure(trial)  # type: ignore[arg-type]
    assert measured.figures[COCO_LM] == pytest.approx(0.8)
    assert measured.figures[f"{WITHOUT}: of two views of a text"] == 0.95
    assert held(TWO_VIEWS, measured) is holds


@pytest.mark.parametrize(("accuracy", "holds"), [(0.2, True), (0.04, False)])
def test_corrections_are_more_than_the_most_frequent_token(accuracy: float, holds: bool) -> None:
    found = {"correction_accuracy": accuracy, "most_frequent_token": 0.05}
    measured = CORRECTION.measure(Trial({COCO_LM: found, MIXTURE: found}, {}))  # type: ignore[arg-type]
    assert measured.figures["always the most frequent token"] == 0.05
    assert held(CORRECTION, measured) is holds


def test_a_run_that_diverged_corrects_nothing() -> None:
    lost = {"loss": math.inf}
    measured = CORRECTION.measure(Trial({COCO_LM: lost, MIXTURE: lost}, {}))  # type: ignore[arg-type]
    assert not held(CORRECTION, measured)


def test_the_masked_model_gets_as_much_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {COCO_LM: 30.0, f"{ROBERTA}, one step": 12.0}
    monkeypatch.setattr(coco_lm, "flops_per_token", lambda run: costs[run.arm])
    curves = {COCO_LM: [(400.0, 3.0), (800.0, 2.0)], f"{COCO_LM}, fine-tuned": [(10.0, 0.8)]}
    trial = Trial({}, curves)
    measured = FINE_TUNING.measure(trial)  # type: ignore[arg-type]
    assert "max_steps=2000" in trial.asked[ROBERTA]
    assert measured.figures == {COCO_LM: 0.8, ROBERTA: 0.5, RANDOM: 0.5}
    assert held(FINE_TUNING, measured)
    started = {arm: [o for o in trial.asked[f"{arm}, fine-tuned"] if "weights" in o] for arm in measured.figures}
    assert started == {
        COCO_LM: [f"model.weights=runs/{COCO_LM}"],
        ROBERTA: [f"model.weights=runs/{ROBERTA}"],
        RANDOM: [],
    }


def test_fine_tuning_starts_from_one_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMM_REVIEWS", "reviews.tsv")
    tuned = compose_config("train", "trainer.accelerator=cpu", *FINE_TUNING.fine_tuning, *FINE_TUNING.network)
    pretrained = compose_config("train", *FINE_TUNING.overrides("cpu"), *FINE_TUNING.arms[COCO_LM])
    assert tuned.data.path == "reviews.tsv"
    for key in ("num_layers", "hidden_size", "num_heads", "intermediate_size"):
        assert tuned.model.get(key) == pretrained.model.get(key)
    assert tuned.model.position._target_ == pretrained.model.position._target_


def test_what_the_claims_share_is_trained_once() -> None:
    configs = {
        OmegaConf.to_yaml(compose_config("train", *claim.overrides("cpu"), *claim.arms[COCO_LM]))
        for claim in (TWO_VIEWS, CORRECTION, FINE_TUNING)
    }
    assert len(configs) == 1
