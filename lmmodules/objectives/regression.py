"""A number for a sequence, or for a pair of them."""

from __future__ import annotations

import math
import warnings
from typing import ClassVar

from torch import Tensor
from torchmetrics.functional.regression import pearson_corrcoef, spearman_corrcoef

from lmmodules.batch import ScoredBatch
from lmmodules.models.backbone import Backbone
from lmmodules.objectives.base import OptimizerFactory
from lmmodules.objectives.sequence_objective import SequenceObjective
from lmmodules.optim import ParameterGroups
from lmmodules.parallel import Term


class Regression(SequenceObjective):
    """Say how large the score of a sequence is, by least squares.

    Validation logs `val/pearson` and `val/spearman`, the metrics of STS-B.

    Args:
        backbone: Token ids in, hidden states out.
        pooler_dropout: Probability of dropping an element in the head; see `SequenceObjective`.
        optimizer: See `Objective`.
        parameter_groups: See `Objective`.

    Source:
        Liu et al. 2019, section 5.1; fairseq, `criterions/sentence_prediction.py` (`regression_target`).
    """

    batch_type = ScoredBatch
    loss_unit: ClassVar[str] = "squared error per sequence"
    headline: ClassVar[tuple[str, ...]] = ("pearson", "spearman")

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

    def terms(self, outputs: Tensor, labels: Tensor) -> dict[str, Term]:
        """Squared error.

        Args:
            outputs: (B, 1) scores.
            labels: (B,) scores, NaN where none is asked for.
        """
        counted = ~labels.isnan()
        errors = self.predict(outputs).float()[counted] - labels[counted]
        return {"loss": Term(errors.square().sum(), counted.sum())}

    def predict(self, outputs: Tensor) -> Tensor:
        """The score of each sequence."""
        return outputs.squeeze(-1)

    def metrics(self, predictions: Tensor, labels: Tensor) -> dict[str, float]:
        """Pearson's and Spearman's correlation; 0 where predictions or labels are all the same.

        Args:
            predictions: (N,) scores.
            labels: (N,) scores, NaN where none is asked for.
        """
        counted = ~labels.isnan()
        predictions, labels = predictions[counted].cpu().double(), labels[counted].cpu().double()
        if len(labels) < 2:
            return {"pearson": 0.0, "spearman": 0.0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a variance near zero, which is what 0 says
            found = {
                "pearson": float(pearson_corrcoef(predictions, labels)),
                "spearman": float(spearman_corrcoef(predictions, labels)),
            }
        return {name: value if math.isfinite(value) else 0.0 for name, value in found.items()}
