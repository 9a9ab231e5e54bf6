"""A COCO-LM step with `sampling=training` (the default is `evaluation`), against two separate models of transformers.

Tokens are drawn from the logits that the auxiliary loss is computed of, as the peer does; by default ours would run the
auxiliary model once more where it has dropout. The main network has 4 layers of 256 (feed-forward 1024), the auxiliary
one 2; a batch is 16 samples of 128 tokens and their crops. The peer is what one would write around
`RobertaForMaskedLM` as the auxiliary model, whose logits stand at every position and are drawn from as they are, and
`RobertaModel` as the main one, with the same heads and losses; it gets the same batches, writes corrections at masked
positions alone, and has AdamW in its default implementation, and fused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.training import (
    LOSS_TOLERANCE,
    SMALL,
    Batch,
    Sizes,
    corpus,
    endless,
    fused_adamw,
    our_step,
    peer_step,
)
from benchmarks.workload import OURS, Agreement, Candidate, Case, Comparison, Grid, Step, Workload
from lmmodules import CorpusDataModule
from lmmodules.data import CorrectionViews
from lmmodules.models.hugging_face import from_transformers
from lmmodules.objectives import CocoLM

PEER = "two models of transformers"
PEER_FUSED = "two models of transformers, fused AdamW"
TOGETHER = f"{OURS}, both views in one forward"
AUXILIARY_LAYERS = 2

# vocabulary: goal, floor
GOALS = {8192: (1.5, 1.3)}


@dataclass(frozen=True)
class CocoLMStep(Workload):
    """See the module."""

    title: ClassVar[str] = "COCO-LM training step"
    grid: ClassVar[Grid] = {"vocab": (8192,), "dropout": (0.0, 0.1)}
    measures_memory: ClassVar[bool] = True

    sizes: Sizes = SMALL
    length: int = 128
    batch_size: int = 16

    def cases(self, grid: Grid) -> Iterator[Case]:
        """One for each size of the vocabulary and each dropout."""
        for vocab_size in grid["vocab"]:
            for dropout in grid["dropout"]:
                agreement = partial(self.agreement, vocab_size)
                theirs = partial(self.their_step, vocab_size, dropout)
                candidates = (
                    Candidate(OURS, partial(self.our_step, vocab_size, dropout), ("transformers",)),
                    Candidate(TOGETHER, partial(self.our_step, vocab_size, dropout, joint=True), ("transformers",)),
                    Candidate(PEER, theirs, ("transformers",), agreement),
                    Candidate(PEER_FUSED, partial(theirs, fused=True), ("transformers",), agreement),
                )
                goal, floor = GOALS.get(vocab_size, (None, None))
                yield Case(
                    f"vocabulary {vocab_size:,}, dropout {dropout:g}",
                    candidates,
                    (Comparison(PEER, goal, floor), Comparison(PEER_FUSED), Comparison(TOGETHER)),
                    self.batch_size * self.length,
                )

    def peer(self, vocab_size: int, dropout: float) -> TwoModels:
        """The peer's networks, with the same random weights each time."""
        import transformers

        torch.manual_seed(0)
        sizes = {
            "vocab_size": vocab_size,
            "hidden_size": self.sizes.hidden_size,
            "num_attention_heads": self.sizes.num_heads,
            "intermediate_size": 4 * self.sizes.hidden_size,
            "max_position_embeddings": self.length + 2,  # positions are counted from behind the padding's
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
        }
        layers = min(AUXILIARY_LAYERS, self.sizes.num_layers)
        return TwoModels(
            transformers.RobertaForMaskedLM(transformers.RobertaConfig(num_hidden_layers=layers, **sizes)),
            transformers.RobertaForMaskedLM(
                transformers.RobertaConfig(num_hidden_layers=self.sizes.num_layers, **sizes)
            ),
        )

    def objective(self, peer: TwoModels, *, joint: bool = False) -> CocoLM:
        """Ours, with the weights of the peer: both models begin with the embeddings of the main one."""
        backbone, _ = from_transformers(peer.whole_main)
        auxiliary, head = from_transformers(peer.auxiliary)
        depth = auxiliary.num_layers / backbone.num_layers
        objective = CocoLM(
            backbone, auxiliary_depth=depth, sampling="training", joint_forward=joint, optimizer=fused_adamw
        )
        objective.auxiliary.encoder.blocks.load_state_dict(auxiliary.blocks.state_dict())
        objective.auxiliary.head.load_state_dict(head.state_dict())
        objective.detection_head.output.load_state_dict(peer.copy_head.state_dict())
        assert objective.sequence_head is not None
        objective.sequence_head.dense.load_state_dict(peer.dense.state_dict())
        objective.sequence_head.norm.load_state_dict(peer.norm.state_dict())
        return objective

    def data(self, vocab_size: int) -> CorpusDataModule:
        """Masks, numbers to draw by, and crops, over the stored tokens."""
        return corpus(vocab_size, self.length, self.batch_size, CorrectionViews())

    def our_step(self, vocab_size: int, dropout: float, *, joint: bool = False) -> Step:
        """Ours."""
        return our_step(self.objective(self.peer(vocab_size, dropout), joint=joint), self.data(vocab_size))  # type: ignore[arg-type]

    def their_step(self, vocab_size: int, dropout: float, fused: bool = False) -> Step:
        """Both models and their losses, over the same batches."""
        batches = endless(self.data(vocab_size).train_dataloader())
        model = self.peer(vocab_size, dropout)
        return peer_step(
            model, batches, two_models_loss, partial(torch.optim.AdamW, lr=3e-4, fused=True if fused else None)
        )

    def agreement(self, vocab_size: int) -> list[Agreement]:
        """The loss on a batch, of which ours draws the tokens."""
        peer = self.peer(vocab_size, 0.0).eval()
        objective = self.objective(peer).eval()
        batch: Any = next(endless(self.data(vocab_size).train_dataloader()))
        with torch.no_grad():
            drawn = objective.corrupt(batch)[0].input_ids
            ours = objective.training_step(batch, 0).item()
            theirs = peer(batch, drawn).item()
        return [Agreement("loss", abs(ours - theirs) / abs(theirs), LOSS_TOLERANCE)]


