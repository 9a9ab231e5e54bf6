"""The three texts of CLINE: one with masks, one rewritten in its meaning, and one rewritten out of it."""

from __future__ import annotations

import copy
import os
from functools import cached_property
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from lmmodules.batch import IGNORED
from lmmodules.data.masking import Masking
from lmmodules.data.packing import Windows
from lmmodules.data.parts_of_speech import MostFrequentSense, Spacy, Tagger
from lmmodules.data.randomness import SampleKeys
from lmmodules.data.store import TokenStore
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.data.transform import Blocks, Transform
from lmmodules.data.view_writer import ViewWriter
from lmmodules.data.word_replacement import Mode, Thesaurus, WordReplacement, check_shares
from lmmodules.data.wordnet import WordNet
from lmmodules.errors import InputError
from lmmodules.replacement_batch import ReplacementBatch

TaggerName = Literal["most_frequent_sense", "spacy"]
_LOOKED_AT = 64  # samples that are searched for a word to replace before training starts


class ReplacementViews(Transform):
    """Mask a text, and write it twice anew: with words of the same meaning, and with opposites or random words.

    Only nouns, verbs, adjectives and adverbs are replaced. Every token of a replacement has its label, every token of
    a content word that stands has 0, and everything else is not asked about. A view that grew is cut at the length of
    the sample. Words are found among the tokens and replacements are tokenised once, so that a warm transform only
    copies.

    Args:
        wordnet: Directory of WordNet 3.x; `None` looks where `LMM_WORDNET` says and in the usual places.
        tagger: `most_frequent_sense` needs nothing else; `spacy` reads context, slowly.
        spacy_model: Name of spaCy's pipeline.
        mode: One kind of replacement `per_block`, as released, or a kind `per_word`.
        positive_share: Most words replaced in the view that keeps the meaning, as a share of all words.
        negative_share: The same of the view that changes it.
        mask_probability: Share of the original's positions that is selected for the masked LM.
        random_probability: Chance that a selected token is replaced by a random one.
        keep_probability: Chance that a selected token is left unchanged.

    Raises:
        InputError: When an argument is out of range; when it is opened, if there is no WordNet or spaCy has no such
            pipeline; when it is bound, if there is no `<mask>`; when the corpus is at hand, if it has no word to
            replace.

    Source:
        Wang et al. 2021, "CLINE: Contrastive Learning with Semantic Negative Examples for Natural Language
        Understanding", section 3; kandorm/CLINE, `src/dataloader.py` and `src/datacollator.py`.

    Differences:
        The released code writes all three texts anew with spaces around every token; here what is not replaced keeps
        its tokens. Its words with a capital at the beginning of a sentence are candidates, and ours are not. Shares
        are of words and not of words and punctuation.
    """

    batch_type: ClassVar[type] = ReplacementBatch

    def __init__(
        self,
        *,
        wordnet: str | os.PathLike[str] | None = None,
        tagger: TaggerName = "most_frequent_sense",
        spacy_model: str = "en_core_web_sm",
        mode: Mode = "per_block",
        positive_share: float = 0.5,
        negative_share: float = 0.5,
        mask_probability: float = 0.15,
        random_probability: float = 0.1,
        keep_probability: float = 0.1,
    ) -> None:
        if tagger not in get_args(TaggerName):
            raise InputError(
                f"`tagger` must be one of {', '.join(get_args(TaggerName))}, but is {tagger!r}; use "
                "`transform.tagger=most_frequent_sense`"
            )
        check_shares(mode, positive_share, negative_share)
        self.wordnet = wordnet
        self.tagger = tagger
        self.spacy_model = spacy_model
        self.mode: Mode = mode
        self.shares = (positive_share, negative_share)
        self.masking = Masking(
            mask_probability=mask_probability,
            random_probability=random_probability,
            keep_probability=keep_probability,
            mask_special_tokens=False,
        )
        self._writer: ViewWriter | None = None

    def open(self) -> Self:
        """Open WordNet, and spaCy's pipeline."""
        opened = copy.copy(self)
        _ = opened._words
        return opened

    def bind(self, tokenizer: Tokenizer) -> Self:
        """Look up `<s>` and `<mask>`."""
        bound = copy.copy(self)
        bound.masking = self.masking.bind(tokenizer)
        bound._writer = ViewWriter(tokenizer, *self._words)
        return bound

    @cached_property
    def _words(self) -> tuple[Tagger, WordReplacement]:
        """What says which words carry content, and what replaces them; training and validation share both."""
        wordnet = WordNet(self.wordnet)
        tagger: Tagger = MostFrequentSense(wordnet) if self.tagger == "most_frequent_sense" else Spacy(self.spacy_model)
        replacement = WordReplacement(
            Thesaurus(wordnet), mode=self.mode, positive_share=self.shares[0], negative_share=self.shares[1]
        )
        return tagger, replacement

    def attach(self, store: TokenStore, windows: Windows) -> Self:
        """Look for a word that can be replaced, so that a corpus without any is refused before it is trained on.

        Raises:
            InputError: When there is none.
        """
        assert self._writer is not None
        some = np.linspace(0, len(windows) - 1, min(len(windows), _LOOKED_AT)).astype(np.int64)
        if len(some):
            blocks = windows.read(store.tokens, some, pad_id=self._writer.pad_id, trim=False)
            if not any(row.places for row in self._writer.content(blocks)):
                raise InputError(
                    f"`data.path` must hold English text with words that WordNet can replace, but {len(some)} samples "
                    "of it hold none; use other text, a larger `data.max_length=128`, or another `objective`"
                )
        return self

    def block_length(self, max_length: int) -> int:
        """One position is taken by `<s>`."""
        return self.masking.block_length(max_length)

    def __call__(self, blocks: Blocks, keys: SampleKeys) -> dict[str, Tensor]:
        """Make a `ReplacementBatch` of (B, L + 1) positions from blocks of (B, L) tokens."""
        assert self._writer is not None
        batch = self.masking(blocks, keys)
        views = self._writer.views(blocks, keys)
        return batch | {name: torch.from_numpy(array) for name, array in views.items()}

    def ignore(self, batch: dict[str, Tensor], rows: np.ndarray) -> None:
        """Take samples out of every loss, in place."""
        super().ignore(batch, rows)
        for view in ("positive", "negative"):
            batch[f"{view}_labels"][rows] = IGNORED
        batch["contrasted"][rows] = 0
