"""CLINE (Wang et al. 2021): what its contrastive loss does to views of a text, and what it is worth under attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmmodules.claims.base import Claim, Measurement
from lmmodules.claims.materials import material
from lmmodules.claims.rules import Below, NotAbove

if TYPE_CHECKING:
    from lmmodules.trial import FinishedRun, Trial

CLINE, WITHOUT, UNTRAINED = "CLINE", "CLINE without the contrastive loss", "untrained"
MASKED, RANDOM = "masked LM, equal steps", "random weights"
CPU_NETWORK = ("model=encoder_small", "position=rotary", "model.num_layers=2", "model.hidden_size=128")
GPU_NETWORK = ("model=encoder_small", "position=rotary", "model.num_layers=6", "model.hidden_size=512")
CPU_PRETRAINING = (
    *CPU_NETWORK,
    "tokenizer.vocab_size=2048",
    "data=standard_library",
    "data.max_length=96",
    "data.batch_size=12",
    "schedule=linear",
    "optimizer.lr=2e-3",
    "optimizer.betas=[0.9,0.98]",
    "trainer.gradient_clip_val=2.0",
    "trainer.limit_val_batches=40",
)
GPU_PRETRAINING = (
    *GPU_NETWORK,
    "model.num_heads=8",
    "tokenizer.vocab_size=8192",
    "data=standard_library",
    "data.max_length=256",
    "data.batch_size=64",
    "schedule=linear",
    "optimizer.lr=5e-4",
    "optimizer.betas=[0.9,0.98]",
    "trainer.gradient_clip_val=2.0",
    "trainer.limit_val_batches=40",
)
CPU_STEPS = ("max_steps=400", "validate_every_steps=200")
GPU_STEPS = ("max_steps=10000", "validate_every_steps=1000")
OBJECTIVE = (
    "objective=cline",
    f"transform.wordnet={material('LMM_WORDNET')}",
    "objective.learned_weights=false",
)
ATTACK = (
    "evaluation=synonym_attack",
    f"evaluation.wordnet={material('LMM_WORDNET')}",
    "evaluation.max_rows=300",
    "data.batch_size=256",
)


@dataclass(frozen=True)
class NearerViewClaim(Claim):
    """Trains with and without the contrastive loss, and not at all, and compares the views of held-out text."""

    def measure(self, trial: Trial) -> Measurement:
        """The share of texts that are nearer to their synonym view, of each run.

        Args:
            trial: Trains the runs of the seed.
        """
        runs = {arm: trial.train(arm, *overrides) for arm, overrides in self.arms.items()}
        curves = {arm: run.curve("val/nearer") for arm, run in runs.items()}
        figures = {arm: 0.0 if run.outcome["diverged"] else curves[arm][-1][1] for arm, run in runs.items()}
        return Measurement(figures, {arm: curve for arm, curve in curves.items() if arm != UNTRAINED})


@dataclass(frozen=True)
class AttackClaim(Claim):
    """Pretrains in two ways, fine-tunes both on sentences with a class, and swaps words of what was held out.

    Attributes:
        fine_tuning: Overrides of the fine-tuning runs, but for the weights they start from.
        network: Those of `model` that a start from random weights repeats.
    """

    fine_tuning: tuple[str, ...] = ()
    network: tuple[str, ...] = ()

    def measure(self, trial: Trial) -> Measurement:
        """Held-out accuracy of each network, as the sentences are and under attack.

        Args:
            trial: Trains the runs of the seed.
        """
        figures: dict[str, float] = {}
        curves = {}
        pretrained = {arm: trial.train(arm, *overrides) for arm, overrides in self.arms.items()}
        starts = {
            arm: ("model=pretrained", f"model.weights={run.directory}", *tokens_of(run))
            for arm, run in pretrained.items()
        }
        starts[RANDOM] = (*self.network, *tokens_of(pretrained[CLINE]))
        for arm, start in starts.items():
            run = trial.train(f"{arm}, fine-tuned", *self.fine_tuning, *start)
            found = trial.evaluate(run, *ATTACK)
            figures |= {
                arm: found.get("attacked_accuracy", 0.0),
                not_attacked(arm): found.get("accuracy", 0.0),
                f"{arm}: turned, of those that were right": found.get("turned", 1.0),
            }
            curves[arm] = run.curve("val/accuracy")
        return Measurement(figures, curves)


def not_attacked(arm: str) -> str:
    """Name of the accuracy of an arm on sentences as they are.

    Args:
        arm: Name of the arm.
    """
    return f"{arm}: not attacked"


def tokens_of(run: FinishedRun) -> tuple[str, ...]:
    """Overrides that take the tokenizer of a run.

    Args:
        run: Finished.
    """
    return ("tokenizer=checkpoint", f"tokenizer.path={run.directory}")


CLAIMS = (
    NearerViewClaim(
        paper="cline",
        name="nearer",
        statement=(
            "The contrastive loss brings a text nearer to a view with words of the same meaning than to one with "
            "words of another; without it, or before training, it is not."
        ),
        source="Wang et al. 2021, analysis of sentence semantics",
        reported=(
            "Of 9,626 triplets made of film reviews the paper counts those that are nearer to their synonym view, by "
            "BERTScore (told by third parties' notes on the paper)."
        ),
        setting=OBJECTIVE,
        arms={
            CLINE: (),
            WITHOUT: ("objective.contrast_weight=0",),
            # One step at a rate that changes no weight of 32 bits.
            UNTRAINED: ("optimizer.lr=1e-30", "max_steps=1", "validate_every_steps=1"),
        },
        rules=(Below(WITHOUT, CLINE), Below(UNTRAINED, CLINE)),
        sizes={"cpu": (*CPU_PRETRAINING, *CPU_STEPS), "gpu": (*GPU_PRETRAINING, *GPU_STEPS)},
        remarks=(
            "Nearer by the dot product of first states, the text with its masks, on held-out text. Synonym views have "
            "more words replaced than the others where those are opposites, so that whoever counts changes falls below "
            "one half; and a random noun is told from a synonym by itself, so that a high share is no proof of "
            "meaning."
        ),
        unit="share of held-out texts",
        needs=("LMM_WORDNET",),
    ),
    AttackClaim(
        paper="cline",
        name="attack",
        statement=(
            "Fine-tuned, a network that was pretrained with CLINE keeps more of its accuracy under an attack by "
            "synonyms than one that was pretrained as a masked LM."
        ),
        source="Wang et al. 2021, experiments on adversarial test sets",
        reported=(
            "Half a point more than RoBERTa on average over four data sets under TextFooler (told by third parties' "
            "notes on the paper)."
        ),
        setting=(),
        arms={
            CLINE: (*OBJECTIVE, *CPU_PRETRAINING, *CPU_STEPS),
            MASKED: ("objective=masked_lm", *CPU_PRETRAINING, *CPU_STEPS),
        },
        # Who always answers the same cannot be turned: to be robust is worth something where it costs no accuracy.
        rules=(Below(MASKED, CLINE), NotAbove(not_attacked(MASKED), not_attacked(CLINE), tolerance=0.02)),
        sizes={"cpu": (), "gpu": ()},
        remarks=(
            "A figure by the name of a network is its accuracy under attack. Both pretrain on the Python standard "
            "library for as many steps of as many texts, of which CLINE reads three versions, and are fine-tuned on "
            "film-review sentences; 300 of the tenth that is held out are attacked. Of every five words of a sentence "
            "one may be swapped, for the synonym in WordNet that lowers the probability of the right class most. The "
            "size is the same at both scales. Networks of this size and so little text say little about the paper's."
        ),
        unit="share of held-out sentences that are right",
        needs=("LMM_WORDNET", "LMM_REVIEWS"),
        fine_tuning=(
            "experiment=fine_tuning",
            "data=labelled",
            f"data.path={material('LMM_REVIEWS')}",
            "data.max_length=96",
            "data.batch_size=32",
            "max_steps=284",
            "validate_every_steps=142",
            "optimizer.lr=5e-4",
        ),
        network=CPU_NETWORK,
    ),
)
