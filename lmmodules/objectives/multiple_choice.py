"""Which of several sequences is the right one."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from lmmodules.batch import IGNORED, ChoiceBatch, TokenBatch
from lmmodules.losses import token_cross_entropy
from lmmodules.models.backbone import Backbone
from lmmodules.objectives.base import OptimizerFactory
from lmmodules.objectives.sequence_objective import SequenceObjective
from lmmodules.optim import ParameterGroups
from lmmodules.parallel import Term


class MultipleChoice(SequenceObjective):
    """Give every option of a question a score, and learn the right one by the softmax over them.

    Validation logs `val/accuracy`.

    Args:
        backbone: Token ids in, hidden states out.
        pooler_dropout: Probability of dropping an element in the head; see `SequenceObjective`.
        optimizer: See `Objective`.
        parameter_groups: See `Objective`.

    Source:
        Liu et al. 2019, section 5.4; fairseq, `criterions/sentence_ranking.py`.
    """

    batch_type = ChoiceBatch

    def __init__(
        self,
        backbone: Backbone,
        *,
        pooler_dropout: float = 0.0,
        optimizer: OptimizerFactory | None = None,
        parameter_groups: ParameterGroups | None = None,
    ) -> None:
        super().__init__(
            backbone, 1, pooler_dropout=pooler_dropout, optimizer=optimizer, parameter_groups=parameter_groups
        )

    def forward(self, batch: TokenBatch) -> Tensor:
        """The score of each option, (B, C)."""
        questions, choices = batch["input_ids"].shape[:2]
        flat: TokenBatch = {"input_ids": batch["input_ids"].flatten(0, 1)}
        if "attention_mask" in batch:
            flat["attention_mask"] = batch["attention_mask"].flatten(0, 1)
        if "token_type_ids" in batch:
            flat["token_type_ids"] = batch["token_type_ids"].flatten(0, 1)
        return super().forward(flat).view(questions, choices)

    def terms(self, outputs: Tensor, labels: Tensor) -> dict[str, Term]:
        """Cross-entropy (nats) over the options, and how often the likeliest was right.

        Args:
            outputs: (B, C) scores.
            labels: (B,) options, `IGNORED` where none is asked for.
        """
        total, count = token_cross_entropy(outputs, labels)
        correct = (outputs.argmax(-1) == labels).sum()
        return {"loss": Term(total, count), "accuracy": Term(correct, count, weight=0.0)}

    def predict(self, outputs: Tensor) -> Tensor:
        """The likeliest option of each question."""
        return outputs.argmax(-1)

    def metrics(self, predictions: Tensor, labels: Tensor) -> dict[str, float]:
        """Accuracy.

        Args:
            predictions: (N,) options.
            labels: (N,) options, `IGNORED` where none is asked for.
        """
        counted = labels != IGNORED
        predictions, labels = predictions[counted], labels[counted]
        num_choices = max(2, int(max(predictions.max(), labels.max())) + 1)
        return {"accuracy": float(multiclass_accuracy(predictions, labels, num_choices, average="micro"))}
