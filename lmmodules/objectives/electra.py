"""ELECTRA: tell the tokens that a small masked language model has put in place of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from lmmodules.batch import IGNORED, DetectionBatch, TokenBatch
from lmmodules.errors import InputError
from lmmodules.losses import detection_cross_entropy, linear_cross_entropy
from lmmodules.models.auxiliary import AuxiliaryLM, Shared, draw_tokens
from lmmodules.models.backbone import Backbone
from lmmodules.models.detection_head import DetectionHead
from lmmodules.objectives.base import Objective, OptimizerFactory
from lmmodules.optim import ParameterGroups
from lmmodules.parallel import Term

Sampling = Literal["evaluation", "training"]


@dataclass(frozen=True)
class CorruptedText:
    """A batch whose masked positions were filled in by the auxiliary model.

    Attributes:
        input_ids: (B, T) tokens, without a mask.
        rows: (M,) the positions of the flattened batch that were filled in.
        labels: (M,) the original tokens there.
        originals: (B * T,) bool, whether a token is the original.
        counted: (B * T,) bool, whether a position is a token; `None` where all are.
    """

    input_ids: Tensor
    rows: Tensor
    labels: Tensor
    originals: Tensor
    counted: Tensor | None


class ELECTRA(Objective):
    """A small masked language model fills in the masked tokens; the backbone tells which tokens are not the original.

    Both are trained together. A token that was drawn right counts as original. No gradient passes from the backbone's
    loss to the auxiliary model, except into what they share.

    Args:
        backbone: Token ids in, hidden states out; bidirectional.
        auxiliary_depth: The auxiliary model's share of the backbone's blocks, rounded, and at least one.
        auxiliary_width: Its share of the backbone's heads, hidden size and inner size, rounded to whole heads.
        auxiliary_dropout: Its probability of dropping; `None` for the backbone's.
        shared: What it shares with the backbone: `embeddings` (all before the blocks), `tokens` (the token embedding)
            or `none`.
        sampling: `evaluation` draws tokens from its distribution without dropout, for which it runs twice where it
            has any; `training` draws from the distribution that its loss is computed of.
        detection_transform: Whether hidden states pass dense and GELU before the logit.
        detection_weight: Weight of the detection loss; that of the auxiliary model is 1.
        optimizer: See `Objective`.
        parameter_groups: See `Objective`.

    Raises:
        InputError: When the backbone is causal or an argument is out of range.

    Source:
        Clark et al. 2020, "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators", sections 2
        and 3; google-research/electra, `run_pretraining.py`, `configure_pretraining.py`.

    Differences:
        Tokens are drawn by inverting the cumulative distribution at a number that belongs to the sample, where the
        released code takes the largest of logits with Gumbel noise: the same distribution.
    """

    batch_type: ClassVar[type] = DetectionBatch
    needs_causal: ClassVar[bool | None] = False
    loss_unit: ClassVar[str] = "(weighted sum of its terms)"
    perplexity_term = "auxiliary"
    masked_share: float = 0.15
    """Share of the positions that are filled in, until a batch has shown it."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        auxiliary_depth: float = 1.0,
        auxiliary_width: float = 0.25,
        auxiliary_dropout: float | None = None,
        shared: Shared = "embeddings",
        sampling: Sampling = "evaluation",
        detection_transform: bool = True,
        detection_weight: float = 50.0,
        optimizer: OptimizerFactory | None = None,
        parameter_groups: ParameterGroups | None = None,
    ) -> None:
        super().__init__(backbone, optimizer=optimizer, parameter_groups=parameter_groups)
        if sampling not in get_args(Sampling):
            raise InputError(
                f"`sampling` must be one of {', '.join(get_args(Sampling))}, but is {sampling!r}; use "
                "`objective.sampling=evaluation`"
            )
        if detection_weight <= 0:
            raise InputError(
                f"`detection_weight` must be positive, but is {detection_weight}; use `objective.detection_weight=50`"
            )
        self.auxiliary = AuxiliaryLM(
            backbone,  # type: ignore[arg-type]  # a protocol is no module; what is none is refused there
            depth=auxiliary_depth,
            width=auxiliary_width,
            dropout=auxiliary_dropout,
            shared=shared,
        )
        self.detection_head = DetectionHead(
            backbone.hidden_size,
            transform=detection_transform,
            initializer_std=self.auxiliary.initializer_std,
        )
        self.sampling = sampling
        self.detection_weight = detection_weight

    def forward(self, batch: TokenBatch) -> Tensor:
        """Logits (B, T) that each token of a text is the original; nothing is masked or replaced."""
        logits: Tensor = self.detection_head(self.backbone(batch["input_ids"], **context(batch)))
        return logits

    def losses(self, batch: DetectionBatch) -> dict[str, Term]:
        """Cross-entropies (nats) of the auxiliary model and of detection, and their accuracies."""
        text, terms = self.corrupt(batch)
        hidden = self.backbone(text.input_ids, **context(batch)).flatten(0, 1)
        return terms | self.detect(self.detection_head(hidden), text)

    def corrupt(self, batch: DetectionBatch) -> tuple[CorruptedText, dict[str, Term]]:
        """Let the auxiliary model fill in the masked positions.

        Args:
            batch: A masked batch.

        Returns:
            The corrupted text, and the loss (nats) and accuracy of the auxiliary model.
        """
        labels = batch["labels"].flatten()
        rows = torch.nonzero(labels != IGNORED).squeeze(1)  # (M,)
        self.masked_share = len(rows) / len(labels)
        labels = labels[rows]
        features = self.auxiliary.features(batch["input_ids"], rows, **context(batch))
        weight, bias = self.auxiliary.output_weight, self.auxiliary.head.bias
        total, count, correct = linear_cross_entropy(features, weight, labels, bias=bias, with_accuracy=True)

        if self.sampling == "evaluation" and self.auxiliary.drops:
            with torch.no_grad(), self.auxiliary.without_dropout():
                features = self.auxiliary.features(batch["input_ids"], rows, **context(batch))
        drawn = draw_tokens(features, weight, bias, batch["draws"].flatten()[rows])

        masked = batch["input_ids"].flatten()
        corrupted = masked.index_copy(0, rows, drawn)
        attention_mask = batch.get("attention_mask")
        text = CorruptedText(
            input_ids=corrupted.view_as(batch["input_ids"]),
            rows=rows,
            labels=labels,
            originals=corrupted == masked.index_copy(0, rows, labels),
            counted=None if attention_mask is None else attention_mask.flatten().bool(),
        )
        terms = {"auxiliary": Term(total, count), "auxiliary_accuracy": Term(correct, count, weight=0.0)}
        return text, terms

    def detect(self, logits: Tensor, text: CorruptedText) -> dict[str, Term]:
        """Cross-entropy (nats) of detection, and the share that was right of the replaced and of the original tokens.

        Args:
            logits: (B * T,) that a token is the original.
            text: What the backbone has read.
        """
        total, count = detection_cross_entropy(logits, text.originals, text.counted)
        replaced, original = ~text.originals, text.originals
        if text.counted is not None:
            replaced, original = replaced & text.counted, original & text.counted
        taken_for_original = logits.detach() > 0
        num_replaced, num_original = replaced.sum(), original.sum()
        return {
            "detection": Term(total, count, weight=self.detection_weight),
            "replaced": Term(num_replaced, count, weight=0.0),
            "replaced_accuracy": Term((replaced & ~taken_for_original).sum(), num_replaced, weight=0.0),
            "original_accuracy": Term((original & taken_for_original).sum(), num_original, weight=0.0),
        }

    def flops_per_token(self, length: int) -> float:
        """Floating-point operations of one forward per token, of which training takes three times as many.

        A second run of the auxiliary model for its draws, without a backward pass, counts as a third.

        Args:
            length: Tokens per sequence T.
        """
        runs = 4 / 3 if self.sampling == "evaluation" and self.auxiliary.drops else 1
        auxiliary = runs * self.auxiliary.flops_per_token(length)
        auxiliary += 4 / 3 * self.masked_share * self.auxiliary.head.flops_per_token()
        return auxiliary + self.backbone.flops_per_token(length) + self.detection_head.flops_per_token()


def context(batch: TokenBatch) -> dict[str, Any]:
    """What a network is told of a batch besides its tokens.

    Args:
        batch: Token ids and masks.
    """
    return {
        "attention_mask": batch.get("attention_mask"),
        "document_ids": batch.get("document_ids"),
        "token_type_ids": batch.get("token_type_ids"),
    }
