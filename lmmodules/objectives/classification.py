"""Classification of sequences, or of pairs of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor
from torchmetrics.functional.classification import (
    binary_f1_score,
    multiclass_accuracy,
    multiclass_f1_score,
    multiclass_matthews_corrcoef,
)

from lmmodules.batch import IGNORED, LabelledBatch
from lmmodules.errors import InputError
from lmmodules.losses import token_cross_entropy
from lmmodules.models.backbone import Backbone
from lmmodules.objectives.base import OptimizerFactory
from lmmodules.objectives.sequence_objective import SequenceObjective
from lmmodules.optim import ParameterGroups
from lmmodules.parallel import Term


class Classification(SequenceObjective):
    """Say which class a sequence is of.

    Validation logs `val/accuracy`, `val/f1` (of the second class where there are two, and the mean over the classes
    where there are more) and `val/matthews`, the metrics of GLUE.

    Args:
        backbone: Token ids in, hidden states out.
        classes: Names of the classes, in the order of their numbers; `None` for two, `0` and `1`.
        pooler_dropout: Probability of dropping an element in the head; see `SequenceObjective`.
        optimizer: See `Objective`.
        parameter_groups: See `Objective`.

    Raises:
        InputError: When there are fewer than two classes, or one is named twice; when training starts, when the data
            has others.

    Source:
        Devlin et al. 2019, section 4.1; Liu et al. 2019, section 5.1.
    """

    batch_type = LabelledBatch
    headline: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "matthews")

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str] | None = None,
        *,
        pooler_dropout: float = 0.0,
        optimizer: OptimizerFactory | None = None,
        parameter_groups: ParameterGroups | None = None,
    ) -> None:
        names = ("0", "1") if classes is None else tuple(str(name) for name in classes)
        if len(names) < 2 or len(set(names)) < len(names):
            raise InputError(
                f"`classes` must name two classes or more, each once, but is [{', '.join(names)}]; use "
                "`objective.classes=null` to take those of the data"
            )
        super().__init__(
            backbone,
            len(names),
            pooler_dropout=pooler_dropout,
            optimizer=optimizer,
            parameter_groups=parameter_groups,
        )
        self.classes = names

    def on_fit_start(self) -> None:
        """Compare the classes with those of the data module.

        Raises:
            InputError: When they differ; see also `Objective`.
        """
        super().on_fit_start()
        given = getattr(getattr(self.trainer, "datamodule", None), "classes", self.classes)
        if tuple(given) != self.classes:
            raise InputError(
                f"`classes` must be those of the data, [{', '.join(given)}], but is [{', '.join(self.classes)}]; "
                "build the objective with `classes=data.classes`"
            )

    def terms(self, outputs: Tensor, labels: Tensor) -> dict[str, Term]:
        """Cross-entropy (nats), and how often the likeliest class was right.

        Args:
            outputs: (B, C) logits.
            labels: (B,) classes, `IGNORED` where none is asked for.
        """
        total, count = token_cross_entropy(outputs, labels)
        correct = (outputs.argmax(-1) == labels).sum()
        return {"loss": Term(total, count), "accuracy": Term(correct, count, weight=0.0)}

    def predict(self, outputs: Tensor) -> Tensor:
        """The likeliest class of each sequence."""
        return outputs.argmax(-1)

    def metrics(self, predictions: Tensor, labels: Tensor) -> dict[str, float]:
        """Accuracy, F1 and Matthews' correlation, which is 0 where answers or labels are all of one class.

        Args:
            predictions: (N,) classes.
            labels: (N,) classes, `IGNORED` where none is asked for.
        """
        counted = labels != IGNORED
        predictions, labels = predictions[counted], labels[counted]
        num_classes = len(self.classes)
        if num_classes == 2:
            f1 = binary_f1_score(predictions, labels)
        else:
            f1 = multiclass_f1_score(predictions, labels, num_classes, average="macro")
        # torchmetrics puts a small number in the place of the 0 / 0, and gets anything.
        varied = bool((predictions != predictions[:1]).any() and (labels != labels[:1]).any())
        matthews = multiclass_matthews_corrcoef(predictions, labels, num_classes) if varied else 0.0
        return {
            "accuracy": float(multiclass_accuracy(predictions, labels, num_classes, average="micro")),
            "f1": float(f1),
            "matthews": float(matthews),
        }
