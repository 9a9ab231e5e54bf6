"""RoBERTa: masked language modelling, with BERT's next-sentence prediction where sentence pairs are trained on."""

from __future__ import annotations

import torch

from lmmodules.batch import IGNORED, MaskedBatch
from lmmodules.errors import InputError
from lmmodules.losses import token_cross_entropy
from lmmodules.models.backbone import Backbone
from lmmodules.models.classification_head import ClassificationHead
from lmmodules.models.heads import LanguageModelHead
from lmmodules.objectives.base import OptimizerFactory
from lmmodules.objectives.masked_lm import MaskedLM
from lmmodules.optim import ParameterGroups
from lmmodules.parallel import Term


class RoBERTa(MaskedLM):
    """Predict hidden tokens; on sentence pairs also whether the second segment follows the first.

    The paper's own model has no next-sentence prediction: it is here because the paper compares four input formats,
    two of which are trained with it, as BERT was.

    Args:
        backbone: Token ids in, hidden states out; bidirectional.
        head: Hidden states to logits; `None` gives dense, GELU, LayerNorm, the tied output matrix and a bias.
        next_sentence: Predict `next_sentence_labels` from the first position, through dense and tanh.
        next_sentence_weight: Share of that loss beside the loss of the hidden tokens.
        label_smoothing: Share of a target's probability spread evenly over the vocabulary, in training only.
        optimizer: See `Objective`.
        parameter_groups: See `Objective`.

    Raises:
        InputError: When the backbone is causal or `next_sentence_weight` is not positive; in training, when
            `next_sentence` meets batches without sentence pairs.

    Source:
        Liu et al. 2019, "RoBERTa: A Robustly Optimized BERT Pretraining Approach", sections 2 and 4; fairseq,
        `models/roberta/model.py`. The next-sentence head and its weight of 1: Devlin et al. 2019, section 3.1;
        google-research/bert, `run_pretraining.py`.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        head: LanguageModelHead | None = None,
        next_sentence: bool = False,
        next_sentence_weight: float = 1.0,
        label_smoothing: float = 0.0,
        optimizer: OptimizerFactory | None = None,
        parameter_groups: ParameterGroups | None = None,
    ) -> None:
        super().__init__(
            backbone,
            head=head,
            label_smoothing=label_smoothing,
            optimizer=optimizer,
            parameter_groups=parameter_groups,
        )
        if next_sentence_weight <= 0:
            raise InputError(
                f"`next_sentence_weight` must be positive, but is {next_sentence_weight}; use "
                "`objective.next_sentence=false` to train without next-sentence prediction"
            )
        self.next_sentence_weight = next_sentence_weight
        self.next_sentence_head = ClassificationHead(backbone.hidden_size, 2) if next_sentence else None
        if next_sentence:
            self.perplexity_term = "masked_lm"  # of the tokens alone

    def losses(self, batch: MaskedBatch) -> dict[str, Term]:
        """Cross-entropy (nats) and accuracy at the selected positions; with pairs, those of their relation as well.

        Raises:
            InputError: When pairs are asked for and the batch has none.
        """
        if self.next_sentence_head is None:
            return super().losses(batch)
        if "next_sentence_labels" not in batch:
            raise InputError(
                "`next_sentence` needs sentence pairs, but the batch has none; use `packing=segment_pairs` or "
                "`packing=sentence_pairs`, or `objective.next_sentence=false`"
            )
        labels = batch["labels"].flatten()
        selected = torch.nonzero(labels != IGNORED).squeeze(1)  # (M,)
        self.label_share = len(selected) / len(labels)
        num_samples, length = batch["labels"].shape
        first = torch.arange(num_samples, device=labels.device) * length  # (B,)
        hidden = self.hidden_states(batch, rows=torch.cat([selected, first]))  # (M + B, D)
        of_tokens = self.cross_entropy(hidden[: len(selected)], labels[selected])
        relation = batch["next_sentence_labels"]
        logits = self.next_sentence_head(hidden[len(selected) :])  # (B, 2)
        total, count = token_cross_entropy(logits, relation)
        correct = (logits.argmax(-1) == relation).sum()
        return {
            "masked_lm": of_tokens["loss"],
            "accuracy": of_tokens["accuracy"],
            "next_sentence": Term(total, count, weight=self.next_sentence_weight),
            "next_sentence_accuracy": Term(correct, count, weight=0.0),
        }
