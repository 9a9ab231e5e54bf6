"""Filling in while somebody types: what was read once is not read again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lmmodules.data.fim_sentinels import Order, Sentinels, check_order
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import check_whole_number
from lmmodules.evaluation.generation import Choice, Writer, evaluating
from lmmodules.evaluation.infill import Middle, check_fills_in, context_room, infilling_prompt
from lmmodules.models.cache import KVCache
from lmmodules.models.heads import STEPS_WORTH_A_LAYOUT
from lmmodules.models.token_by_token import Reader, reader


class InfillingSession:
    """Completes a prefix that grows in front of a suffix that stays, as an editor asks for it at every key.

    Keys and values of the prompt are kept, and of the next prompt only what differs is read. In the order `spm` the
    suffix stands first and is read once; then each key costs the tokens it adds. In the order `psm` the suffix stands
    behind the prefix and has to be read again after every key. What the model writes is kept too: accepting it costs
    nothing. After the model has learned on, a new session is due.

    Args:
        model: See `lmmodules.evaluation.infill`.
        tokenizer: See `lmmodules.evaluation.infill`.
        suffix: Text behind the gap.
        order: See above.
        sentinels: Ids of the sentinels; `None` looks them up by their usual names.
        max_length: Tokens of the context; `None` for that of the backbone. A prefix that grows beyond it loses its
            beginning at every key, and with it what could be kept.

    Attributes:
        suffix: As given; another one may be put in its place.
        tokens_read: Tokens of the last prompt that had to be read.

    Raises:
        InputError: When the model was not trained to fill in, the tokenizer has no sentinels, or there is no such
            order.

    Source:
        Bavarian et al. 2022, section 3.1.
    """

    def __init__(
        self,
        model: Writer,
        tokenizer: Tokenizer,
        suffix: str,
        *,
        order: Order = "spm",
        sentinels: Sentinels | None = None,
        max_length: int | None = None,
    ) -> None:
        check_fills_in(model)
        check_order(order)
        self.model = model
        self.tokenizer = tokenizer
        self.suffix = suffix
        self.order: Order = order
        self.sentinels = sentinels or Sentinels.of(tokenizer)
        self.max_length = max_length
        self.tokens_read = 0
        self._tokens: list[int] = []  # those in the cache
        self._cache = KVCache.for_backbone(model.backbone, 1, 0)
        self._writing: tuple[Reader, Callable[[Tensor], Tensor]] | None = None

    @torch.inference_mode()
    def complete(
        self,
        prefix: str,
        *,
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> Middle:
        """Write what stands between the prefix and the suffix, just as `infill` would without a cache.

        Args:
            prefix: Text before the gap.
            max_new_tokens: Tokens to write at most, at least one.
            temperature: See `lmmodules.evaluation.generate`.
            top_k: See `lmmodules.evaluation.generate`.
            top_p: See `lmmodules.evaluation.generate`.
            seed: See `lmmodules.evaluation.generate`.

        Raises:
            InputError: When an option is out of range, or the suffix is longer than the context.
        """
        check_whole_number("max_new_tokens", max_new_tokens, least=1)
        embedding = self.model.backbone.token_embedding.weight
        room = context_room(self.model, self.max_length, max_new_tokens)
        prompt = infilling_prompt(self.tokenizer, self.sentinels, prefix, self.suffix, order=self.order, room=room)
        choose = Choice(False, temperature, top_k, top_p)
        generator = None if seed is None else torch.Generator(embedding.device).manual_seed(seed)

        with evaluating(self.model):
            read, logits = self._prepare()
            hidden = self._read(prompt, max_new_tokens)
            written: list[int] = []
            while True:
                token = int(choose(logits(hidden), generator))
                if token == self.sentinels.end:
                    return Middle(self.tokenizer.decode(written), True)
                written.append(token)
                if len(written) == max_new_tokens:
                    return Middle(self.tokenizer.decode(written), False)
                self._tokens.append(token)
                hidden = read(torch.tensor([token], device=embedding.device), self._cache, None)

    def _prepare(self) -> tuple[Reader, Callable[[Tensor], Tensor]]:
        """What reads a token and what gives logits, made at the first key and kept for those to come."""
        if self._writing is None:
            backbone, head = self.model.backbone, self.model.head
            embedding = backbone.token_embedding.weight
            self._writing = reader(backbone), head.for_writing(embedding, 1, STEPS_WORTH_A_LAYOUT)
        return self._writing

    def _read(self, prompt: list[int], max_new_tokens: int) -> Tensor:
        """The state of the last token of a prompt, (1, D), after reading what the cache does not hold."""
        # A call that was interrupted has left tokens that were never read.
        kept = min(_shared(self._tokens, prompt), len(prompt) - 1, self._cache.length)
        self._cache.crop(kept)
        self._reserve(len(prompt) + max_new_tokens)
        self._tokens = list(prompt)
        self.tokens_read = len(prompt) - kept
        device = self.model.backbone.token_embedding.weight.device
        last = torch.tensor([self.tokens_read - 1], device=device)
        return self.model.backbone(torch.tensor([prompt[kept:]], device=device), cache=self._cache, rows=last)

    def _reserve(self, length: int) -> None:
        """Make room for so many tokens, and for as many again, so that growing by a token copies nothing."""
        if length <= self._cache.max_length:
            return
        old, self._cache = self._cache, KVCache.for_backbone(self.model.backbone, 1, 2 * length)
        self._cache.keys[..., : old.length, :] = old.keys[..., : old.length, :]
        self._cache.values[..., : old.length, :] = old.values[..., : old.length, :]
        self._cache.advance(old.length)


def _shared(first: list[int], second: list[int]) -> int:
    """How many tokens two sequences begin with in common."""
    return next(
        (place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
