"""Writing on from prompts, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from lmmodules.errors import InputError, check_whole_number
from lmmodules.models.backbone import Backbone
from lmmodules.models.cache import KVCache
from lmmodules.models.heads import LanguageModelHead
from lmmodules.models.token_by_token import reader

Stream = Callable[[list["int | None"]], None]
"""Receives, after every step, one new token per prompt, or `None` where a prompt's continuation has ended."""


class Writer(Protocol):
    """What can write: an objective, or anything else with a causal backbone and a head."""

    @property
    def backbone(self) -> Backbone:
        """Token ids in, hidden states out; see `lmmodules.models.Backbone`."""
        ...

    @property
    def head(self) -> LanguageModelHead:
        """Hidden states to logits."""
        ...


def generate(
    model: Writer,
    prompts: Tensor | Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    greedy: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_ids: Sequence[int] = (),
    seed: int | None = None,
    stream: Stream | None = None,
) -> list[list[int]]:
    """Write on from each prompt.

    Prompts of different lengths are padded on the left, and each is continued as it would be by itself.

    Args:
        model: An objective with a causal backbone and a head. Dropout is off while it writes.
        prompts: Token ids: a list of prompts, or a tensor (B, T) of prompts of one length.
        max_new_tokens: Number of tokens to write after each prompt.
        greedy: Take the likeliest token instead of drawing one, as `temperature=0` does.
        temperature: Logits are divided by it: below 1 the likely becomes likelier.
        top_k: Draw among the k likeliest tokens; `None` for all.
        top_p: Draw among the fewest tokens that together have this probability; `None` for all. Applied after
            `temperature` and `top_k`.
        stop_ids: Tokens that end a continuation; they are not part of it.
        seed: Seed of the draws; `None` takes torch's global generator.
        stream: Called after every step with the new tokens.

    Returns:
        The new tokens of each prompt.

    Raises:
        InputError: When an option is out of range, a prompt is empty, the model is not causal, or prompt and
            continuation together are longer than its positions reach.
    """
    backbone, head = model.backbone, model.head
    if isinstance(prompts, Tensor) and prompts.ndim != 2:
        raise InputError(f"`prompts` must be (B, T) when they are a tensor, but have shape {tuple(prompts.shape)}")
    rows = prompts.tolist() if isinstance(prompts, Tensor) else [list(map(int, prompt)) for prompt in prompts]
    _check(backbone, rows, max_new_tokens)
    choose = Choice(greedy, temperature, top_k, top_p)
    if not rows or max_new_tokens == 0:
        return [[] for _ in rows]
    with evaluating(model), torch.inference_mode():
        return _write(backbone, head, rows, max_new_tokens, choose, set(stop_ids), seed, stream)


@contextmanager
def evaluating(model: Writer) -> Iterator[None]:
    """Switch dropout off, and on again afterwards where it was on.

    Args:
        model: Whose backbone and head are about to write.
    """
    modules = [module for module in (cast(nn.Module, model.backbone), model.head) if module.training]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for module in modules:
            module.train()


def _write(
    backbone: Backbone,
    head: LanguageModelHead,
    prompts: list[list[int]],
    max_new_tokens: int,
    choose: Choice,
    stop_ids: set[int],
    seed: int | None,
    stream: Stream | None,
) -> list[list[int]]:
    embedding = backbone.token_embedding.weight
    device, batch = embedding.device, len(prompts)
    length = max(map(len, prompts))
    limit = length + max_new_tokens
    padding = [length - len(prompt) for prompt in prompts]
    input_ids = torch.tensor(
        [[0] * pad + prompt for pad, prompt in zip(padding, prompts, strict=True)], device=device
    )  # (B, T)
    mask: Tensor | None = None
    if any(padding):
        mask = torch.arange(limit, device=device) >= torch.tensor(padding, device=device)[:, None]  # (B, limit)
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)

    cache = KVCache.for_backbone(backbone, batch, limit)
    read, logits = reader(backbone), head.for_writing(embedding, batch, max_new_tokens)
    written: list[list[int]] = [[] for _ in prompts]
    unfinished = set(range(batch))
    last = torch.arange(1, batch + 1, device=device) * length - 1  # the last position of each row
    hidden = backbone(input_ids, attention_mask=None if mask is None else mask[:, :length], cache=cache, rows=last)
    for step in range(max_new_tokens):
        tokens = choose(logits(hidden), generator)  # (B,)
        news: list[int | None] = [None] * batch
        for row, token in enumerate(tokens.tolist()):
            if row in unfinished and token in stop_ids:
                unfinished.remove(row)
            if row in unfinished:
                written[row].append(token)
                news[row] = token
        if stream is not None:
            stream(news)
        if not unfinished or step == max_new_tokens - 1:
            break
        hidden = read(tokens, cache, None if mask is None else mask[:, : cache.length + 1])
    return written


