"""What classification, regression and multiple choice share: one token stands for its sequence, and a head reads it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from lmmodules.batch import TokenBatch
from lmmodules.models.backbone import Backbone
from lmmodules.models.classification_head import ClassificationHead
from lmmodules.objectives.base import Objective, OptimizerFactory
from lmmodules.optim import ParameterGroups
from lmmodules.parallel import Term, data_parallel_group
from lmmodules.parallel.gather import gather_rows


class SequenceObjective(Objective):
    """A backbone with a head over one state per sequence.

    That is the state of the first token, which a bidirectional backbone lets see all others; of a causal backbone it
    is that of the last token, the only one that has seen them. The last layer works for that token alone.

    Validation keeps a prediction per sequence, gathers those of all ranks once, and logs metrics of the whole.

    Args:
        backbone: Token ids in, hidden states out.
        num_outputs: Numbers per sequence.
        pooler_dropout: Probability of dropping an element in the head; 0 as in fairseq, where transformers takes the
            backbone's, 0.1.
        optimizer: See `Objective`.
        parameter_groups: See `Objective`.

    Source:
        Liu et al. 2019, section 5; Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training"
        (the last token of a causal backbone).
    """

    perplexity_term: str | None = None
    loss_unit: ClassVar[str] = "nats per sequence"
    """What the loss counts, for a table."""
    headline: ClassVar[tuple[str, ...]] = ("accuracy",)
    """Metrics of validation that stand in the table at the end of a run."""

    def __init__(
        self,
        backbone: Backbone,
        num_outputs: int,
        *,
        pooler_dropout: float = 0.0,
        optimizer: OptimizerFactory | None = None,
        parameter_groups: ParameterGroups | None = None,
    ) -> None:
        super().__init__(backbone, optimizer=optimizer, parameter_groups=parameter_groups)
        self.head = ClassificationHead(backbone.hidden_size, num_outputs, dropout=pooler_dropout)
        self._validated: list[tuple[Tensor, Tensor]] = []

    @abstractmethod
    def terms(self, outputs: Tensor, labels: Tensor) -> dict[str, Term]:
        """The loss, and what is watched beside it.

        Args:
            outputs: What `forward` gives.
            labels: (B,).
        """

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """The answer to each sequence, comparable with its label.

        Args:
            outputs: What `forward` gives.

        Returns:
            (B,).
        """

    @abstractmethod
    def metrics(self, predictions: Tensor, labels: Tensor) -> dict[str, float]:
        """How good predictions are, by name.

        Args:
            predictions: (N,) from `predict`.
            labels: (N,); those that do not count are left out.
        """

    def forward(self, batch: TokenBatch) -> Tensor:
        """What the head says of each sequence, (B, C)."""
        attention_mask = batch.get("attention_mask")
        rows = pooled_rows(batch["input_ids"], attention_mask, causal=self.backbone.causal)
        pooled = self.backbone(
            batch["input_ids"],
            attention_mask=attention_mask,
            document_ids=batch.get("document_ids"),
            token_type_ids=batch.get("token_type_ids"),
            rows=rows,
        )
        outputs: Tensor = self.head(pooled)
        return outputs

    def losses(self, batch: Any) -> dict[str, Term]:
        """See `terms`."""
        return self.terms(self(batch), batch["labels"])

    def on_validation_epoch_start(self) -> None:
        """Start without predictions."""
        super().on_validation_epoch_start()
        self._validated.clear()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add one batch to the loss, and keep its predictions."""
        outputs, labels = self(batch), batch["labels"]
        terms = self.terms(outputs, labels)
        self.validation_totals.add({name: term for name, term in terms.items() if term.weight})
        self._validated.append((self.predict(outputs).detach(), labels))

    def on_validation_epoch_end(self) -> None:
        """Log `val/loss`, and the metrics of the predictions of all ranks."""
        super().on_validation_epoch_end()
        if not self._validated:
            return
        group = data_parallel_group(self)
        predictions = gather_rows(torch.cat([part for part, _ in self._validated]), group).rows
        labels = gather_rows(torch.cat([part for _, part in self._validated]), group).rows
        self._validated.clear()
        metrics = self.metrics(predictions, labels)
        # Equal on all ranks already; saying so with `sync_dist` is what Lightning asks of an epoch's metrics.
        self.log_dict({f"val/{name}": torch.tensor(value) for name, value in metrics.items()}, sync_dist=True)

    def flops_per_token(self, length: int) -> float:
        """Floating-point operations of one forward per token: the backbone's, and the share of the head's.

        Args:
            length: Tokens per sequence T.
        """
        return self.backbone.flops_per_token(length) + self.head.flops_per_sequence() / length


def pooled_rows(input_ids: Tensor, attention_mask: Tensor | None, *, causal: bool) -> Tensor:
    """Where in the flattened batch the token stands that stands for its sequence.

    Args:
        input_ids: (B, T).
        attention_mask: (B, T), 1 at tokens; `None` where all are.
        causal: Take the last token of each sequence instead of the first.

    Returns:
        (B,) int64.
    """
    batch, length = input_ids.shape
    starts = torch.arange(batch, device=input_ids.device) * length
    if attention_mask is None:
        return starts + (length - 1 if causal else 0)
    if causal:
        return starts + length - 1 - attention_mask.flip(1).argmax(1)
    return starts + attention_mask.argmax(1)
