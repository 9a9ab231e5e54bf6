"""How likely a model holds what stood in a gap."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lmmodules.batch import IGNORED
from lmmodules.evaluation.generation import Writer
from lmmodules.losses import linear_cross_entropy


@torch.inference_mode()
def middle_loss(
    model: Writer, prompts: Sequence[Sequence[int]], middles: Sequence[Sequence[int]], *, batch_size: int
) -> float:
    """Cross-entropy of middles behind their prompts, and of nothing else.

    Args:
        model: A backbone and a head, in evaluation mode.
        prompts: Tokens before each middle, at least one.
        middles: Tokens of each middle.
        batch_size: Gaps that are scored together.

    Returns:
        Nats per token over all middles.

    Source:
        Bavarian et al. 2022, section 2.2: P(middle | prefix, suffix) against P(middle | prefix).
    """
    embedding = model.backbone.token_embedding.weight
    total, count = 0.0, 0
    for start in range(0, len(prompts), batch_size):
        stop = start + batch_size
        pairs = [(list(p), list(m)) for p, m in zip(prompts[start:stop], middles[start:stop], strict=True)]
        length = max(len(prompt) + len(middle) for prompt, middle in pairs) - 1
        tokens = torch.zeros(len(pairs), length, dtype=torch.int64)
        labels = torch.full((len(pairs), length), IGNORED)
        for row, (prompt, middle) in enumerate(pairs):
            text = torch.tensor(prompt + middle)
            tokens[row, : len(text) - 1] = text[:-1]
            labels[row, len(prompt) - 1 : len(text) - 1] = text[len(prompt) :]
        # What stands behind a middle is not seen by it, so that padding needs no mask in a causal model.
        hidden = model.backbone(tokens.to(embedding.device)).flatten(0, 1)
        nats, targets = linear_cross_entropy(
            model.head.features(hidden),
            model.head.output_weight(embedding),
            labels.flatten().to(embedding.device),
            bias=model.head.bias,
        )
        total += float(nats)
        count += int(targets)
    return total / max(count, 1)
