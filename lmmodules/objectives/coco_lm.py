"""COCO-LM: correct the tokens that an auxiliary model got wrong, and know two views of a text as one."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from lmmodules.batch import CorrectionBatch
from lmmodules.errors import InputError
from lmmodules.losses import (
    contrastive_cross_entropy,
    linear_token_cross_entropy,
    mixture_correction,
    weighted_correction,
)
from lmmodules.models.auxiliary import Shared
from lmmodules.models.backbone import Backbone
from lmmodules.models.heads import LanguageModelHead
from lmmodules.models.sequence_head import SequenceHead
from lmmodules.objectives.base import OptimizerFactory
from lmmodules.objectives.electra import ELECTRA, CorruptedText, Sampling, context
from lmmodules.objectives.two_views import encode_apart, encode_together
from lmmodules.optim import ParameterGroups
from lmmodules.parallel import Term, data_parallel_group
from lmmodules.parallel.gather import gather_rows

CorrectionForm = Literal["weighted", "mixture"]


class CocoLM(ELECTRA):
    """Correct a corrupted text, token by token, and tell it from all others by a piece of its original.

    An auxiliary model, shallow and as wide as the backbone, fills in the masked tokens. Of every position the backbone
    says whether the token is to be copied; at the filled-in ones, what the original was. The first position stands for
    the sequence: that of the corrupted text and that of a crop are to be nearer to each other than to any other of the
    batch. Without `clm` and `scl` it is replaced-token detection with this auxiliary model.

    Args:
        backbone: Token ids in, hidden states out; bidirectional.
        auxiliary_depth: The auxiliary model's share of the backbone's blocks, rounded, and at least one.
        auxiliary_width: Its share of the backbone's heads, hidden size and inner size, rounded to whole heads.
        auxiliary_dropout: Its probability of dropping; `None` for the backbone's.
        shared: What it shares with the backbone: `embeddings` (all before the blocks), `tokens` (the token embedding)
            or `none`.
        sampling: `evaluation` draws tokens from its distribution without dropout, `training` from the one its loss is
            computed of.
        detection_transform: Whether hidden states pass dense and GELU before the copy logit.
        copy_weight: Weight of the copy loss.
        clm: Corrective language modeling: predict the originals at the filled-in positions. Where embeddings are of
            another size than hidden states, these pass dense, GELU and LayerNorm first.
        clm_form: `weighted`, as the authors posted it: cross-entropies times the probability of not copying.
            `mixture`, as in the paper: the cross-entropy of copying and writing together.
        scl: Sequence contrastive learning. It needs batches of two sequences or more.
        scl_weight: Weight of the contrastive loss.
        scl_size: Size of the vector of a sequence; `None` for the hidden size.
        temperature: By which cosines are divided.
        gather_negatives: Compare with the sequences of all ranks, not only with those of this rank's batch.
        joint_forward: Run the backbone once over both views, the crop padded, instead of twice.
        optimizer: See `Objective`.
        parameter_groups: See `Objective`.

    Raises:
        InputError: When the backbone is causal, an argument is out of range, or `scl` meets batches of one.

    Source:
        Meng et al. 2021, "COCO-LM: Correcting and Contrasting Text Sequences for Language Model Pretraining", section
        3; microsoft/COCO-LM, `fairseq/fairseq/models/cocolm/model.py` (networks and heads) and issue 2 (the losses
        and their weights, as the first author posted them; the training code was not released).

    Differences:
        The posted loss divides by the number of masked tokens of all workers, and the copy loss by the tokens of each;
        here every loss is divided by the number of its own targets on all ranks.
    """

    batch_type: ClassVar[type] = CorrectionBatch
    contrast_option = "scl"
    crop_share: float = 0.9
    """Length of a crop over that of a sample, until a batch has shown it."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        auxiliary_depth: float = 1 / 3,
        auxiliary_width: float = 1.0,
        auxiliary_dropout: float | None = None,
        shared: Shared = "embeddings",
        sampling: Sampling = "evaluation",
        detection_transform: bool = False,
        copy_weight: float = 50.0,
        clm: bool = True,
        clm_form: CorrectionForm = "weighted",
        scl: bool = True,
        scl_weight: float = 1.0,
        scl_size: int | None = None,
        temperature: float = 1.0,
        gather_negatives: bool = False,
        joint_forward: bool = False,
        optimizer: OptimizerFactory | None = None,
        parameter_groups: ParameterGroups | None = None,
    ) -> None:
        if copy_weight <= 0:
            raise InputError(f"`copy_weight` must be positive, but is {copy_weight}; use `objective.copy_weight=50`")
        super().__init__(
            backbone,
            auxiliary_depth=auxiliary_depth,
            auxiliary_width=auxiliary_width,
            auxiliary_dropout=auxiliary_dropout,
            shared=shared,
            sampling=sampling,
            detection_transform=detection_transform,
            detection_weight=copy_weight,
            optimizer=optimizer,
            parameter_groups=parameter_groups,
        )
        if clm_form not in get_args(CorrectionForm):
            raise InputError(
                f"`clm_form` must be one of {', '.join(get_args(CorrectionForm))}, but is {clm_form!r}; use "
                "`objective.clm_form=weighted`"
            )
        for name, value, switch in (
            ("scl_weight", scl_weight, "scl=false"),
            ("temperature", temperature, "temperature=1"),
        ):
            if value <= 0:
                raise InputError(f"`{name}` must be positive, but is {value}; use `objective.{switch}`")
        if scl_size is not None and scl_size < 1:
            raise InputError(f"`scl_size` must be at least 1, but is {scl_size}; use `objective.scl_size=null`")
        std = self.auxiliary.initializer_std
        size, embedding_size = backbone.hidden_size, backbone.token_embedding.embedding_dim
        self.correction_head = (
            LanguageModelHead(
                size,
                backbone.vocab_size,
                transform=embedding_size != size,
                norm_eps=self.auxiliary.norm_eps,
                bias=True,
                initializer_std=std,
                embedding_size=embedding_size,
            )
            if clm
            else None
        )
        self.sequence_head = SequenceHead(size, scl_size, initializer_std=std) if scl else None
        self.clm_form = clm_form
        self.scl_weight = scl_weight
        self.temperature = temperature
        self.gather_negatives = gather_negatives
        self.joint_forward = joint_forward
        self._pairs_checked = False

    def on_fit_start(self) -> None:
        """Besides what every objective compares: a contrastive loss needs something to contrast with.

        Raises:
            InputError: When the data module yields batches of one sample; see also `Objective`.
        """
        super().on_fit_start()
        batch_size = getattr(getattr(self.trainer, "datamodule", None), "batch_size", None)
        if batch_size is not None:
            ranks = self.trainer.world_size if self.gather_negatives else 1
            self.check_batch_size(batch_size * ranks, self.sequence_head is not None)

    def losses(self, batch: CorrectionBatch) -> dict[str, Term]:  # type: ignore[override]  # it needs the crop too
        """The auxiliary model's, copy, correction and contrastive losses (nats), and their accuracies."""
        text, terms = self.corrupt(batch)
        size, length = text.input_ids.shape
        self.crop_share = batch["crop_ids"].shape[1] / length
        if self.sequence_head is None:
            hidden, crops = self.backbone(text.input_ids, **context(batch)).flatten(0, 1), None
        else:
            encode = encode_together if self.joint_forward else encode_apart
            hidden, crops = encode(self.backbone, batch, text.input_ids)
        copy_logits = self.detection_head(hidden)
        terms |= self.detect(copy_logits, text)
        if self.correction_head is not None:
            terms |= self.correct(self.correction_head, hidden, copy_logits, text)
        if self.sequence_head is not None and crops is not None:
            views = torch.stack([hidden[::length], crops])  # (2, B, D)
            if text.counted is not None:  # a sample of padding alone only fills up a batch
                views = views[:, text.counted.view(size, length).any(1)]
            terms |= self.contrast(self.sequence_head(views))
        return terms

    def detect(self, logits: Tensor, text: CorruptedText) -> dict[str, Term]:
        """The copy loss (nats), and the share that was right of the replaced and of the original tokens.

        Args:
            logits: (B * T,) that a token is to be copied.
            text: What the backbone has read.
        """
        terms = super().detect(logits, text)
        return {"copy": terms.pop("detection"), **terms}

    def correct(
        self, head: LanguageModelHead, hidden: Tensor, copy_logits: Tensor, text: CorruptedText
    ) -> dict[str, Term]:
        """Corrective language modeling (nats) at the filled-in positions; neither form trains the copy head.

        Besides the loss, which moves with the copy head too, come the language-model head's own cross-entropy, how
        often it knew the original of a replaced token, and how often a token that was drawn right is copied.

        Args:
            head: Hidden states to logits.
            hidden: (B * T, D).
            copy_logits: (B * T,).
            text: What the backbone has read.
        """
        nats, hits = linear_token_cross_entropy(
            head.features(hidden[text.rows]),
            head.output_weight(self.backbone.token_embedding.weight),
            text.labels,
            head.bias,
        )
        copy_logits, originals = copy_logits[text.rows], text.originals[text.rows]
        if self.clm_form == "weighted":
            total = weighted_correction(nats, copy_logits)
        else:
            total = mixture_correction(nats, copy_logits, originals)
        count = len(text.rows)
        num_originals = originals.sum()
        return {
            "correction": Term(total, count),
            "correction_nats": Term(nats.detach().sum(), count, weight=0.0),
            "correction_accuracy": Term((hits & ~originals).sum(), count - num_originals, weight=0.0),
            "copy_accuracy": Term(((copy_logits > 0) & originals).sum(), num_originals, weight=0.0),
        }

    def contrast(self, views: Tensor) -> dict[str, Term]:
        """Sequence contrastive learning (nats), the cosine of a sequence's two views, and how often it is the largest.

        Args:
            views: (2, B, S) vectors of length 1, of the corrupted texts and of the crops.
        """
        embeddings = views.flatten(0, 1)
        keys, start = gather_rows(embeddings, data_parallel_group(self)) if self.gather_negatives else (embeddings, 0)
        if self.training and not self._pairs_checked:
            self.check_batch_size(len(keys) // 2, contrasted=True)
            self._pairs_checked = True
        total, count, hits = contrastive_cross_entropy(embeddings, temperature=self.temperature, keys=keys, start=start)
        similarity = (views[0] * views[1]).detach().sum()
        negatives = torch.full((), float(count * max(len(keys) - 2, 0)), device=views.device)
        return {
            "contrast": Term(total, count, weight=self.scl_weight),
            "similarity": Term(similarity, count / 2, weight=0.0),
            "retrieval_accuracy": Term(hits, count, weight=0.0),
            "negatives": Term(negatives, count, weight=0.0),
        }

    def flops_per_token(self, length: int) -> float:
        """Floating-point operations of one forward per token, of which training takes three times as many.

        Args:
            length: Tokens per sequence T.
        """
        flops = super().flops_per_token(length)
        if self.correction_head is not None:
            flops += 4 / 3 * self.masked_share * self.correction_head.flops_per_token()
        if self.sequence_head is not None:
            crop_length = round(self.crop_share * length)
            flops += self.crop_share * self.backbone.flops_per_token(crop_length)
            flops += 2 / length * self.sequence_head.flops_per_sequence()
        return flops
