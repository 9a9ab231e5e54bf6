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
from lmmodules.data.selection import Candidates, ProbabilisticRounding, SelectionRule
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.data.transform import Blocks, Transform
from lmmodules.errors import InputError

_FATE = np.uint64(0xD1B54A32D192ED03)


class Masking(Transform):
    """Select positions, replace most of them by `<mask>`, and ask for the original tokens.

    How many positions are selected is for `selection` to say: as released for RoBERTa, a sample of 512 tokens has 76
    or 77. A selected token becomes `<mask>`, or with `random_probability` a uniformly drawn token, or with
    `keep_probability` stays as it is. Every sample begins with `<s>`.

    Args:
        mask_probability: Share of the positions that is selected.
        random_probability: Chance that a selected token is replaced by a random one.
        keep_probability: Chance that a selected token is left unchanged.
        whole_word: Select words instead of tokens; all pieces of a word share one fate, and the pieces of a
            randomised word are drawn independently.
        mask_special_tokens: Whether `<s>` and `</s>` can be selected too, as RoBERTa's released code has it and BERT's
            has not.
        random_special_tokens: Whether random tokens are drawn from the whole vocabulary, as in BERT's code; False
            leaves out `<s>`, `<pad>`, `</s>` and `<unk>`, as in RoBERTa's.
        num_static_masks: None draws a new mask in every epoch; n repeats the masks after n epochs (n = 1 is a corpus
            masked once and for all, n = 10 is the paper's static baseline).
        selection: How many positions are selected; None is `ProbabilisticRounding`.

    Raises:
        InputError: When a probability lies outside of [0, 1].

    Source:
        RoBERTa (Liu et al. 2019), sections 2.3 and 4.1; fairseq, `data/mask_tokens_dataset.py`; google-research/bert,
        `create_pretraining_data.py`.

    Differences:
        Draws are a hash of (seed, epoch, index), where fairseq seeds a generator by a float modulus, with collisions.
        With `whole_word`, a line break or a tab begins a word just as a space does; and with
        `mask_special_tokens=False` a token that follows a special token begins a word, so that nothing is glued to
        what can not be selected.
    """

    batch_type: ClassVar[type] = MaskedBatch
    takes_pairs: ClassVar[bool] = True

    def __init__(
        self,
        *,
        mask_probability: float = 0.15,
        random_probability: float = 0.1,
        keep_probability: float = 0.1,
        whole_word: bool = False,
        mask_special_tokens: bool = True,
        random_special_tokens: bool = False,
        num_static_masks: int | None = None,
        selection: SelectionRule | None = None,
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
        self.random_special_tokens = random_special_tokens
        self.num_static_masks = num_static_masks
        self.selection = selection or ProbabilisticRounding()
        self._bos_id = self._mask_id = -1
        self._random_ids: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._is_special: npt.NDArray[np.bool_] = np.empty(0, dtype=np.bool_)
        self._word_starts: npt.NDArray[np.bool_] = np.empty(0, dtype=np.bool_)

    def bind(self, tokenizer: Tokenizer) -> Self:
        """Look up `<s>`, `<mask>`, the tokens to draw from and, for whole words, where words begin."""
        bound = copy.copy(self)
        bound._bos_id, bound._mask_id = tokenizer.bos_id, tokenizer.mask_id
        roles = () if self.random_special_tokens else ("bos", "pad", "eos", "unk")
        never_drawn = [tokenizer.id_of(role) for role in roles if tokenizer.has(role)]
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

        places, draws = self._select(tokens, attention_mask, keys)
        flat_tokens = tokens.reshape(-1)
        originals = flat_tokens[places]
        labels = np.full(flat_tokens.shape, IGNORED)
        labels[places] = originals
        flat_tokens[places] = self._corrupted(originals, draws, places, num_tokens + 1)

        batch = {"input_ids": tokens, "labels": labels.reshape(tokens.shape)}
        if attention_mask is not None:
            batch["attention_mask"] = attention_mask
        for name in ("document_ids", "token_type_ids"):
            ids = getattr(blocks, name)
            if ids is not None:  # <s> belongs to the document and the segment it stands before
                batch[name] = np.concatenate([ids[:, :1], ids], axis=1)
        if blocks.next_sentence_labels is not None:
            batch["next_sentence_labels"] = blocks.next_sentence_labels
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def _select(
        self, tokens: Int64Array, attention_mask: Int64Array | None, keys: SampleKeys
    ) -> tuple[Int64Array, UInt64Array]:
        """Choose positions: their places in the flattened (B, T) batch, and the draw that decided each, both (M,)."""
        num_rows, length = tokens.shape
        attended = None if attention_mask is None else attention_mask == 1
        eligible = attended
        if not self.mask_special_tokens:
            ordinary = ~self._is_special[tokens]
            eligible = ordinary if attended is None else attended & ordinary
        if not self.whole_word:
            draws = keys.bits("masking/positions", length)
            num_positions = np.full(num_rows, length) if attended is None else np.count_nonzero(attended, axis=1)
            chosen = self.selection.select(Candidates(draws, eligible, num_positions, keys), self.mask_probability)
            places = np.flatnonzero(chosen)
            return places, draws.reshape(-1)[places]

        starts = self._word_starts[tokens]
        if not self.mask_special_tokens:
            starts[:, 1:] |= self._is_special[tokens[:, :-1]]
        starts[:, 0] = True
        words: Int64Array = np.cumsum(starts, axis=1)  # (B, T) number of the word that a token belongs to, from 1
        num_words = np.count_nonzero(starts if attended is None else starts & attended, axis=1)
        most = int(words[:, -1].max())
        words += np.arange(num_rows)[:, None] * most - 1  # now its place in a flattened (B, W)
        may_be_chosen = np.arange(most) < num_words[:, None]
        if eligible is not None:
            may_be_chosen = np.zeros((num_rows, most), dtype=np.bool_)
            may_be_chosen.reshape(-1)[words[eligible]] = True
        draws = keys.bits("masking/positions", most)
        chosen = self.selection.select(Candidates(draws, may_be_chosen, num_words, keys), self.mask_probability)
        selected = chosen.reshape(-1)[words]
        if eligible is not None:
            selected &= eligible
        places = np.flatnonzero(selected)
        return places, draws.reshape(-1)[words.reshape(-1)[places]]

    def _corrupted(self, originals: Int64Array, draws: UInt64Array, places: Int64Array, length: int) -> Int64Array:
        """What stands at the selected positions, (M,); equal draws (pieces of one word) share the kind of change."""
        fates = unit_interval(mix(draws + _FATE))
        corrupted = np.full(originals.shape, self._mask_id)
        spared = np.flatnonzero(fates < self.keep_probability + self.random_probability)
        is_kept = fates[spared] < self.keep_probability
        kept, randomised = spared[is_kept], spared[~is_kept]
        corrupted[kept] = originals[kept]
        columns = (places[randomised] % length).astype(np.uint64)
        steps = (columns + np.uint64(1)) * GOLDEN_GAMMA
        choice = unit_interval(mix(mix(draws[randomised]) + steps)) * len(self._random_ids)
        corrupted[randomised] = self._random_ids[choice.astype(np.int64)]
        return corrupted
