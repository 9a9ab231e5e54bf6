"""How likely a causal model holds continuations of what came before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from lmmodules.errors import InputError
from lmmodules.evaluation.generation import Writer
from lmmodules.losses import linear_token_cross_entropy


class Likelihood(NamedTuple):
    """Of a continuation.

    Attributes:
        nats: Its logarithm, summed over the tokens.
        is_likeliest: Whether each token was the likeliest where it stood, so that greedy writing writes the same.
    """

    nats: float
    is_likeliest: bool


@torch.inference_mode()
def likelihoods(
    model: Writer, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], *, batch_size: int
) -> list[Likelihood]:
    """The likelihood of each continuation behind its context.

    Those of similar length are scored together, and logits are made of the continuations alone.

    Args:
        model: A causal backbone and a head, in evaluation mode.
        contexts: Tokens before each continuation, at least one.
        continuations: Tokens of each; one of none is certain.
        batch_size: How many are scored together.

    Raises:
        InputError: When a context is empty, or too long for the positions of the model with its continuation.
    """
    if not all(contexts):
        raise InputError(
            "`contexts` must have at least one token each, but one is empty; put the end token in its place"
        )
    embedding = model.backbone.token_embedding.weight
    pairs = list(zip(contexts, continuations, strict=True))
    found = {index: Likelihood(0.0, True) for index in range(len(pairs))}
    longest_first = sorted(filter(lambda index: pairs[index][1], found), key=lambda index: -sum(map(len, pairs[index])))
    for start in range(0, len(longest_first), batch_size):
        chosen = longest_first[start : start + batch_size]
        length = sum(map(len, pairs[chosen[0]])) - 1
        tokens = torch.zeros(len(chosen), length, dtype=torch.int64)
        rows: list[int] = []
        labels: list[int] = []
        for place, index in enumerate(chosen):
            context, continuation = pairs[index]
            text = [*context, *continuation]
            tokens[place, : len(text) - 1] = torch.tensor(text[:-1])
            first = place * length + len(context) - 1
            rows += range(first, first + len(continuation))
            labels += continuation
        # What stands behind a text is not seen by it, so that padding needs no mask.
        hidden = model.backbone(tokens.to(embedding.device), rows=torch.tensor(rows, device=embedding.device))
        nats, hits = linear_token_cross_entropy(
            model.head.features(hidden),
            model.head.output_weight(embedding),
            torch.tensor(labels, dtype=torch.int64, device=embedding.device),
            bias=model.head.bias,
        )
        sizes = [len(pairs[index][1]) for index in chosen]
        parts = zip(chosen, torch.split(nats.double().cpu(), sizes), torch.split(hits.cpu(), sizes), strict=True)
        found |= {index: Likelihood(-float(own.sum()), bool(right.all())) for index, own, right in parts}
    return [found[index] for index in range(len(pairs))]
