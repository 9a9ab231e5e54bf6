"""P-tuning of tasks whose answer is one of a few: classes that a word says, or texts to choose between."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from lmmodules.batch import IGNORED
from lmmodules.losses import token_cross_entropy
from lmmodules.objectives.answers import answer_nats, choice_hinge, class_logits
from lmmodules.objectives.p_tuning import PTuning
from lmmodules.parallel import Term
from lmmodules.prompt_batch import PromptChoiceBatch, VerbalizedBatch


class VerbalizedPTuning(PTuning):
    """P-tuning of a classification: the loss is over the words that say the classes, and not over the vocabulary.

    Takes the arguments of `PTuning`.

    Source:
        Liu et al. 2021, section 4; Schick & Schütze 2021, section 3; `PT-Fewshot/pet/wrapper.py` of THUDM/P-tuning.
    """

    batch_type: ClassVar[type] = VerbalizedBatch
    loss_unit: ClassVar[str] = "nats per row"

    def scores(self, batch: Any) -> Tensor:
        """Logits of the classes of rows that have a label, (N, C).

        Args:
            batch: A `VerbalizedBatch`.
        """
        return class_logits(self.answer_logits(batch)[1], batch["verbalizer"])

    def losses(self, batch: Any) -> dict[str, Term]:
        """Cross-entropy (nats) over the classes, and how often the likeliest was right."""
        classes = batch["classes"][batch["classes"] != IGNORED]
        logits = self.scores(batch)
        total, count = token_cross_entropy(logits, classes)
        correct = (logits.argmax(-1) == classes).sum()
        return {"loss": Term(total, count), "accuracy": Term(correct, count, weight=0.0)}


class ChoicePTuning(PTuning):
    """P-tuning of a choice between texts: the right one must be likelier than the others by a margin.

    Takes the arguments of `PTuning`. The answer is the text of the least nats in all.

    Source:
        `CopaTaskHelper` in `PT-Fewshot/pet` of THUDM/P-tuning.

    Differences:
        There the masks of an answer are filled one after the other when it is scored; here all at once, as in training.
    """

    batch_type: ClassVar[type] = PromptChoiceBatch
    loss_unit: ClassVar[str] = "nats of margin per question"

    def scores(self, batch: Any) -> Tensor:
        """Nats of the answers (B, C, 2): in all, and per token; those of questions that do not count are 0.

        Args:
            batch: A `PromptChoiceBatch`.
        """
        questions, choices = batch["input_ids"].shape[:2]
        by_sequence = ("input_ids", "prompt_ids", "labels", "attention_mask")
        flat = {name: batch[name].flatten(0, 1) for name in by_sequence if name in batch}
        return answer_nats(self.answer_logits(flat)[1], flat["labels"]).view(questions, choices, 2)

    def losses(self, batch: Any) -> dict[str, Term]:
        """The hinge over nats per token, and how often the likeliest text was right."""
        nats, classes = self.scores(batch), batch["classes"]
        total, count = choice_hinge(nats[..., 1], classes)
        correct = (nats[..., 0].argmin(-1) == classes).sum()
        return {"loss": Term(total, count), "accuracy": Term(correct, count, weight=0.0)}
