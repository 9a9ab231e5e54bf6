"""Answers of several tokens, filled in one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lmmodules.batch import IGNORED

if TYPE_CHECKING:
    from lmmodules.objectives.p_tuning import PTuning


def fill_in(objective: PTuning, batch: Any, *, as_labelled: bool = False) -> tuple[Tensor, Tensor]:
    """Fill in the places of the answers, in each row one at a time, each seen by those that follow.

    A masked model takes the place it is surest of first, a causal one the places from left to right.

    Args:
        objective: In evaluation mode.
        batch: A `PromptBatch` of rows (N, T), with a label at each place that is to be filled in.
        as_labelled: Fill in the labels themselves, and only ask what they cost, instead of the likeliest tokens.

    Returns:
        Tokens (N, T) at the positions that predict them, `IGNORED` elsewhere; and nats (N,) of each row's tokens.

    Source:
        `WscTaskHelper` and `CopaTaskHelper` in `PT-Fewshot/pet/task_helpers.py` of THUDM/P-tuning.
    """
    labels, causal = batch["labels"], bool(objective.backbone.causal)
    batch = {**batch, "input_ids": batch["input_ids"].clone()}
    from_left = -torch.arange(labels.shape[1], device=labels.device, dtype=torch.float32).expand(labels.shape)
    empty = labels != IGNORED  # (N, T)
    tokens = torch.full_like(labels, IGNORED)
    nats = torch.zeros(len(labels), device=labels.device)
    while empty.any():
        places = empty.flatten().nonzero().squeeze(1)
        log_probabilities = objective.logits(objective.hidden_states(batch, rows=places)).float().log_softmax(-1)
        candidates = torch.full_like(labels, IGNORED)
        candidates[empty] = labels[empty] if as_labelled else log_probabilities.argmax(-1)
        sureness = torch.full(labels.shape, -torch.inf, device=labels.device)
        sureness[empty] = log_probabilities.gather(1, candidates[empty][:, None]).squeeze(1)
        next_place = (from_left.masked_fill(~empty, -torch.inf) if causal else sureness).argmax(1)
        rows = empty.any(1).nonzero().squeeze(1)
        place = next_place[rows]
        tokens[rows, place] = candidates[rows, place]
        nats[rows] -= sureness[rows, place]
        empty[rows, place] = False
        if causal:  # which predicts a token at the position before its own
            rows, place = rows[place + 1 < labels.shape[1]], place[place + 1 < labels.shape[1]] + 1
        batch["input_ids"][rows, place] = tokens[rows, place - int(causal)]
    return tokens, nats
