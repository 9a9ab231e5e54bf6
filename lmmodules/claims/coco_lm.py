"""COCO-LM (Meng et al. 2021): what its contrastive loss does, what it corrects, and what that is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmmodules.claims.base import Claim, Measurement
from lmmodules.claims.materials import material
from lmmodules.claims.rules import Below

if TYPE_CHECKING:
    from lmmodules.trial import FinishedRun, Trial

COCO_LM, ROBERTA, RANDOM = "COCO-LM", "masked LM, equal compute", "random weights"
LENGTH = 64
CPU_NETWORK = (
    "model=encoder_small",
    "position=coco_lm",
    "model.num_layers=4",
    "model.hidden_size=128",
    "model.initializer_std=0.05",
    "tokenizer.vocab_size=2048",
    "data=standard_library",
    f"data.max_length={LENGTH}",
    "data.batch_size=16",
    "schedule=linear",
    "optimizer.lr=2e-3",
    "optimizer.betas=[0.9,0.98]",
    "trainer.gradient_clip_val=2.0",
    "trainer.limit_val_batches=20",
)
GPU_NETWORK = (
    "model=encoder_small",
    "position=coco_lm",
    "model.num_layers=6",
    "model.hidden_size=512",
    "model.num_heads=8",
    "tokenizer.vocab_size=8192",
    "data=standard_library",
    "data.max_length=256",
    "data.batch_size=128",
    "schedule=linear",
    "optimizer.lr=5e-4",
    "optimizer.betas=[0.9,0.98]",
    "trainer.gradient_clip_val=2.0",
    "trainer.limit_val_batches=20",
)
EVALUATION = (
    "evaluation=correction",
    "evaluation.max_batches=40",
    "data=standard_library",
    f"data.max_length={LENGTH}",
)


@dataclass(frozen=True)
class TwoViewsClaim(Claim):
    """Trains with and without the contrastive loss, and compares views of held-out text."""

    def measure(self, trial: Trial) -> Measurement:
        """Mean cosines of each run.

        Args:
            trial: Trains the runs of the seed.
        """
        figures: dict[str, float] = {}
        for arm, overrides in self.arms.items():
            found = trial.evaluate(trial.train(arm, *overrides), *EVALUATION)
            positive, unrelated = (found.get(f"{kind}_pairs", math.inf) for kind in ("positive", "unrelated"))
            figures |= {
                arm: positive - unrelated,
                f"{arm}: of two views of a text": positive,
                f"{arm}: of views of two texts": unrelated,
            }
        return Measurement(figures)


@dataclass(frozen=True)
class CorrectionClaim(Claim):
    """Trains with both forms of correction, and counts replaced tokens whose original is known."""

    def measure(self, trial: Trial) -> Measurement:
        """Shares of each run.

        Args:
            trial: Trains the runs of the seed.
        """
        figures, curves = {}, {}
        guess = math.inf
        for arm, overrides in self.arms.items():
            run = trial.train(arm, *overrides)
            found = trial.evaluate(run, *EVALUATION)
            figures[arm] = found.get("correction_accuracy", 0.0)
            curves[arm] = run.curve("val/correction_accuracy")
            guess = min(guess, found.get("most_frequent_token", math.inf))
        return Measurement(figures | {"always the most frequent token": guess}, curves)


@dataclass(frozen=True)
class FineTuningClaim(Claim):
    """Pretrains in two ways at equal compute, and fine-tunes both on sentences with a class.

    Attributes:
        fine_tuning: Overrides of the fine-tuning runs, but for the weights they start from.
        network: Those of `model` that a start from random weights repeats.
    """

    fine_tuning: tuple[str, ...] = ()
    network: tuple[str, ...] = ()

    def measure(self, trial: Trial) -> Measurement:
        """Held-out accuracy of each; the masked LM is trained for as many steps as COCO-LM's arithmetic pays for.

        Args:
            trial: Trains the runs of the seed.
        """
        corrected = trial.train(COCO_LM, *self.arms[COCO_LM])
        steps = round(corrected.curve()[-1][0] * flops_per_token(corrected) / self._masked_flops(trial))
        masked = trial.train(ROBERTA, *self.arms[ROBERTA], f"max_steps={steps}")
        tuned = {arm: self._fine_tune(trial, arm, run) for arm, run in ((COCO_LM, corrected), (ROBERTA, masked))}
        tuned[RANDOM] = self._fine_tune(trial, RANDOM, corrected, pretrained=False)
        curves = {arm: run.curve("val/accuracy") for arm, run in tuned.items()}
        return Measurement({arm: curve[-1][1] for arm, curve in curves.items()}, curves)

    def _masked_flops(self, trial: Trial) -> float:
        return flops_per_token(trial.train(f"{ROBERTA}, one step", *self.arms[ROBERTA], "max_steps=1"))

    def _fine_tune(self, trial: Trial, arm: str, run: FinishedRun, *, pretrained: bool = True) -> FinishedRun:
        start = ("model=pretrained", f"model.weights={run.directory}") if pretrained else self.network
        tokens = ("tokenizer=checkpoint", f"tokenizer.path={run.directory}")
        return trial.train(f"{arm}, fine-tuned", *self.fine_tuning, *start, *tokens)


def flops_per_token(run: FinishedRun) -> float:
    """Floating-point operations of one forward per token of a run's objective.

    Args:
        run: Finished, on sequences of `LENGTH`.
    """
    from lmmodules.checkpoint import load

    return load(run.directory).flops_per_token(LENGTH)


WITHOUT, MIXTURE = "COCO-LM without the contrastive loss", "COCO-LM, mixture form"

CLAIMS = (
    TwoViewsClaim(
        paper="coco_lm",
        name="two_views",
        statement=(
            "The contrastive loss brings two views of a text nearer to each other than to views of other texts; "
            "without it they are hardly told apart."
        ),
        source="Meng et al. 2021, ablations",
        reported="The mean cosine of similar pairs is 0.925 with the contrastive loss and 0.863 without it.",
        setting=("objective=coco_lm", "objective.auxiliary_depth=0.5"),
        arms={COCO_LM: (), WITHOUT: ("objective.scl=false",)},
        rules=(Below(WITHOUT, COCO_LM),),
        sizes={
            "cpu": (*CPU_NETWORK, "max_steps=600", "validate_every_steps=200"),
            "gpu": (*GPU_NETWORK, "max_steps=10000", "validate_every_steps=1000"),
        },
        remarks=(
            "A figure by the name of a run is the mean cosine of the two views of a text minus that of views of two "
            "texts: cosines by themselves say little, since states that are all alike have a cosine of one. They are "
            "between the first states of the main model, before any head, on held-out text, among batches of 16."
        ),
        unit="cosine",
    ),
    CorrectionClaim(
        paper="coco_lm",
        name="correction",
        statement="The main model learns to write the original where the auxiliary model has replaced a token.",
        source="Meng et al. 2021, ablations",
        reported="One loss over all tokens in place of both is worse on tasks, and its accuracy of copying is low.",
        setting=("objective=coco_lm", "objective.auxiliary_depth=0.5"),
        arms={COCO_LM: (), MIXTURE: ("objective.clm_form=mixture",)},
        rules=(Below("always the most frequent token", COCO_LM), Below("always the most frequent token", MIXTURE)),
        sizes={
            "cpu": (*CPU_NETWORK, "max_steps=600", "validate_every_steps=200"),
            "gpu": (*GPU_NETWORK, "max_steps=10000", "validate_every_steps=1000"),
        },
        remarks=(
            "Of the tokens that the auxiliary model has replaced by others, the share whose original the "
            "language-model head holds for the likeliest, on held-out text. What is not replaced does not count. In so "
            "few steps the auxiliary model itself has learned little more than how frequent tokens are, so that nearly "
            "every token it fills in is wrong, and there is little to learn from."
        ),
        unit="share of replaced tokens",
    ),
    FineTuningClaim(
        paper="coco_lm",
        name="fine_tuning",
        statement="At equal compute, correcting and contrasting prepare a network better for a task than masking does.",
        source="Meng et al. 2021, abstract; microsoft/COCO-LM, README",
        reported=(
            "ELECTRA's accuracy on MNLI with half of its hours of pretraining. The released base++ model has 90.2 % on "
            "MNLI-m and 88.6 on average over GLUE."
        ),
        setting=(),
        arms={
            COCO_LM: (
                "objective=coco_lm",
                "objective.auxiliary_depth=0.5",
                *CPU_NETWORK,
                "max_steps=600",
                "validate_every_steps=200",
            ),
            ROBERTA: ("objective=roberta", *CPU_NETWORK, "validate_every_steps=1000", "max_steps=1"),
        },
        rules=(Below(ROBERTA, COCO_LM), Below(RANDOM, COCO_LM)),
        sizes={"cpu": (), "gpu": ()},
        remarks=(
            "Both pretrain on the same code and prose of the Python standard library, the masked LM for as many more "
            "steps as one of COCO-LM has more floating-point operations, and are then fine-tuned on film-review "
            "sentences, far from what they have read; a tenth is held out. Networks of this size and so little text "
            "say little about the paper's."
        ),
        unit="share of held-out sentences that are right",
        needs=("LMM_REVIEWS",),
        fine_tuning=(
            "experiment=fine_tuning",
            "data=labelled",
            f"data.path={material('LMM_REVIEWS')}",
            f"data.max_length={LENGTH}",
            "data.batch_size=32",
            "max_steps=568",
            "validate_every_steps=142",
            "optimizer.lr=5e-4",
        ),
        network=(
            "model=encoder_small",
            "position=coco_lm",
            "model.num_layers=4",
            "model.hidden_size=128",
            "model.initializer_std=0.05",
        ),
    ),
)