class TwoModels(nn.Module):
    """COCO-LM as one would write it with two models of transformers.

    Args:
        auxiliary: A `RobertaForMaskedLM`.
        main: Another, of which the encoder is used; its embeddings are those that the auxiliary one begins with.
    """

    def __init__(self, auxiliary: Any, main: Any) -> None:
        super().__init__()
        auxiliary.roberta.embeddings.load_state_dict(main.roberta.embeddings.state_dict())
        size = main.config.hidden_size
        self.auxiliary = auxiliary
        self.main = main.roberta
        self.copy_head = nn.Linear(size, 1)
        self.bias = nn.Parameter(torch.zeros(main.config.vocab_size))
        self.dense = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size)
        object.__setattr__(self, "whole_main", main)  # for its weights; its own head is not trained

    def forward(self, batch: Batch, corrupted: Tensor | None = None) -> Tensor:
        """The sum of all four losses.

        Args:
            batch: Of `CorrectionViews`.
            corrupted: (B, T) the text with tokens drawn, when they are drawn elsewhere.
        """
        input_ids, labels = batch["input_ids"], batch["labels"]
        logits = self.auxiliary(input_ids).logits
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        masked = labels != -100
        if corrupted is None:
            with torch.no_grad():
                drawn = torch.multinomial(logits[masked].softmax(-1), 1)[:, 0]
            corrupted = input_ids.masked_scatter(masked, drawn)
        originals = corrupted == torch.where(masked, labels, input_ids)

        hidden = self.main(corrupted).last_hidden_state
        copy_logits = self.copy_head(hidden)[..., 0]
        loss = loss + 50 * F.binary_cross_entropy_with_logits(copy_logits, originals.float())

        written = F.linear(hidden[masked], self.main.embeddings.word_embeddings.weight, self.bias)
        nats = F.cross_entropy(written, labels[masked], reduction="none")
        loss = loss + ((1 - copy_logits[masked].detach().sigmoid()) * nats).mean()

        crops = self.main(batch["crop_ids"]).last_hidden_state[:, 0]
        views = torch.cat([hidden[:, 0], crops])
        views = F.normalize(self.norm(F.gelu(self.dense(views))), dim=-1)
        near = (views @ views.T).fill_diagonal_(float("-inf"))
        partners = torch.arange(len(views), device=views.device).roll(len(crops))
        return loss + F.cross_entropy(near, partners)


def two_models_loss(model: nn.Module, batch: Batch) -> Tensor:
    """See `TwoModels.forward`."""
    loss: Tensor = model(batch)
    return loss
