"""RoBERTa (Liu et al. 2019): what it claims of masking, of the form of the input, and of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmmodules.claims.base import Claim, Measurement
from lmmodules.claims.materials import material
from lmmodules.claims.rules import Below, NotAbove

if TYPE_CHECKING:
    from lmmodules.objectives import Objective
    from lmmodules.trial import Trial

OBJECTIVE = "objective=roberta"
UNIT = "held-out loss, nats per hidden token"
NETWORK = (
    "model=encoder_small",
    "optimizer.betas=[0.9,0.98]",
    "schedule=linear",
    "data=standard_library",
)
"""A pre-norm encoder, which learns in few steps, with the optimizer's betas and the schedule of the paper."""

DYNAMIC_MASKING = Claim(
    paper="roberta",
    name="dynamic_masking",
    statement="Masks drawn anew in every epoch are as good as ten static masks per sample, or slightly better.",
    source="Liu et al. 2019, section 4.1 and table 1",
    reported=(
        "Dynamic against 10 static masks: 78.7 against 78.3 F1 on SQuAD 2.0, 84.0 against 84.3 % on MNLI-m, 92.9 "
        "against 92.5 % on SST-2."
    ),
    setting=(OBJECTIVE, *NETWORK),
    arms={
        "dynamic": ("transform.num_static_masks=null",),
        "10 static masks": ("transform.num_static_masks=10",),
        "1 static mask": ("transform.num_static_masks=1",),
    },
    rules=(NotAbove("dynamic", "10 static masks", tolerance=0.05), Below("dynamic", "1 static mask")),
    sizes={
        "cpu": (
            "model.num_layers=2",
            "model.hidden_size=128",
            "tokenizer.vocab_size=512",
            "data.validation_fraction=0.995",
            "data.max_length=64",
            "data.batch_size=16",
            "optimizer.lr=2e-3",
            "max_steps=1000",
            "validate_every_steps=50",
            "trainer.limit_val_batches=30",
        ),
        "gpu": (
            "model.num_layers=6",
            "model.hidden_size=512",
            "model.num_heads=8",
            "tokenizer.vocab_size=8192",
            "data.validation_fraction=0.5",
            "data.max_length=128",
            "data.batch_size=128",
            "optimizer.lr=1e-3",
            "max_steps=5000",
            "validate_every_steps=250",
            "trainer.limit_val_batches=20",
        ),
    },
    remarks=(
        "A few files of text are seen some forty times, as in the paper, where ten masks are seen four times each; all "
        "other text is held out, and its masks never change. The network is trained far longer than so little text "
        "would ask for, because that is where the masks matter. The paper scores fine-tuned networks; here it is the "
        "loss itself."
    ),
    unit=UNIT,
)


EVALUATION = ("packing=sentences", "transform=masking", "evaluation.max_batches=60")


@dataclass(frozen=True)
class SameText(Claim):
    """Networks trained on input of different forms, scored on the same hidden tokens of the same text.

    Their own validation losses are of different samples with different masks, so each network is scored once more on
    full sentences of the text that was held out, by its loss on hidden tokens alone.
    """

    def measure(self, trial: Trial) -> Measurement:
        """Train each form, score all on full sentences, and beside that each in its own form.

        Args:
            trial: Trains the runs of the seed.
        """
        figures, own = {}, {}
        for arm, overrides in self.arms.items():
            run = trial.train(arm, *overrides)
            figures[arm] = trial.evaluate(run, *EVALUATION, *trial.text_overrides, prepare=predict_tokens_alone)["loss"]
            of_tokens = "val/masked_lm" if run.curve("val/masked_lm") else "val/loss"
            own[f"{arm}, in its own form"] = run.loss(of_tokens)
        return Measurement(figures | own)


def predict_tokens_alone(objective: Objective) -> None:
    """Leave the prediction of the next sentence away, which full sentences have no labels for.

    Args:
        objective: Of RoBERTa; changed in place.
    """
    from lmmodules.objectives import RoBERTa

    assert isinstance(objective, RoBERTa)
    objective.next_sentence_head = None
    objective.perplexity_term = "loss"


FORMS = {
    "full sentences": ("packing=sentences",),
    "doc sentences": ("packing=sentences", "packing.cross_documents=false"),
    "segment pairs": ("packing=segment_pairs",),
    "sentence pairs": ("packing=sentence_pairs",),
}
"""The four forms of section 4.2; pairs bring next-sentence prediction."""
FORM_SETTING = (OBJECTIVE, *NETWORK, "model.num_token_types=2")
FORM_SIZES = {
    "cpu": (
        "model.num_layers=2",
        "model.hidden_size=128",
        "tokenizer.vocab_size=512",
        "data.validation_fraction=0.05",
        "data.max_length=64",
        "data.batch_tokens=1024",
        "optimizer.lr=2e-3",
        "max_steps=1000",
        "validate_every_steps=100",
        "trainer.limit_val_batches=30",
    ),
    "gpu": (
        "model.num_layers=6",
        "model.hidden_size=512",
        "model.num_heads=8",
        "tokenizer.vocab_size=8192",
        "data.validation_fraction=0.05",
        "data.max_length=256",
        "data.batch_tokens=16384",
        "optimizer.lr=1e-3",
        "max_steps=5000",
        "validate_every_steps=250",
        "trainer.limit_val_batches=20",
    ),
}
FORM_REMARKS = (
    "The rule is about the loss on full sentences of held-out text, the same hidden tokens for all networks. That "
    "favours those that were trained on full sentences. Beside it stands the loss of each network in the form it was "
    "trained on: there the samples and their hidden tokens differ from form to form, so that these figures cannot be "
    "compared. The paper scores fine-tuned networks. A sentence is a line."
)
SHORT_PAIRS_REMARK = (
    " Pairs of lines seldom fill a sample: its last positions are hardly trained, and what these add is a matter of "
    "luck."
)

