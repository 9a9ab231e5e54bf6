"""CLINE: predict masked tokens, detect replaced words, and tell a rewriting of the same meaning from one of another."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmmodules.batch import IGNORED
from lmmodules.errors import InputError
from lmmodules.losses import binary_contrast, hard_negative_cross_entropy, task_uncertainty, token_cross_entropy
from lmmodules.models.backbone import Backbone
from lmmodules.models.heads import LanguageModelHead
from lmmodules.objectives.base import OptimizerFactory
from lmmodules.objectives.masked_lm import MaskedLM
from lmmodules.optim import ParameterGroups
from lmmodules.parallel import Term
from lmmodules.replacement_batch import ReplacementBatch

ContrastForm = Literal["softmax", "binary"]
Similarity = Literal["dot", "mean", "cosine"]
TASKS = ("masked_lm", "detection", "contrast")
_CLASSES = {3: ("unchanged", "kept", "changed"), 2: ("unchanged", "replaced")}


class CLINE(MaskedLM):
    """A masked language model that also tells which words were replaced, and by what sort of word.

    One forward of the backbone reads three texts: the original with masks, a view with words of the same meaning, and
    one with opposites or random words. Of every content word of the views it says whether it stands as it was, was
    replaced in its meaning, or out of it. The state of the original's first position is to be nearer to that of the
    first view than to that of the second.

    Args:
        backbone: Token ids in, hidden states out; bidirectional.
        head: Hidden states to logits of the masked LM; `None` gives dense, GELU, LayerNorm, the tied matrix and a bias.
        detection_classes: 3, as released; 2 only asks whether a word was replaced, as in the paper.
        detection_transform: Whether hidden states pass dense, GELU and LayerNorm before the classes, as released.
        contrast_form: `softmax`, as in the paper: cross-entropy of the two similarities. `binary`, as released: a
            binary cross-entropy of each.
        similarity: `dot`, as in the paper; `mean`, the dot product over the size of the vectors, as released; `cosine`.
        temperature: Similarities are divided by it.
        pooled: Compare states after dense and tanh, as released, or as they are, as in the paper.
        batch_negatives: The negative views of the whole batch are compared with, not only a text's own (`softmax`).
        learned_weights: Weigh the tasks by trained log-variances, as released; otherwise by the weights below.
        masked_lm_weight: Weight of the masked LM.
        detection_weight: Weight of the detection of replaced words.
        contrast_weight: Weight of the contrastive loss.
        optimizer: See `Objective`.
        parameter_groups: See `Objective`.

    Raises:
        InputError: When the backbone is causal, an argument is out of range, or `batch_negatives` meets batches of one.

    Source:
        Wang et al. 2021, "CLINE: Contrastive Learning with Semantic Negative Examples for Natural Language
        Understanding", section 3; kandorm/CLINE, `src/lecbert/modeling.py`.

    Differences:
        Each loss is a mean over its own targets on all ranks. A text of which a view equals the original has no part
        in the contrastive loss. `cosine`, `temperature` and `batch_negatives` are in neither paper nor code.
    """

    batch_type = ReplacementBatch  # type: ignore[assignment]  # it extends the batch of its base
    loss_unit = "(weighted sum of its terms)"
    perplexity_term = "masked_lm"
    contrast_option = "batch_negatives"
    candidate_share: float = 0.3
    """Share of the views' positions that are asked about, until a batch has shown it."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        head: LanguageModelHead | None = None,
        detection_classes: int = 3,
        detection_transform: bool = True,
        contrast_form: ContrastForm = "softmax",
        similarity: Similarity = "dot",
        temperature: float = 1.0,
        pooled: bool = False,
        batch_negatives: bool = False,
        learned_weights: bool = True,
        masked_lm_weight: float = 1.0,
        detection_weight: float = 1.0,
        contrast_weight: float = 1.0,
        optimizer: OptimizerFactory | None = None,
        parameter_groups: ParameterGroups | None = None,
    ) -> None:
        super().__init__(backbone, head=head, optimizer=optimizer, parameter_groups=parameter_groups)
        for name, value, allowed in (
            ("detection_classes", detection_classes, (3, 2)),
            ("contrast_form", contrast_form, get_args(ContrastForm)),
            ("similarity", similarity, get_args(Similarity)),
        ):
            if value not in allowed:
                raise InputError(
                    f"`{name}` must be one of {', '.join(map(str, allowed))}, but is {value!r}; use "
                    f"`objective.{name}={allowed[0]}`"
                )
        weights = (masked_lm_weight, detection_weight, contrast_weight)
        for name, weight in (*zip([f"{task}_weight" for task in TASKS], weights, strict=True),):
            if weight < 0 or (learned_weights and weight != 1):
                raise InputError(
                    f"`{name}` must be at least 0, and 1 with learned weights, but is {weight}; use "
                    f"`objective.{name}=1` or `objective.learned_weights=false`"
                )
        if not any(weights):
            raise InputError(
                "`masked_lm_weight` must be positive where the other weights are 0; use `objective.masked_lm_weight=1`"
            )
        if temperature <= 0:
            raise InputError(f"`temperature` must be positive, but is {temperature}; use `objective.temperature=1`")
        if batch_negatives and contrast_form == "binary":
            raise InputError(
                "`batch_negatives` must be false with `contrast_form=binary`, which knows no other texts, but is true; "
                "use `objective.contrast_form=softmax`"
            )
        size = backbone.hidden_size
        self.detection_head = nn.Sequential(
            *((nn.Linear(size, size), nn.GELU(), nn.LayerNorm(size)) if detection_transform else ()),
            nn.Linear(size, detection_classes),
        )
        self.pooler = nn.Linear(size, size) if pooled else None
        self.log_variances = nn.Parameter(torch.zeros(len(TASKS))) if learned_weights else None
        self.reset_parameters()
        self.detection_classes = detection_classes
        self.contrast_form = contrast_form
        self.similarity = similarity
        self.temperature = temperature
        self.batch_negatives = batch_negatives
        self.task_weights = dict(zip(TASKS, weights, strict=True))
        self._pairs_checked = False

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the matrices of the heads for detection and contrast as the masked LM's, and let all tasks weigh 1."""
        for module in (*self.detection_head, self.pooler):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=self.head.initializer_std)
                nn.init.zeros_(module.bias)
        if self.log_variances is not None:
            self.log_variances.zero_()

    def on_fit_start(self) -> None:
        """Besides what every objective compares: negatives of a batch need a batch.

        Raises:
            InputError: When the data module yields batches of one sample; see also `Objective`.
        """
        super().on_fit_start()
        batch_size = getattr(getattr(self.trainer, "datamodule", None), "batch_size", None)
        if batch_size is not None:
            self.check_batch_size(batch_size, self.batch_negatives)

    def losses(self, batch: ReplacementBatch) -> dict[str, Term]:  # type: ignore[override]  # it needs the views too
        """The losses of the three tasks (nats), the accuracy of each, and how many words are replaced."""
        labels = batch["labels"].flatten()
        asked = torch.cat([batch["positive_labels"], batch["negative_labels"]]).flatten()
        size, length = batch["labels"].shape
        if self.training and not self._pairs_checked:
            self.check_batch_size(size, self.batch_negatives)
            self._pairs_checked = True
        masked = torch.nonzero(labels != IGNORED).squeeze(1)  # (M,)
        candidates = torch.nonzero(asked != IGNORED).squeeze(1)  # (N,) of the two views
        first = torch.arange(3 * size, device=labels.device) * length
        self.label_share = len(masked) / len(labels)
        self.candidate_share = len(candidates) / len(asked)

        hidden = self.encode(batch, torch.cat([masked, len(labels) + candidates, first]))
        of_tokens, of_words, of_texts = torch.split(hidden, [len(masked), len(candidates), len(first)])
        contrasted, opposed = batch["contrasted"].bool(), batch.get("opposed")
        words = self.cross_entropy(of_tokens, labels[masked])
        tasks = {"masked_lm": words["loss"]}
        watched = {"accuracy": words["accuracy"]}
        for found in (
            self.detect(of_words, asked[candidates]),
            self.contrast(of_texts.view(3, size, -1)[:, contrasted], None if opposed is None else opposed[contrasted]),
        ):
            tasks |= {name: term for name, term in found.items() if name in TASKS}
            watched |= {name: term for name, term in found.items() if name not in TASKS}
        return self.weigh(tasks) | watched

    def encode(self, batch: ReplacementBatch, rows: Tensor) -> Tensor:
        """States (M, D) of the original and its two views, read in one forward.

        Args:
            batch: The three texts.
            rows: (M,) positions of the flattened (3 B, T).
        """
        document_ids = None
        if "document_ids" in batch:
            names = ("document_ids", "positive_document_ids", "negative_document_ids")
            document_ids = torch.cat([batch[name] for name in names])  # type: ignore[literal-required]
        own_mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
        return self.backbone(
            torch.cat([batch["input_ids"], batch["positive_ids"], batch["negative_ids"]]),
            attention_mask=torch.cat([own_mask, batch["positive_attention_mask"], batch["negative_attention_mask"]]),
            document_ids=document_ids,
            rows=rows,
        )

    def detect(self, hidden: Tensor, labels: Tensor) -> dict[str, Term]:
        """Cross-entropy (nats) of replaced-word detection, accuracy and F1 of each class, and the share replaced.

        The mean of the F1 is macro-F1. Always saying that a word stands has 2 (1 - r) / (2 - r) in that class and 0 in
        the others, where r is the share replaced.

        Args:
            hidden: (N, D) states of the content words of both views.
            labels: (N,) 0 where a word stands as it was, 1 where its meaning is kept, 2 where it is changed.
        """
        logits = self.detection_head(hidden)
        targets = labels.clamp(max=self.detection_classes - 1)
        total, count = token_cross_entropy(logits, targets)
        found = logits.argmax(-1)
        right = found == targets
        terms = {"detection": Term(total, count)}
        for label, name in enumerate(_CLASSES[3]):
            among = labels == label
            terms[f"{name}_accuracy"] = Term((right & among).sum(), among.sum(), weight=0.0)
        for target, name in enumerate(_CLASSES[self.detection_classes]):
            said, is_so = found == target, targets == target
            terms[f"{name}_f1"] = Term(2 * (said & is_so).sum(), said.sum() + is_so.sum(), weight=0.0)
        return terms | {"replaced": Term((labels > 0).sum(), count, weight=0.0)}

    def contrast(self, first: Tensor, opposed: Tensor | None = None) -> dict[str, Term]:
        """The contrastive loss (nats), and how often a text is nearer to its positive than to its negative view.

        Args:
            first: (3, B, D) states of the first positions of the texts and of their views.
            opposed: (B,) whether the negative view has nothing but opposites, of which that is told apart.
        """
        anchors, positives, negatives = self.pool(first)
        near = self.compare(anchors, positives)
        far = self.compare(anchors, negatives)
        if self.contrast_form == "binary":
            total = binary_contrast(near, far)
        elif self.batch_negatives:
            total = hard_negative_cross_entropy(near, self.compare(anchors[:, None], negatives[None]))
        else:
            total = hard_negative_cross_entropy(near, far[:, None])
        nearer = near > far
        terms = {
            "contrast": Term(total, float(len(near))),
            "nearer": Term(nearer.sum(), float(len(near)), weight=0.0),
        }
        if opposed is not None:
            terms["nearer_than_opposite"] = Term((nearer & opposed.bool()).sum(), opposed.sum(), weight=0.0)
        return terms

    def pool(self, first: Tensor) -> Tensor:
        """What stands for a text, (..., D), of the states of first positions, in float32 at least."""
        pooled = first if self.pooler is None else torch.tanh(self.pooler(first))
        return pooled.to(torch.promote_types(pooled.dtype, torch.float32))

    def compare(self, one: Tensor, other: Tensor) -> Tensor:
        """Similarities (...) of vectors (..., D), over the temperature."""
        with torch.autocast(one.device.type, enabled=False):
            if self.similarity == "cosine":
                one, other = F.normalize(one, dim=-1), F.normalize(other, dim=-1)
            dot = (one * other).sum(-1)
            return (dot / one.shape[-1] if self.similarity == "mean" else dot) / self.temperature

    def weigh(self, tasks: dict[str, Term]) -> dict[str, Term]:
        """The losses of the tasks as they are optimised: with fixed weights, or with learned ones beside them.

        Args:
            tasks: By name, all with weight 1.
        """
        if self.log_variances is None:
            return {name: term._replace(weight=self.task_weights[name]) for name, term in tasks.items()}
        weights, penalty = task_uncertainty(self.log_variances)
        terms = {name: term._replace(weight=0.0) for name, term in tasks.items()}
        for weight, (name, term) in zip(weights, tasks.items(), strict=True):
            terms[f"{name}_weighted"] = Term(weight * term.sum, term.count)
            terms[f"{name}_weight"] = Term(weight.detach(), 1.0, weight=0.0)
        return terms | {"weight_penalty": Term(penalty, 1.0)}

    def flops_per_token(self, length: int) -> int:
        """Floating-point operations of one forward per token of the original, of which training takes three times.

        Args:
            length: Tokens per sequence T.
        """
        matrices = sum(module.weight.numel() for module in self.detection_head if isinstance(module, nn.Linear))
        pooler = 0 if self.pooler is None else 3 * self.pooler.weight.numel() / length
        own = super().flops_per_token(length) + 2 * self.backbone.flops_per_token(length)
        return round(own + 2 * (2 * self.candidate_share * matrices + pooler))
