"""Masked language modelling."""

from __future__ import annotations

from typing import ClassVar

import torch

from lmmodules.batch import IGNORED, MaskedBatch
from lmmodules.models.heads import LanguageModelHead
from lmmodules.objectives.language_model import LanguageModel
from lmmodules.parallel import Term


class MaskedLM(LanguageModel):
    """Predict the tokens that were hidden, from both sides.

    Only the selected positions pass through the last layer's feed-forward network and the head, which changes nothing
    in the result: no other position is read by the loss.

    Source:
        Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers", section 3.1.
    """

    batch_type = MaskedBatch
    needs_causal: ClassVar[bool | None] = False
    label_share = 0.15  # until a batch has shown it

    def default_head(self) -> LanguageModelHead:
        """BERT's head: dense, GELU, LayerNorm, the tied output matrix and a bias per token."""
        return LanguageModelHead(
            self.backbone.hidden_size,
            self.backbone.vocab_size,
            transform=True,
            bias=True,
            norm_eps=getattr(self.backbone, "norm_eps", 1e-5),
            embedding_size=self.backbone.token_embedding.embedding_dim,
        )

    def losses(self, batch: MaskedBatch) -> dict[str, Term]:
        """Cross-entropy (nats) at the selected positions, and how often the likeliest token was the original."""
        labels = batch["labels"].flatten()
        rows = torch.nonzero(labels != IGNORED).squeeze(1)  # (M,)
        self.label_share = len(rows) / len(labels)
        return self.cross_entropy(self.hidden_states(batch, rows=rows), labels[rows])