COLDEST = 1e-6
"""Temperature below which the likeliest token is taken: logits over less could be more than a float holds."""


class Choice:
    """Chooses the next token of each row.

    Args:
        greedy: Take the likeliest.
        temperature: Logits are divided by it.
        top_k: Draw among the k likeliest; `None` for all.
        top_p: Draw among the fewest that together have this probability; `None` for all.

    Raises:
        InputError: When an option is out of range.
    """

    def __init__(self, greedy: bool, temperature: float, top_k: int | None, top_p: float | None) -> None:
        if not isinstance(temperature, int | float) or not temperature >= 0:
            raise InputError(
                f"`temperature` must be a number, not negative, but is {temperature}; use `temperature=0` for greedy"
            )
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise InputError(f"`top_k` must be at least 1, but is {top_k}; use `top_k=null` for all tokens")
        if top_p is not None and (not isinstance(top_p, int | float) or not 0.0 < top_p <= 1.0):
            raise InputError(f"`top_p` must be above 0 and at most 1, but is {top_p}; use `top_p=null` for all tokens")
        self.greedy = greedy or temperature < COLDEST
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p

    def __call__(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """Tokens (B,) from logits (B, V), drawn with a generator or with torch's own."""
        if self.greedy:
            return logits.argmax(-1)
        logits = logits.float() / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            smallest = logits.topk(self.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < smallest, float("-inf"))
        probabilities = logits.softmax(-1)
        if self.top_p is not None and self.top_p < 1.0:
            ordered, order = probabilities.sort(-1, descending=True)
            likelier = ordered.cumsum(-1) - ordered  # probability of all that come before
            probabilities = torch.zeros_like(ordered).scatter(-1, order, ordered.masked_fill(likelier >= self.top_p, 0))
        # The race of exponential clocks: the first to ring is drawn in proportion to the rates. Unlike multinomial,
        # it neither normalises nor waits for the device.
        clocks = torch.empty_like(probabilities).exponential_(generator=generator)
        return (probabilities / clocks).argmax(-1)


def _check(
    backbone: Backbone,
    prompts: list[list[int]],
    max_new_tokens: int,
) -> None:
    if not backbone.causal:
        raise InputError(
            "`model` must be causal to write, but its backbone is bidirectional; use `model=decoder_small`"
        )
    check_whole_number("max_new_tokens", max_new_tokens, least=0)
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise InputError(f"`prompts` must have at least one token each, but prompt {index} is empty")
        if not 0 <= min(prompt) <= max(prompt) < backbone.vocab_size:
            raise InputError(
                f"`prompts` must be tokens of the model's vocabulary ({backbone.vocab_size}), but prompt {index} has "
                f"{max(prompt)}; use the tokenizer the model was trained with"
            )
    longest = max(map(len, prompts), default=0)
    if backbone.max_length is not None and longest + max_new_tokens > backbone.max_length:
        raise InputError(
            f"`max_new_tokens` must leave room for the prompt within `max_length` ({backbone.max_length}), but is "
            f"{max_new_tokens} after {longest} tokens; use `max_new_tokens={max(backbone.max_length - longest, 0)}`"
        )
