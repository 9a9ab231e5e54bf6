"""P-tuning (Liu et al. 2021): that learned pseudo-tokens get more facts out of a frozen model than words do."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from lmmodules.claims.base import Claim, Measurement
from lmmodules.claims.materials import material
from lmmodules.claims.rules import Below

if TYPE_CHECKING:
    from lmmodules.trial import FinishedRun, Trial

RELATIONS = ("P103", "P140", "P407")
"""Native language, religion, language of a work."""
MANUAL, LEARNED, TUNED, MAJORITY = "manual prompt", "P-tuning", "fine-tuning", "most frequent answer"


@dataclass(frozen=True)
class Probing(Claim):
    """Every arm on every relation by itself, scored by P@1 on all of its test facts."""

    def measure(self, trial: Trial) -> Measurement:
        """Train each arm on each relation.

        Args:
            trial: Trains the runs of the seed.
        """
        from lmmodules.trial import drop_checkpoints

        by_arm: dict[str, list[float]] = {MAJORITY: []}
        figures: dict[str, float] = {}
        for relation in RELATIONS:
            for arm, overrides in self.arms.items():
                run = trial.train(f"{arm} {relation}", *overrides, f"data.relations=[{relation}]")
                by_arm.setdefault(arm, []).append(precision(run))
                figures[f"{relation}, {arm}"] = by_arm[arm][-1]
                drop_checkpoints(run)
            by_arm[MAJORITY].append(float(run.outcome["facts"]["always the most frequent object"].split()[0]))
            figures[f"{relation}, {MAJORITY}"] = by_arm[MAJORITY][-1]
        return Measurement({arm: fmean(values) for arm, values in by_arm.items()} | figures)


def precision(run: FinishedRun) -> float:
    """P@1 of a finished run; 0 if it diverged.

    Args:
        run: Of `objective=p_tuning`.
    """
    return 0.0 if run.outcome["diverged"] else run.loss("val/accuracy")


PROMPTS_LEARNED = Probing(
    paper="p_tuning",
    name="facts",
    statement=(
        "Pseudo-tokens that are learned in front of and behind the subject get more facts out of a frozen language "
        "model than a sentence written by hand, and than the most frequent answer."
    ),
    source="Liu et al. 2021, section 4.1, table 2",
    reported=(
        "The best GPT model gets about 64 % P@1 on LAMA, over 20 points more than the best before (abstract of "
        "version 1)."
    ),
    setting=(
        "model=pretrained",
        f"model.weights={material('LMM_SMOLLM2')}",
        "tokenizer=hub",
        f"tokenizer.name={material('LMM_SMOLLM2')}",
        "objective=p_tuning",
        f"data.path={material('LMM_LAMA')}",
        "data.skip_long_objects=true",
        "data.validation_split=test",
        "data.max_length=64",
        "schedule=linear",
        "optimizer.weight_decay=0",
    ),
    arms={
        # One step at a rate that changes no weight of 32 bits: the model as it is.
        MANUAL: ("data.template=manual", "objective.tune_backbone=true", "optimizer.lr=1e-30", "max_steps=1"),
        LEARNED: ("optimizer.lr=5e-3",),
        TUNED: ("data.template=manual", "objective.tune_backbone=true", "optimizer.lr=5e-5"),
    },
    rules=(Below(MANUAL, LEARNED), Below(MAJORITY, LEARNED)),
    sizes={
        "cpu": ("data.batch_size=16", "max_steps=75", "validate_every_steps=75"),
        "gpu": ("data.batch_size=16", "max_steps=500", "validate_every_steps=500"),
    },
    remarks=(
        "Of LAMA's 41 relations three were run: P103 (native language), P140 (religion) and P407 (language of a work). "
        "The model is causal: no masked model with its head could be had, so that nothing is said of BERT or RoBERTa. "
        "Each relation has a run of its own for every arm, and each figure without a relation is the mean over "
        "relations. Facts whose object is not one token of SmolLM2 are left out, and every token may be the answer. "
        "The manual prompt is LAMA's sentence up to the object."
    ),
    unit="P@1 on test facts",
    needs=("LMM_LAMA", "LMM_SMOLLM2"),
)

CLAIMS = (PROMPTS_LEARNED,)