INPUT_FORMATS = SameText(
    paper="roberta",
    name="input_formats",
    statement="Full sentences without next-sentence prediction are better than pairs of segments with it.",
    source="Liu et al. 2019, section 4.2 and table 2",
    reported=(
        "Full sentences against segment pairs: 79.1 against 78.7 F1 on SQuAD 2.0, 84.7 against 84.0 % on MNLI-m, 92.5 "
        "against 92.9 % on SST-2, 64.8 against 64.2 % on RACE."
    ),
    setting=FORM_SETTING,
    arms={form: FORMS[form] for form in ("full sentences", "doc sentences", "segment pairs")},
    rules=(Below("full sentences", "segment pairs"),),
    sizes=FORM_SIZES,
    remarks=FORM_REMARKS,
    unit=UNIT,
)

SENTENCE_PAIRS = SameText(
    paper="roberta",
    name="sentence_pairs",
    statement="Pairs of single sentences are worse than pairs of segments.",
    source="Liu et al. 2019, section 4.2 and table 2",
    reported=(
        "Sentence pairs against segment pairs: 76.2 against 78.7 F1 on SQuAD 2.0, 82.9 against 84.0 % on MNLI-m, 92.1 "
        "against 92.9 % on SST-2, 63.0 against 64.2 % on RACE."
    ),
    setting=FORM_SETTING,
    arms={form: FORMS[form] for form in ("segment pairs", "sentence pairs")},
    rules=(Below("segment pairs", "sentence pairs"),),
    sizes=FORM_SIZES,
    remarks=FORM_REMARKS + SHORT_PAIRS_REMARK,
    unit=UNIT,
)

PRETRAINED, RANDOM, FOUR_OF_FIVE = "MiniLM", "its network, random weights", "four of five"


@dataclass(frozen=True)
class FineTunedClassifier(Claim):
    """Fine-tunes a published encoder on labelled sentences, and its network from random weights."""

    def measure(self, trial: Trial) -> Measurement:
        """Accuracy on held-out sentences at the end.

        Args:
            trial: Trains the runs of the seed.
        """
        from lmmodules.trial import drop_checkpoints

        runs = {arm: trial.train(arm, *overrides) for arm, overrides in self.arms.items()}
        for run in runs.values():
            drop_checkpoints(run)
        curves = {arm: run.curve("val/accuracy") for arm, run in runs.items()}
        return Measurement({arm: curve[-1][1] for arm, curve in curves.items()} | {FOUR_OF_FIVE: 0.8}, curves)


FINE_TUNING = FineTunedClassifier(
    paper="roberta",
    name="fine_tuning",
    statement=(
        "A network that was pretrained on other text learns a task from a few thousand labelled sentences far better "
        "than the same network from random weights."
    ),
    source="Liu et al. 2019, section 5; Devlin et al. 2019, section 4",
    reported="RoBERTa large has an accuracy of 96.4 % on SST-2, phrases of film reviews, and 86.6 % on RTE.",
    setting=(
        "experiment=fine_tuning",
        f"data.path={material('LMM_REVIEWS')}",
        f"tokenizer.name={material('LMM_MINILM')}",
    ),
    arms={
        PRETRAINED: (f"model.weights={material('LMM_MINILM')}",),
        RANDOM: (
            "model=bert_base",
            "model.num_layers=6",
            "model.hidden_size=384",
            "model.intermediate_size=1536",
        ),
    },
    rules=(Below(FOUR_OF_FIVE, PRETRAINED), Below(RANDOM, PRETRAINED, by=0.05)),
    sizes={
        "cpu": ("max_steps=284", "validate_every_steps=71"),
        "gpu": ("max_steps=852", "validate_every_steps=142"),
    },
    remarks=(
        "MiniLM is an encoder of 6 layers and 384 dimensions, distilled from a larger BERT and trained further on "
        "pairs of sentences by others. The sentences are of film reviews, without those that ten people found neutral "
        "on average; 9,074 are learned from, once, and 969 are held out, half of them positive."
    ),
    unit="share of held-out sentences that are right",
    needs=("LMM_REVIEWS", "LMM_MINILM"),
)

CLAIMS = (DYNAMIC_MASKING, INPUT_FORMATS, SENTENCE_PAIRS, FINE_TUNING)
