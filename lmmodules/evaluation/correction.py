"""What a network that corrects and contrasts has learned: held-out losses, corrections, and how near two views are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lmmodules.errors import InputError
from lmmodules.parallel import Totals

if TYPE_CHECKING:
    from lmmodules.data import CorpusDataModule
    from lmmodules.objectives import Objective


@dataclass(frozen=True)
class Correction:
    """The losses of COCO-LM on held-out text, and the cosines between the first states of its two views.

    The cosines are of the backbone's states as they are, before any head, so that networks with and without the
    contrastive loss can be compared.

    Args:
        max_batches: Stop after so many batches; `None` takes them all.

    Raises:
        InputError: When `max_batches` is less than 1.

    Source:
        Meng et al. 2021, ablations: cosines of similar pairs with and without the contrastive loss.
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
            objective: COCO-LM, in evaluation mode.
            data: Prepared.

        Returns:
            Mean of each term of the objective's loss; `positive_pairs` and `unrelated_pairs`, mean cosines; `nearest`,
            the share of texts whose crop is nearer than the crop of any other text of the batch; and
            `most_frequent_token`, how often one is right who always writes the most frequent of the replaced tokens.

        Raises:
            InputError: When the objective is another one, or nothing is held out.
        """
        from lmmodules.objectives import CocoLM
        from lmmodules.objectives.two_views import encode_apart

        if not isinstance(objective, CocoLM):
            raise InputError(
                f"`evaluation=correction` is of COCO-LM, but the checkpoint holds a `{type(objective).__name__}`; use "
                "`evaluation=perplexity`"
            )
        totals = Totals()
        cosines = torch.zeros(2, dtype=torch.float64)  # of positive pairs, of unrelated ones
        nearest = num_texts = num_unrelated = 0
        frequencies = torch.zeros(objective.backbone.vocab_size, dtype=torch.int64)
        data.setup("validate")
        with torch.inference_mode():
            for index, read in enumerate(data.val_dataloader()):
                if index == self.max_batches:
                    break
                batch: Any = {name: tensor.to(objective.device) for name, tensor in read.items()}
                totals.add(objective.losses(batch))
                text, _ = objective.corrupt(batch)
                hidden, crops = encode_apart(objective.backbone, batch, text.input_ids)
                near = cosine_table(hidden[:: text.input_ids.shape[1]], crops).double().cpu()  # (B, B)
                positive = near.diagonal()
                cosines += torch.stack([positive.sum(), near.sum() - positive.sum()])
                nearest += int((near.argmax(1) == torch.arange(len(near))).sum())
                num_texts += len(near)
                num_unrelated += len(near) * (len(near) - 1)
                replaced = text.labels[~text.originals[text.rows]].cpu()
                frequencies += torch.bincount(replaced, minlength=len(frequencies))
        if not num_texts:
            raise InputError(
                "an evaluation needs text that is held out, but there is none; "
                "use `data.validation_fraction=1` for all of it"
            )
        return {
            **totals.collect(),
            "positive_pairs": float(cosines[0]) / num_texts,
            "unrelated_pairs": float(cosines[1]) / max(num_unrelated, 1),
            "nearest": nearest / num_texts,
            "most_frequent_token": float(frequencies.max() / frequencies.sum().clamp(min=1)),
        }


def cosine_table(texts: Tensor, crops: Tensor) -> Tensor:
    """Cosines (B, B) of every text with every crop.

    Args:
        texts: (B, D).
        crops: (B, D).
    """
    return F.normalize(texts, dim=-1) @ F.normalize(crops, dim=-1).T
