"""The data module: text in, batches out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L

from lmmodules.data.byte_level_bpe import ByteLevelBPE
from lmmodules.data.cache import default_cache_dir
from lmmodules.data.causal import NextToken
from lmmodules.data.corpora import Corpus
from lmmodules.data.loader import ResumableLoader, ValidationLoader
from lmmodules.data.packing import Packing, StreamPacking
from lmmodules.data.samples import Samples
from lmmodules.data.store import TokenStore
from lmmodules.data.text_files import PathLike, text_corpus
from lmmodules.data.tokenization import TRAIN, VALIDATION, prepare_stores, prepare_tokenizer
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.data.transform import Transform
from lmmodules.errors import InputError


class CorpusDataModule(L.LightningDataModule):
    """Trains a tokenizer on a corpus, keeps the tokens on disk, and yields batches.

    Everything that takes time is kept under `cache_dir`, keyed by content: the second run on the same text starts at
    once. The position in the training stream is part of a checkpoint, so a resumed run sees the batches that an
    unbroken one would have seen, also on another number of devices. Use it with
    `Trainer(use_distributed_sampler=False)`, or with any trainer: its loaders divide themselves among the ranks.

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
        tokenizer: Tokenizer | ByteLevelBPE | None = None,
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
    ) -> None:
        super().__init__()
        _check_count("max_length", max_length, least=2)
        _check_count("batch_size", batch_size, least=1)
        _check_count("num_workers", num_workers, least=0)
        if not 0 <= validation_fraction <= 1:
            raise InputError(f"`data.validation_fraction` must be between 0 and 1, but is {validation_fraction}")
        self.corpus = corpus or text_corpus(
            path, suffixes=suffixes, text_field=text_field, document_separator=document_separator
        )
        self.transform = transform or NextToken()
        self.packing = packing or StreamPacking()
        self.max_length = max_length
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.validation_corpus = validation_corpus
        self.num_workers = num_workers
        self.seed = seed
        self.cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
        self.document_mask = document_mask
        self.shuffle = shuffle
        self.pin_memory = pin_memory
        self._recipe = tokenizer if isinstance(tokenizer, ByteLevelBPE) else ByteLevelBPE()
        self._tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else None
        self._train: Samples | None = None
        self._validation: Samples | None = None
        self._train_loader: ResumableLoader | None = None
        self._validation_loader: ValidationLoader | None = None
        self._resumed_stream: dict[str, int] | None = None

    def prepare(self) -> CorpusDataModule:
        """Make the tokenizer and the tokens unless they exist, and open them. Any process may call it at any time.

        Returns:
            The data module itself.

        Raises:
            InputError: When the corpus is empty or too small for the vocabulary, the tokenizer lacks a token that the
                transform needs, or the disk is full.
        """
        if self._train is not None or self._validation is not None:
            return self
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

    def prepare_data(self) -> None:
        """Lightning's hook: called once per machine."""
        self.prepare()

    def setup(self, stage: str) -> None:
        """Lightning's hook: open what was prepared; a new run starts at the beginning of the stream."""
        self.prepare()
        if stage == "fit" and (self.trainer is None or self.trainer.global_step == 0):
            self._train_loader = None
            self._resumed_stream = None

    def train_dataloader(self) -> ResumableLoader:
        """The training stream, continued where it stands.

        Raises:
            InputError: When the corpus is smaller than one batch, or is kept for validation.
        """
        if self._train_loader is None:
            self._train_loader = ResumableLoader(
                self.train_samples,
                batch_size=self.batch_size,
                seed=self.seed,
                shuffle=self.shuffle,
                num_workers=self.num_workers,
                pin_memory=self.pin_memory,
            )
            if self._resumed_stream is not None:
                self._train_loader.load_state_dict(self._resumed_stream)
        self._train_loader.set_rank(*self._rank_and_world_size())
        len(self._train_loader)  # refuses a corpus that is smaller than one batch
        return self._train_loader

    def val_dataloader(self) -> ValidationLoader | list[Any]:
        """The validation batches; nothing when nothing was held out."""
        if self.prepare()._validation is None:
            return []
        if self._validation_loader is None:
            self._validation_loader = ValidationLoader(
                self._validation_samples(),
                batch_size=self.batch_size,
                num_workers=self.num_workers,
                pin_memory=self.pin_memory,
            )
        self._validation_loader.set_rank(*self._rank_and_world_size())
        return self._validation_loader

    def teardown(self, stage: str) -> None:
        """Lightning's hook: stop the workers. The training stream stays where it is."""
        for loader in (self._train_loader, self._validation_loader):
            if loader is not None:
                loader.close()

    def state_dict(self) -> dict[str, Any]:
        """Where the training stream stands, and the tokenizer's fingerprint."""
        stream = self._resumed_stream if self._train_loader is None else self._train_loader.state_dict()
        return {} if stream is None else {"tokenizer": self.tokenizer.fingerprint(), "stream": stream}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the training stream of a checkpoint.

        Raises:
            InputError: When the checkpoint was trained with another tokenizer or other data.
        """
        if state_dict["tokenizer"] != self.tokenizer.fingerprint():
            raise InputError(
                f"a resumed run must use the tokenizer of its checkpoint ({state_dict['tokenizer']}), but `tokenizer` "
                f"is {self.tokenizer.fingerprint()}; use the `data` and `tokenizer` settings it was started with"
            )
        self._resumed_stream = state_dict["stream"]
        if self._train_loader is not None:
            self._train_loader.load_state_dict(self._resumed_stream)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the corpus."""
        if self._tokenizer is None:
            raise InputError("the tokenizer is trained by `prepare()`, which must be called before it is used")
        return self._tokenizer

    @property
    def vocab_size(self) -> int:
        """Ids of the tokenizer."""
        return self.tokenizer.vocab_size

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
        if self.prepare()._train is None:
            raise InputError(
                "training needs text, but `data.validation_fraction` is 1; use `data.validation_fraction=0.05`"
            )
        assert self._train is not None
        return self._train

    @property
    def train_tokens(self) -> int:
        """Tokens in the training store."""
        return len(self.train_samples.store)

    @property
    def num_train_samples(self) -> int:
        """Samples in one epoch."""
        return len(self.train_samples)

    @property
    def holds_out(self) -> bool:
        """Whether there is text to validate on."""
        return self.prepare()._validation is not None

    def unigram_entropy(self) -> float:
        """Entropy of the validation tokens without context, in nats per token: what a loss is to be compared with."""
        return self._validation_samples().store.unigram_entropy()

    def validation_document(self, num_tokens: int) -> list[int]:
        """The beginning of the first held-out document that is long enough, or of the longest.

        Args:
            num_tokens: Tokens wanted; a shorter document gives all it has, without its `</s>`.
        """
        store = self._validation_samples().store
        sizes = store.offsets[1:] - store.offsets[:-1]
        document = int((sizes > num_tokens).argmax()) if (sizes > num_tokens).any() else int(sizes.argmax())
        start, end = int(store.offsets[document]), int(store.offsets[document + 1])
        tokens = [int(token) for token in store.tokens[start : min(end, start + num_tokens)]]
        return tokens[:-1] if tokens and tokens[-1] == self.tokenizer.eos_id else tokens

    def describe(self) -> dict[str, str]:
        """The data in a few facts, for a table."""
        self.prepare()
        facts = {"corpus": self.corpus.describe(), "vocabulary": f"{self.vocab_size:,} tokens"}
        for name, samples in (("training", self._train), ("validation", self._validation)):
            if samples is None:
                continue
            store = samples.store
            facts[name] = f"{len(store):,} tokens in {store.header.num_documents:,} documents, {len(samples):,} samples"
            if samples.windows.num_split and not isinstance(self.packing, StreamPacking):
                facts[name] += f", {samples.windows.num_split:,} too long and cut"
        notes = dict.fromkeys(
            note for samples in (self._train, self._validation) if samples for note in samples.store.header.notes
        )
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
        )

    def _validation_samples(self) -> Samples:
        if self.prepare()._validation is None:
            raise InputError(
                "this needs held-out text, but `data.validation_fraction` is 0; use `data.validation_fraction=0.05`"
            )
        assert self._validation is not None
        return self._validation

    def _rank_and_world_size(self) -> tuple[int, int]:
        # Strategies say which processes see different data: under tensor parallelism not all of them do.
        strategy = None if self.trainer is None else self.trainer.strategy
        kwargs = getattr(strategy, "distributed_sampler_kwargs", None) or {"rank": 0, "num_replicas": 1}
        return kwargs["rank"], kwargs["num_replicas"]


def _check_count(name: str, value: object, *, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise InputError(f"`data.{name}` must be a whole number, at least {least}, but is {value}")
