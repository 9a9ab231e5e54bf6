"""What masked and causal language models share: a head over the vocabulary and its cross-entropy."""

from __future__ import annotations

from torch import Tensor

from lmmodules.batch import TokenBatch
from lmmodules.errors import InputError
from lmmodules.losses import linear_cross_entropy
from lmmodules.models.backbone import Backbone
from lmmodules.models.heads import LanguageModelHead
from lmmodules.objectives.base import Objective, OptimizerFactory
from lmmodules.optim import ParameterGroups
from lmmodules.parallel import Term


class LanguageModel(Objective):
    """A backbone with a head over the vocabulary.

    Args:
        backbone: Token ids in, hidden states out.
        head: Hidden states to logits; `None` gives the objective's default head.
        label_smoothing: Share of a target's probability spread evenly over the vocabulary, in training only.
        optimizer: See `Objective`.
        parameter_groups: See `Objective`.
    """

    head: LanguageModelHead
    label_share: float = 1.0
    """Share of the positions that have a label, and so need the head."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        head: LanguageModelHead | None = None,
        label_smoothing: float = 0.0,
        optimizer: OptimizerFactory | None = None,
        parameter_groups: ParameterGroups | None = None,
    ) -> None:
        super().__init__(backbone, optimizer=optimizer, parameter_groups=parameter_groups)
        if not 0.0 <= label_smoothing < 1.0:
            raise InputError(
                f"`label_smoothing` must lie in [0, 1), but is {label_smoothing}; use `objective.label_smoothing=0.1`"
            )
        self.head = head or self.default_head()
        self.label_smoothing = label_smoothing

    def default_head(self) -> LanguageModelHead:
        """The output matrix tied to the token embedding, and nothing else."""
        return LanguageModelHead(
            self.backbone.hidden_size,
            self.backbone.vocab_size,
            embedding_size=self.backbone.token_embedding.embedding_dim,
        )

    def hidden_states(self, batch: TokenBatch, rows: Tensor | None = None) -> Tensor:
        """Run the backbone on a batch.

        Args:
            batch: Token ids and masks.
            rows: (M,) positions of the flattened batch whose states are wanted; `None` for all.

        Returns:
            (B, T, D) hidden states, or (M, D) with `rows`.
        """
        hidden: Tensor = self.backbone(
            batch["input_ids"],
            attention_mask=batch.get("attention_mask"),
            document_ids=batch.get("document_ids"),
            token_type_ids=batch.get("token_type_ids"),
            rows=rows,
        )
        return hidden

    def forward(self, batch: TokenBatch) -> Tensor:
        """Logits at every position, (B, T, V). Training never makes them whole; see `losses`."""
        return self.logits(self.hidden_states(batch))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., D)."""
        logits: Tensor = self.head(hidden, self.backbone.token_embedding.weight)
        return logits

    def cross_entropy(self, hidden: Tensor, labels: Tensor) -> dict[str, Term]:
        """Cross-entropy and accuracy of states (N, D) against labels (N,), without ever holding (N, V) logits."""
        total, count, correct = linear_cross_entropy(
            self.head.features(hidden),
            self.head.output_weight(self.backbone.token_embedding.weight),
            labels,
            bias=self.head.bias,
            label_smoothing=self.label_smoothing if self.training else 0.0,
            with_accuracy=True,
        )
        return {"loss": Term(total, count), "accuracy": Term(correct, count, weight=0.0)}

    def flops_per_token(self, length: int) -> int:
        """Floating-point operations of one forward per token: the backbone's, and the head's where there is a label.

        Args:
            length: Tokens per sequence T.
        """
        return round(self.backbone.flops_per_token(length) + self.label_share * self.head.flops_per_token())
