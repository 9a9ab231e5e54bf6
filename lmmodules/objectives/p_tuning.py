"""P-tuning: pseudo-tokens whose embeddings are learned, in a template around the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Self

from lmmodules.batch import IGNORED, TokenBatch
from lmmodules.errors import InputError
from lmmodules.losses import token_cross_entropy
from lmmodules.models.backbone import Backbone
from lmmodules.models.heads import LanguageModelHead
from lmmodules.models.prompt_encoder import PromptTable
from lmmodules.objectives.answers import among
from lmmodules.objectives.base import OptimizerFactory
from lmmodules.objectives.language_model import LanguageModel
from lmmodules.optim import ParameterGroups, build_optimizer
from lmmodules.parallel import Term
from lmmodules.prompt_batch import PromptBatch, PromptChoiceBatch


class PTuning(LanguageModel):
    """Learn the embeddings of pseudo-tokens so that a language model gives the answer; the model itself may stay.

    Embeddings are replaced before the backbone's first layer, which gives them positions like any other, so any
    backbone will do. A masked backbone predicts at its mask and a causal one at the position before the answer; the
    last layer and the head work at these positions alone. The prompt encoder runs once for a batch.

    `accuracy` is P@1: how often the likeliest token, among those that may be answers, is the right one.

    Args:
        backbone: Token ids or embeddings in, hidden states out.
        tasks: Names of the relations or tasks, each with a prompt of its own; `None` for a single one.
        prompt_lengths: Pseudo-tokens of each task; `None` for 6.
        encoder: `lstm` (the LAMA experiments), `lstm_few_shot` (twice as wide), `mlp`, or `embeddings` without any
            network.
        encoder_dropout: Between the layers of the LSTM.
        tune_backbone: Train the backbone as well.
        tune_head: Train the head as well; `None` as the backbone. A wrapped masked model comes without a trained one.
        frozen_dropout: Whether a frozen backbone drops out while prompts are trained, as in the released code.
        backbone_lr_factor: Learning rate of backbone and head, as a share of that of the prompts.
        decay_prompts: Whether weights of the prompt encoder are decayed.
        official_label_shift: Train the logits one position before the one that is scored, as the released code does
            with causal models by accident.
        head: See `LanguageModel`.
        optimizer: See `Objective`.
        parameter_groups: See `Objective`.

    Raises:
        InputError: When tasks and lengths do not fit each other, or an option is out of range or means nothing here.

    Source:
        Liu et al. 2021, "GPT Understands, Too", section 2; THUDM/P-tuning, `LAMA/p_tuning/modeling.py`.

    Differences:
        The released code trains causal models on the position before the last pseudo-token, and scores them at the
        last; here it is the same position unless `official_label_shift` is set.
    """

    batch_type: ClassVar[type] = PromptBatch
    perplexity_term = None
    loss_unit: ClassVar[str] = "nats per answer token"
    headline: ClassVar[tuple[str, ...]] = ("accuracy",)
    label_share = 0.05  # until a batch has shown it

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str] | None = None,
        prompt_lengths: Sequence[int] | None = None,
        *,
        encoder: str = "lstm",
        encoder_dropout: float = 0.0,
        tune_backbone: bool = False,
        tune_head: bool | None = None,
        frozen_dropout: bool = True,
        backbone_lr_factor: float = 1.0,
        decay_prompts: bool = True,
        official_label_shift: bool = False,
        head: LanguageModelHead | None = None,
        optimizer: OptimizerFactory | None = None,
        parameter_groups: ParameterGroups | None = None,
    ) -> None:
        super().__init__(backbone, head=head, optimizer=optimizer, parameter_groups=parameter_groups)
        self.tasks = ("prompt",) if tasks is None else tuple(tasks)
        self.prompt_lengths = (6,) * len(self.tasks) if prompt_lengths is None else tuple(prompt_lengths)
        if len(self.tasks) != len(self.prompt_lengths):
            raise InputError(
                f"`prompt_lengths` must have one number for each of the {len(self.tasks)} tasks, but has "
                f"{len(self.prompt_lengths)}; use `objective.prompt_lengths=null` to take those of the data"
            )
        if backbone_lr_factor <= 0:
            raise InputError(
                f"`backbone_lr_factor` must be more than 0, but is {backbone_lr_factor}; use "
                "`objective.tune_backbone=false` to leave the backbone as it is"
            )
        if official_label_shift and not backbone.causal:
            raise InputError(
                "`official_label_shift` is an accident of causal models, but the backbone is bidirectional; use "
                "`objective.official_label_shift=false`"
            )
        self.prompts = PromptTable(
            self.prompt_lengths,
            backbone.token_embedding.embedding_dim,
            encoder=encoder,
            dropout=encoder_dropout,
            initializer_std=getattr(backbone, "initializer_std", 0.02),
        )
        self.tunes_backbone = tune_backbone
        self.tunes_head = tune_backbone if tune_head is None else tune_head
        self.frozen_dropout = frozen_dropout
        self.backbone_lr_factor = backbone_lr_factor
        self.decay_prompts = decay_prompts
        self.official_label_shift = official_label_shift
        cast(nn.Module, backbone).requires_grad_(tune_backbone)
        self.head.requires_grad_(self.tunes_head)

    def on_fit_start(self) -> None:
        """Refuse choices between texts, whose batches have one more dimension; see also `Objective`.

        Raises:
            InputError: When the data asks for a choice.
        """
        super().on_fit_start()
        batch_type = getattr(getattr(self.trainer, "datamodule", None), "batch_type", self.batch_type)
        if batch_type is PromptChoiceBatch and self.batch_type is not PromptChoiceBatch:
            raise InputError(
                f"`{type(self).__name__}` does not choose between texts, as the data asks; use "
                "`objective=p_tuning_choice`"
            )

    def default_head(self) -> LanguageModelHead:
        """The tied matrix alone over a causal backbone, BERT's head over a bidirectional one."""
        if self.backbone.causal:
            return super().default_head()
        return LanguageModelHead(
            self.backbone.hidden_size,
            self.backbone.vocab_size,
            transform=True,
            bias=True,
            norm_eps=getattr(self.backbone, "norm_eps", 1e-5),
            embedding_size=self.backbone.token_embedding.embedding_dim,
        )

    def train(self, mode: bool = True) -> Self:
        """Enter training or evaluation; a frozen backbone stays in evaluation without `frozen_dropout`.

        Args:
            mode: Whether to train.
        """
        super().train(mode)
        if mode and not self.tunes_backbone and not self.frozen_dropout:
            cast(nn.Module, self.backbone).eval()
        return self

    def embed(self, input_ids: Tensor, prompt_ids: Tensor) -> Tensor:
        """Embeddings (..., T, E) of tokens and pseudo-tokens.

        Args:
            input_ids: (..., T).
            prompt_ids: (..., T) row of the table of prompts, -1 at ordinary tokens.
        """
        embeddings: Tensor = self.backbone.token_embedding(input_ids)
        table = self.prompts()
        if table is None:
            return embeddings
        return replace_embeddings(embeddings, prompt_ids, table)

    def hidden_states(self, batch: TokenBatch, rows: Tensor | None = None) -> Tensor:
        """Run the backbone on a batch, pseudo-tokens included.

        Args:
            batch: A `PromptBatch`.
            rows: See `LanguageModel`.

        Returns:
            See `LanguageModel`.
        """
        hidden: Tensor = self.backbone(
            inputs_embeds=self.embed(batch["input_ids"], batch["prompt_ids"]),  # type: ignore[typeddict-item]
            attention_mask=batch.get("attention_mask"),
            document_ids=batch.get("document_ids"),
            token_type_ids=batch.get("token_type_ids"),
            rows=rows,
        )
        return hidden

    def answer_logits(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Logits where an answer is predicted.

        Args:
            batch: A `PromptBatch`.

        Returns:
            Labels (M,), logits (M, V) that are trained, and logits (M, V) that are scored: the same, unless labels
            are shifted.
        """
        labels, rows = self._asked(batch)
        if not self.official_label_shift:
            scored = self.logits(self.hidden_states(batch, rows=rows))
            return labels, scored, scored
        both = self.logits(self.hidden_states(batch, rows=torch.cat([rows, rows - 1])))
        scored, trained = both.chunk(2)
        return labels, trained, scored

    def _asked(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Labels (M,), and the positions (M,) of the flattened batch that have them."""
        labels = batch["labels"].flatten()
        rows = torch.nonzero(labels != IGNORED).squeeze(1)
        self.label_share = len(rows) / max(len(labels), 1)
        return labels[rows], rows

    def losses(self, batch: PromptBatch) -> dict[str, Term]:
        """Cross-entropy (nats) of the answer over the whole vocabulary, and P@1 among those that may be answers."""
        if "candidate_ids" not in batch and not self.official_label_shift:  # no logits are asked for but these
            labels, rows = self._asked(batch)
            return self.cross_entropy(self.hidden_states(batch, rows=rows), labels)
        labels, trained, scored = self.answer_logits(batch)
        total, count = token_cross_entropy(trained, labels)
        correct = (among(scored.detach(), batch.get("candidate_ids")).argmax(-1) == labels).sum()
        return {"loss": Term(total, count), "accuracy": Term(correct, count, weight=0.0)}

    def configure_optimizers(self) -> Optimizer:
        """The optimizer, prompts in groups of their own."""
        return build_optimizer(self, self.optimizer_factory, _PromptGroups(self))

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """What the encoders come to: the embeddings (P, E) of each task's pseudo-tokens."""
        table = self.prompts()
        if table is None:
            return {}
        parts = table.detach().split(list(self.prompt_lengths))
        return {task: part.clone() for task, part in zip(self.tasks, parts, strict=True) if len(part)}


def replace_embeddings(embeddings: Tensor, prompt_ids: Tensor, table: Tensor) -> Tensor:
    """Embeddings with those of pseudo-tokens in their places.

    Args:
        embeddings: (..., T, E) of tokens.
        prompt_ids: (..., T) row of `table`, -1 where the token's own embedding stays.
        table: (P, E).
    """
    flat = prompt_ids.flatten()
    places = torch.nonzero(flat >= 0).squeeze(1)
    chosen = table.to(embeddings.dtype).index_select(0, flat[places])
    return embeddings.flatten(0, -2).index_copy(0, places, chosen).view_as(embeddings)


class _PromptGroups(ParameterGroups):
    """The parameter groups of an objective, each divided into its prompts and the rest."""

    def __init__(self, objective: PTuning) -> None:
        given = objective.parameter_groups
        super().__init__(
            no_decay=given.no_decay,
            decay_embeddings=given.decay_embeddings,
            layer_decay=given.layer_decay,
            hidden_matrices=given.hidden_matrices,
        )
        self.objective = objective

    def __call__(self, module: nn.Module) -> list[dict[str, Any]]:
        prompts = set(self.objective.prompts.parameters())
        groups = []
        for group in super().__call__(module):
            of_prompts = [parameter for parameter in group["params"] if parameter in prompts]
            others = [parameter for parameter in group["params"] if parameter not in prompts]
            if of_prompts:
                decay = {} if self.objective.decay_prompts else {"weight_decay": 0.0}
                groups.append({**group, **decay, "params": of_prompts, "name": f"prompts {group['name']}"})
            if others:
                factor = group["lr_factor"] * self.objective.backbone_lr_factor
                groups.append({**group, "params": others, "lr_factor": factor})
        return groups
