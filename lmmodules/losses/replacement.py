"""Telling replaced tokens from original ones, and correcting them: ELECTRA and COCO-LM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lmmodules.losses.precision import full_precision


def detection_cross_entropy(
    logits: Tensor, originals: Tensor, counted: Tensor | None = None
) -> tuple[Tensor, Tensor | float]:
    """Sums the binary cross-entropy of telling original tokens from replaced ones.

    Args:
        logits: `(N,)` of the probability that a token is the original.
        originals: `(N,)` bool, whether it is.
        counted: `(N,)` bool, which positions are tokens and not padding; all when left out.

    Returns:
        The sum in nats and the number of counted positions.
    """
    weight = None if counted is None else counted.to(torch.promote_types(logits.dtype, torch.float32))
    logits = full_precision(logits)
    total = F.binary_cross_entropy_with_logits(logits, originals.to(logits.dtype), weight=weight, reduction="sum")
    return total, logits.numel() if counted is None else counted.sum()


def weighted_correction(nats: Tensor, copy_logits: Tensor) -> Tensor:
    """Cross-entropies times the probability that the token is not to be copied, which is held constant.

    Args:
        nats: `(M,)` cross-entropies of the original tokens under the language-model head.
        copy_logits: `(M,)` logits of the copy head; no gradient goes there.

    Returns:
        The sum in nats.

    Source:
        Meng et al. 2021, COCO-LM, as the first author posted the loss in microsoft/COCO-LM, issue 2.
    """
    return (torch.sigmoid(-full_precision(copy_logits.detach())) * nats).sum()


def mixture_correction(nats: Tensor, copy_logits: Tensor, originals: Tensor) -> Tensor:
    """Cross-entropy of the original tokens under the mixture of copying and writing, whose share is held constant.

    `-log(p [the token is the original] + (1 - p) q)`, where p is the probability of copying and q that of the original
    under the language-model head.

    Args:
        nats: `(M,)` cross-entropies `-log q`.
        copy_logits: `(M,)` logits of the copy head; no gradient goes there.
        originals: `(M,)` bool, whether the token that would be copied is the original.

    Returns:
        The sum in nats.

    Source:
        Meng et al. 2021, COCO-LM, section 3, corrective language modeling.
    """
    logits = full_precision(copy_logits.detach())
    copied = torch.where(originals, F.logsigmoid(logits), float("-inf"))
    written = F.logsigmoid(-logits) - nats
    return -torch.logaddexp(copied, written).sum()
