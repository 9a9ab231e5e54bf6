"""Loss and perplexity on held-out text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lmmodules.errors import InputError
from lmmodules.parallel import Totals

if TYPE_CHECKING:
    from lmmodules.data import CorpusDataModule
    from lmmodules.objectives import Objective


@dataclass(frozen=True)
class Perplexity:
    """Loss over every held-out target, as the sum of nats over the number of targets, and its exponential.

    Args:
        max_batches: Stop after so many batches; `None` takes them all.

    Raises:
        InputError: When `max_batches` is less than 1.
    """

    max_batches: int | None = None

    def __post_init__(self) -> None:
        if self.max_batches is not None and self.max_batches < 1:
            raise InputError(
                f"`max_batches` must be at least 1, but is {self.max_batches}; use `null` to take all batches"
            )

    def __call__(self, objective: Objective, data: CorpusDataModule) -> dict[str, Any]:
        """Score the validation part of the data.

        Args:
            objective: In evaluation mode.
            data: Prepared.

        Returns:
            Mean of each term of the objective's loss, `perplexity`, the number of `targets` it is over, and
            `unigram_entropy`, the loss of a model that knows the frequencies of the tokens and nothing of their order.
        """
        term = objective.perplexity_term
        if term is None:
            raise InputError(
                f"`evaluation=perplexity` needs a loss per token, which `{type(objective).__name__}` has not; use "
                "`evaluation=classification`"
            )
        totals = Totals()
        targets = 0
        data.setup("validate")
        with torch.inference_mode():
            for index, batch in enumerate(data.val_dataloader()):
                if index == self.max_batches:
                    break
                terms = objective.losses({name: tensor.to(objective.device) for name, tensor in batch.items()})
                totals.add(terms)
                first = next(iter(terms.values()))
                targets += int(terms.get(term, first).count)
        means = totals.collect()
        if not targets:
            raise InputError(
                "an evaluation needs text that is held out, but there is none; "
                "use `data.validation_fraction=1` for all of it"
            )
        return {
            **means,
            "perplexity": math.exp(min(means[term], 700.0)),
            "targets": targets,
            "unigram_entropy": data.unigram_entropy(),
        }
