"""Telling texts apart by their embeddings: COCO-LM and CLINE."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lmmodules.losses.precision import full_precision


def contrastive_cross_entropy(
    embeddings: Tensor, *, temperature: float = 1.0, keys: Tensor | None = None, start: int = 0
) -> tuple[Tensor, int, Tensor]:
    """Sums, over the rows, the cross-entropy of finding a row's partner among all others by their dot products.

    Products are float32 at least, also under autocast: a temperature magnifies what they were rounded by.

    Args:
        embeddings: `(N, D)` of N / 2 pairs: the partner of row i is row i + N / 2, and the other way round.
        temperature: Dot products are divided by it.
        keys: `(K, D)` among which partners are sought, such as those of all ranks; the embeddings when left out.
        start: Row of `keys` at which the embeddings themselves stand.

    Returns:
        The sum in nats, N, and the number of rows whose partner had the largest product (int64).

    Source:
        Chen et al. 2020, SimCLR, algorithm 1; Meng et al. 2021, COCO-LM, section 3, sequence contrastive learning.
    """
    embeddings = full_precision(embeddings)
    keys = embeddings if keys is None else full_precision(keys)
    own = torch.arange(len(embeddings), device=embeddings.device)
    partners = start + (own + len(own) // 2) % max(len(own), 1)
    with torch.autocast(embeddings.device.type, enabled=False):
        logits = embeddings @ keys.T / temperature
    is_self = torch.arange(len(keys), device=keys.device) == (start + own)[:, None]
    logits = logits.masked_fill(is_self, float("-inf"))
    hits = (logits.argmax(-1) == partners).sum() if len(own) else own.sum()
    return F.cross_entropy(logits, partners, reduction="sum"), len(own), hits


def hard_negative_cross_entropy(positive: Tensor, negative: Tensor) -> Tensor:
    """Cross-entropy of finding the view that keeps the meaning, among all views that a text is compared with.

    With one of each it is `softplus(negative - positive)`.

    Args:
        positive: `(N,)` similarity of each text to its own positive view.
        negative: `(N, K)` similarities to the K views that are not to be found.

    Returns:
        The sum in nats.

    Source:
        Wang et al. 2021, CLINE, contrastive sentence loss (K = 1).
    """
    logits = torch.cat([positive[:, None], negative], dim=1)
    return (logits.logsumexp(1) - positive).sum()


def binary_contrast(positive: Tensor, negative: Tensor) -> Tensor:
    """Binary cross-entropy of telling positive from negative views by similarity, the mean of a text's two.

    Args:
        positive: `(N,)` similarities, logits of being the positive view.
        negative: `(N,)`.

    Returns:
        The sum over texts in nats.

    Source:
        kandorm/CLINE, `src/lecbert/modeling.py`.
    """
    return (F.softplus(-positive) + F.softplus(negative)).sum() / 2
