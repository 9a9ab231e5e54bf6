"""The data module of plain text: a corpus in, batches out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import Self

from lmmodules.data.base import Baseline, DataModule
from lmmodules.data.byte_level_bpe import ByteLevelBPE
from lmmodules.data.cache import default_cache_dir
from lmmodules.data.causal import NextToken
from lmmodules.data.corpora import Corpus
from lmmodules.data.packing import Packing, StreamPacking
from lmmodules.data.recipe import TokenizerRecipe
from lmmodules.data.samples import Samples, check_parts
from lmmodules.data.store import TokenStore
from lmmodules.data.text_files import PathLike, text_corpus
from lmmodules.data.tokenization import TRAIN, VALIDATION, prepare_stores, prepare_tokenizer
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.data.transform import Transform
from lmmodules.errors import InputError


class CorpusDataModule(DataModule):
    """Trains a tokenizer on a corpus, keeps the tokens on disk, and yields batches.

    Everything that takes time is kept under `cache_dir`, keyed by content: the second run on the same text starts at
    once. See `DataModule` for what it shares with others.

    Args:
        corpus: Where text comes from; None is the text at `path`.
        tokenizer: A tokenizer, or the recipe of one to train on the corpus; None trains 4096 tokens.
        transform: What becomes of a block of tokens; None is next-token prediction.
        packing: How blocks are cut from the tokens; None is a contiguous stream.
        path: Files, directories or globs of text; None is the standard library of the interpreter. This and the
            next three are those of `text_corpus`, and are not used when a `corpus` is given.
        suffixes: Only files with these endings; None takes all that are text.
        text_field: The field of a jsonl or parquet row that holds the text.
        document_separator: What divides the documents of a plain text file; None makes one document of a file.
        max_length: Positions of a sample, T.
        batch_size: Samples per batch on each device.
        validation_fraction: Share of the documents held out for validation; 1 keeps all for validation.
        validation_corpus: Text to validate on instead of a part of `corpus`.
        num_workers: Processes that prepare batches ahead; 0 prepares them in the training process.
        seed: Of the order of samples and of everything random about them. Which documents are held out, and what is
            masked in validation, does not depend on it.
        cache_dir: Where tokenizers and tokens are kept; None is `LMM_CACHE`, or the user's cache directory.
        document_mask: Keep documents in one block from seeing each other.
        shuffle: False trains on the samples in the order of the corpus.
        pin_memory: Put batches where a GPU can copy them from while it computes.
        batch_tokens: Fill batches by tokens instead: so many on each device, padding not counted, and whole samples.
            Batches are then as long as their longest sample.

    Attributes:
        tokenizer: The tokenizer; while a recipe was given and `prepare` has not run, asking for it is an error.
        transform: As given.
        max_length: As given.

    Raises:
        InputError: When an argument is out of range.
    """

    def __init__(
        self,
        corpus: Corpus | None = None,
        tokenizer: Tokenizer | TokenizerRecipe | None = None,
        transform: Transform | None = None,
        packing: Packing | None = None,
        *,
        path: PathLike | Sequence[PathLike] | None = None,
        suffixes: Sequence[str] | None = None,
        text_field: str = "text",
        document_separator: str | None = None,
        max_length: int = 256,
        batch_size: int = 16,
        validation_fraction: float = 0.05,
        validation_corpus: Corpus | None = None,
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str | os.PathLike[str] | None = None,
        document_mask: bool = False,
        shuffle: bool = True,
        pin_memory: bool = False,
        batch_tokens: int | None = None,
    ) -> None:
        super().__init__(
            max_length=max_length,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            shuffle=shuffle,
            pin_memory=pin_memory,
            batch_tokens=batch_tokens,
        )
        if not 0 <= validation_fraction <= 1:
            raise InputError(f"`data.validation_fraction` must be between 0 and 1, but is {validation_fraction}")
        self.corpus = corpus or text_corpus(
            path, suffixes=suffixes, text_field=text_field, document_separator=document_separator
        )
        self.transform = transform or NextToken()
        self.packing = packing or StreamPacking()
        self.validation_fraction = validation_fraction
        self.validation_corpus = validation_corpus
        self.cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
        self.document_mask = document_mask
        check_parts(self.packing, self.transform, document_mask=document_mask)
        if isinstance(tokenizer, Tokenizer):
            self._tokenizer = tokenizer
        self._recipe: TokenizerRecipe = ByteLevelBPE()
        if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
            self._recipe = tokenizer

    def prepare(self) -> Self:
        """Make the tokenizer and the tokens unless they exist, and open them. Any process may call it at any time.

        Returns:
            The data module itself.

        Raises:
            InputError: When the corpus is empty or too small for the vocabulary, what the transform needs is missing,
                be it a token of the tokenizer, or the disk is full.
        """
        if self._train is not None or self._validation is not None:
            return self
        self.transform = self.transform.open()
        if self._tokenizer is None:
            self._tokenizer = prepare_tokenizer(self.cache_dir, self.corpus, self._recipe)
        tokenizer = self._tokenizer
        self.transform.bind(tokenizer)  # says what is missing before hours of tokenising
        stores = prepare_stores(
            self.cache_dir,
            self.corpus,
            tokenizer,
            validation_fraction=self.validation_fraction,
            validation_corpus=self.validation_corpus,
        )
        if (stores / TRAIN).is_dir():
            self._train = self._samples(stores / TRAIN, tokenizer, self.seed)
        if (stores / VALIDATION).is_dir():
            self._validation = self._samples(stores / VALIDATION, tokenizer, seed=0)
        return self

    @property
    def batch_type(self) -> type:
        """The contract of the batches, a `TypedDict` of `lmmodules.batch`."""
        return self.transform.batch_type

    @property
    def train_samples(self) -> Samples:
        """The samples to train on.

        Raises:
            InputError: When all text is kept for validation.
        """
        samples = super().train_samples
        assert isinstance(samples, Samples)
        return samples

    @property
    def validation_samples(self) -> Samples:
        """The samples to validate on.

        Raises:
            InputError: When no text was held out.
        """
        samples = super().validation_samples
        assert isinstance(samples, Samples)
        return samples

    @property
    def train_tokens(self) -> int:
        """Tokens in the training store."""
        return len(self.train_samples.store)

    def baseline(self) -> Baseline | None:
        """The unigram entropy of the validation tokens."""
        if not self.holds_out:
            return None
        return Baseline(
            "unigram_entropy", self.unigram_entropy(), "without context", "unigram entropy of the same tokens"
        )

    def unigram_entropy(self) -> float:
        """Entropy of the validation tokens without context, in nats per token: what a loss is to be compared with."""
        return self.validation_samples.store.unigram_entropy()

    def validation_document(self, num_tokens: int) -> list[int]:
        """The beginning of the first held-out document that is long enough, or of the longest.

        Args:
            num_tokens: Tokens wanted; a shorter document gives all it has, without its `</s>`.
        """
        store = self.validation_samples.store
        sizes = store.offsets[1:] - store.offsets[:-1]
        document = int((sizes > num_tokens).argmax()) if (sizes > num_tokens).any() else int(sizes.argmax())
        start, end = int(store.offsets[document]), int(store.offsets[document + 1])
        tokens = [int(token) for token in store.tokens[start : min(end, start + num_tokens)]]
        return tokens[:-1] if tokens and tokens[-1] == self.tokenizer.eos_id else tokens

    def describe(self) -> dict[str, str]:
        """The data in a few facts, for a table."""
        self.prepare()
        facts = {"corpus": self.corpus.describe(), "vocabulary": f"{self.vocab_size:,} tokens"}
        parts = {"training": self._train, "validation": self._validation}
        opened = {name: samples for name, samples in parts.items() if isinstance(samples, Samples)}
        for name, samples in opened.items():
            store = samples.store
            facts[name] = f"{len(store):,} tokens in {store.header.num_documents:,} documents, {len(samples):,} samples"
            if samples.windows.num_split and not isinstance(self.packing, StreamPacking):
                facts[name] += f", {samples.windows.num_split:,} too long and cut"
        notes = dict.fromkeys(note for samples in opened.values() for note in samples.store.header.notes)
        if notes:
            facts["note"] = "; ".join(notes)
        return facts

    def _samples(self, path: Path, tokenizer: Tokenizer, seed: int) -> Samples:
        return Samples(
            TokenStore(path, tokenizer),
            tokenizer,
            self.packing,
            self.transform,
            max_length=self.max_length,
            seed=seed,
            document_mask=self.document_mask,
            trim_padding=self.batch_tokens is not None,
        )
