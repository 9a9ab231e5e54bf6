"""Train short, test long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import torch.nn.functional as F
from torch import Tensor

from lmmodules.batch import IGNORED, CausalBatch
from lmmodules.errors import InputError, check_whole_number, check_whole_numbers
from lmmodules.models.backbone import Backbone
from lmmodules.models.heads import LanguageModelHead
from lmmodules.objectives.base import OptimizerFactory
from lmmodules.objectives.causal_lm import CausalLM
from lmmodules.optim import ParameterGroups
from lmmodules.parallel import Term


class TrainShortTestLong(CausalLM):
    """Learn to predict the next token in short sequences, and validate in long ones.

    The data yields blocks at least as long as the longest validation; they are cut into pieces that see nothing of
    each other. A training step reads pieces of `train_length` tokens, all at once. Validation reads the same blocks
    once for each of its lengths, so that at every length the same tokens are predicted, from more or less of what
    stands before them: `val/loss` is that of the training length, `val/loss_at_512` that of pieces of 512.

    Any position scheme will do, if its positions reach far enough; `objective=alibi` brings ALiBi, the one the paper
    is about.

    Args:
        backbone: A causal one, with positions for every length.
        train_length: Tokens of a training sequence.
        validation_lengths: Tokens of a validation sequence, any number of them.
        head: See `LanguageModel`.
        label_smoothing: See `LanguageModel`.
        optimizer: See `Objective`.
        parameter_groups: See `Objective`.

    Raises:
        InputError: When a length is not positive, or longer than the backbone's positions; before training, when the
            data's blocks are shorter than one of them.

    Source:
        Press et al. 2022, "Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation",
        sections 2.2 and 4: non-overlapping evaluation.

    Differences:
        The sequences of a batch are neighbours in the corpus, a block's worth each, where fairseq shuffles them all.
    """

    needs_causal: ClassVar[bool | None] = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        train_length: int = 128,
        validation_lengths: Sequence[int] = (128, 256, 512, 1024),
        head: LanguageModelHead | None = None,
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
        check_whole_number("objective.train_length", train_length, least=1, remedy="objective.train_length=128")
        if not isinstance(validation_lengths, Sequence) or validation_lengths:  # an empty list: the training length
            check_whole_numbers(
                "objective.validation_lengths",
                validation_lengths,
                least=1,
                remedy="objective.validation_lengths=[128,256]",
            )
        self.train_length = train_length
        self.validation_lengths = sorted(set(validation_lengths))
        for length in (train_length, *self.validation_lengths):
            if backbone.max_length is not None and length > backbone.max_length:
                raise InputError(
                    f"`validation_lengths` must not exceed the backbone's `max_length` ({backbone.max_length}), but "
                    f"one is {length}; use `position=alibi`, which has no limit"
                )

    def losses(self, batch: CausalBatch) -> dict[str, Term]:
        """Cross-entropy (nats) of pieces of the training length; in evaluation mode, of the other lengths too.

        No piece is longer than the blocks of the batch.
        """
        terms = super().losses(cut(batch, self.train_length))
        if not self.training:
            known = {self.train_length: terms["loss"]}
            for length in self.validation_lengths:
                if length not in known:
                    known[length] = super().losses(cut(batch, length))["loss"]
                terms[f"loss_at_{length}"] = known[length]._replace(weight=0.0)
        return terms

    def on_fit_start(self) -> None:
        """Compare the lengths with the data's blocks, too.

        Raises:
            InputError: When a block is shorter than a sequence is to be.
        """
        super().on_fit_start()
        longest = max(self.train_length, *self.validation_lengths, 0)
        block = getattr(getattr(self.trainer, "datamodule", None), "max_length", longest)
        if block < longest:
            raise InputError(
                f"`data.max_length` must be at least the longest of the objective's lengths ({longest}), but is "
                f"{block}; use `data.max_length={longest}`"
            )

    def flops_per_token(self, length: int) -> int:
        """Floating-point operations of one forward per token, in pieces of the training length.

        Args:
            length: Tokens of a block.
        """
        return super().flops_per_token(min(length, self.train_length))


def cut(batch: CausalBatch, length: int) -> CausalBatch:
    """Make every row of a batch into rows of so many tokens. Labels, having been shifted, need nothing else.

    Args:
        batch: Tensors (B, T).
        length: Tokens of a piece; with T or more, the batch stays as it is.

    Returns:
        (B n, length), where n is T / length, rounded up: the last piece of a row is filled up without labels.
    """
    block = batch["input_ids"].shape[1]
    if length >= block:
        return batch
    missing = -block % length
    pieces = {}
    for name, tensor in cast("dict[str, Tensor]", batch).items():
        if missing:
            tensor = F.pad(tensor, (0, missing), value=IGNORED if name == "labels" else 0)
        pieces[name] = tensor.reshape(-1, length)
    return cast("CausalBatch", pieces)
