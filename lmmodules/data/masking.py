"""Dynamic masking: BERT's corruption, drawn anew each time a sample is seen."""

from __future__ import annotations

import copy
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import Self

from lmmodules.batch import IGNORED, MaskedBatch
from lmmodules.data.randomness import GOLDEN_GAMMA, Int64Array, SampleKeys, UInt64Array, mix, unit_interval
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.data.transform import Blocks, Transform
from lmmodules.errors import InputError

_EXCLUDED = np.uint64(2**64 - 1)
_FATE = np.uint64(0xD1B54A32D192ED03)


class Masking(Transform):
    """Select positions, replace most of them by `<mask>`, and ask for the original tokens.

    Of the L candidates of a sample, ``floor(mask_probability * L + u)`` are selected without replacement, where u is
    uniform in [0, 1): the expected share is exact, and a sample of 512 tokens has 76 or 77 selected. A selected token
    becomes `<mask>`, or with `random_probability` a uniformly drawn token, or with `keep_probability` stays as it is.
    Every sample begins with `<s>`.

    Args:
        mask_probability: Share of the positions that is selected.
        random_probability: Chance that a selected token is replaced by a random one.
        keep_probability: Chance that a selected token is left unchanged.
        whole_word: Select words instead of tokens; all pieces of a word share one fate, and the pieces of a
            randomised word are drawn independently.
        mask_special_tokens: Whether `<s>` and `</s>` can be selected too, as in the released code.
        num_static_masks: None draws a new mask in every epoch; n repeats the masks after n epochs (n = 1 is a corpus
            masked once and for all, n = 10 is the paper's static baseline).

    Raises:
        InputError: When a probability lies outside of [0, 1].

    Source:
        RoBERTa (Liu et al. 2019), sections 2.3 and 4.1; fairseq, `data/mask_tokens_dataset.py`.

    Differences:
        Random tokens are drawn from all ids but `<s>`, `<pad>`, `</s>` and `<unk>`, as there. The draws themselves
        are a hash of (seed, epoch, index), where fairseq seeds a generator by a float modulus with many collisions.
        With `whole_word`, a line break or a tab begins a word just as a space does; and with
        `mask_special_tokens=False` a token that follows a special token begins a word, so that nothing is glued to
        what can not be selected.
    """

    batch_type: ClassVar[type] = MaskedBatch

    def __init__(
        self,
        *,
        mask_probability: float = 0.15,
        random_probability: float = 0.1,
        keep_probability: float = 0.1,
        whole_word: bool = False,
        mask_special_tokens: bool = True,
        num_static_masks: int | None = None,
    ) -> None:
        if not 0 < mask_probability <= 1:
            raise InputError(f"`mask_probability` must be above 0 and at most 1, but is {mask_probability}")
        if min(random_probability, keep_probability) < 0 or random_probability + keep_probability > 1:
            raise InputError(
                "`random_probability` and `keep_probability` must not be negative and sum to at most 1, "
                f"but are {random_probability} and {keep_probability}"
            )
        if num_static_masks is not None and num_static_masks < 1:
            raise InputError(
                f"`num_static_masks` must be at least 1 (or null for new masks), but is {num_static_masks}"
            )
        self.mask_probability = mask_probability
        self.random_probability = random_probability
        self.keep_probability = keep_probability
        self.whole_word = whole_word
        self.mask_special_tokens = mask_special_tokens
        self.num_static_masks = num_static_masks
        self._bos_id = self._mask_id = -1
        self._random_ids: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._is_special: npt.NDArray[np.bool_] = np.empty(0, dtype=np.bool_)
        self._word_starts: npt.NDArray[np.bool_] = np.empty(0, dtype=np.bool_)

    def bind(self, tokenizer: Tokenizer) -> Self:
        """Look up `<s>`, `<mask>`, the tokens to draw from and, for whole words, where words begin."""
        bound = copy.copy(self)
        bound._bos_id, bound._mask_id = tokenizer.bos_id, tokenizer.mask_id
        never_drawn = [tokenizer.id_of(role) for role in ("bos", "pad", "eos", "unk") if tokenizer.has(role)]
        bound._random_ids = np.setdiff1d(np.arange(tokenizer.vocab_size), never_drawn)
        bound._is_special = np.zeros(tokenizer.vocab_size, dtype=np.bool_)
        bound._is_special[tokenizer.special_ids] = True
        if self.whole_word:
            bound._word_starts = tokenizer.word_starts
        return bound

    def block_length(self, max_length: int) -> int:
        """One position is taken by `<s>`."""
        return max_length - 1

    def __call__(self, blocks: Blocks, keys: SampleKeys) -> dict[str, Tensor]:
        """Make a `MaskedBatch` of (B, L + 1) positions from blocks of (B, L) tokens."""
        if self.num_static_masks is not None:
            keys = keys.cycle(self.num_static_masks)
        num_rows, num_tokens = blocks.tokens.shape
        tokens = np.empty((num_rows, num_tokens + 1), dtype=np.int64)
        tokens[:, 0] = self._bos_id
        tokens[:, 1:] = blocks.tokens
        attention_mask = blocks.attention_mask(prefix=1)

        selected, draws = self._select(tokens, attention_mask, keys)
        flat = np.flatnonzero(selected)
        labels = np.full_like(tokens, IGNORED)
        labels.ravel()[flat] = tokens.ravel()[flat]
        tokens.ravel()[flat] = self._corrupt(tokens.ravel()[flat], draws.ravel()[flat], flat % tokens.shape[1])

        batch = {"input_ids": torch.from_numpy(tokens), "labels": torch.from_numpy(labels)}
        if attention_mask is not None:
            batch["attention_mask"] = torch.from_numpy(attention_mask)
        if blocks.document_ids is not None:
            # <s> belongs to the document it stands before.
            ids = np.concatenate([blocks.document_ids[:, :1], blocks.document_ids], axis=1)
            batch["document_ids"] = torch.from_numpy(ids)
        return batch

    def _select(
        self, tokens: Int64Array, attention_mask: Int64Array | None, keys: SampleKeys
    ) -> tuple[npt.NDArray[np.bool_], UInt64Array]:
        """Choose the positions: (B, T) bool, and the draw that decided each, (B, T)."""
        candidates = None if attention_mask is None else attention_mask == 1
        if not self.mask_special_tokens:
            ordinary = ~self._is_special[tokens]
            candidates = ordinary if candidates is None else candidates & ordinary
        if not self.whole_word:
            draws = keys.bits("masking/positions", tokens.shape[1])
            return self._smallest(draws, candidates, keys), draws

        starts = self._word_starts[tokens]
        if not self.mask_special_tokens:
            starts[:, 1:] |= self._is_special[tokens[:, :-1]]
        starts[:, 0] = True
        words = np.cumsum(starts, axis=1) - 1  # (B, T) number of the word that a token belongs to
        num_words = int(words[:, -1].max()) + 1
        eligible = np.zeros((len(tokens), num_words), dtype=np.bool_)
        rows = np.broadcast_to(np.arange(len(tokens))[:, None], words.shape)
        inside = slice(None) if candidates is None else candidates
        eligible[rows[inside], words[inside]] = True
        word_draws = keys.bits("masking/positions", num_words)
        chosen = self._smallest(word_draws, eligible, keys)
        selected = np.take_along_axis(chosen, words, axis=1)
        if candidates is not None:
            selected &= candidates
        return selected, np.take_along_axis(word_draws, words, axis=1)

    def _smallest(
        self, draws: UInt64Array, candidates: npt.NDArray[np.bool_] | None, keys: SampleKeys
    ) -> npt.NDArray[np.bool_]:
        """Select the candidates with the smallest draws: a sample without replacement of exactly the wanted size."""
        if candidates is None:
            num_candidates: Int64Array = np.full(len(draws), draws.shape[1])
            ranked = np.sort(draws, axis=1)
        else:
            num_candidates = candidates.sum(axis=1)
            draws = np.where(candidates, draws, _EXCLUDED)
            ranked = np.sort(draws, axis=1)
        rounding = keys.uniform("masking/count", 1)[:, 0]
        counts = np.floor(self.mask_probability * num_candidates + rounding).astype(np.int64)
        last = ranked[np.arange(len(draws)), np.maximum(counts - 1, 0)]
        selected: npt.NDArray[np.bool_] = draws <= np.where(counts > 0, last, np.uint64(0))[:, None]
        return selected

    def _corrupt(self, originals: Int64Array, draws: UInt64Array, columns: Int64Array) -> Int64Array:
        """What stands at the selected positions, (M,); equal draws (pieces of one word) share the kind of change."""
        fates = unit_interval(mix(draws + _FATE))
        corrupted = np.full_like(originals, self._mask_id)
        kept = fates < self.keep_probability
        corrupted[kept] = originals[kept]
        randomised = ~kept & (fates < self.keep_probability + self.random_probability)
        places = columns[randomised].astype(np.uint64) + np.uint64(1)
        choice = unit_interval(mix(mix(draws[randomised]) + places * GOLDEN_GAMMA)) * len(self._random_ids)
        corrupted[randomised] = self._random_ids[choice.astype(np.int64)]
        return corrupted
