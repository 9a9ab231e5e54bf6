"""What data modules of labelled rows share: from a table to sequences, some of them held out."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from lmmodules.data.base import DataModule
from lmmodules.data.byte_level_bpe import ByteLevelBPE
from lmmodules.data.cache import default_cache_dir
from lmmodules.data.labelled_rows import LabelledFiles, LabelledSource, Rows, Wanted
from lmmodules.data.labelled_samples import LabelledSamples
from lmmodules.data.length_order import LengthOrder
from lmmodules.data.loader import ResumableLoader
from lmmodules.data.recipe import TokenizerRecipe
from lmmodules.data.row_division import Columns, RowTexts, complete_rows, hold_out
from lmmodules.data.sequence_layout import EncodedSequences, SequenceLayout, choose_layout
from lmmodules.data.text_files import PathLike
from lmmodules.data.tokenization import prepare_tokenizer
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError


class RowsDataModule(DataModule):
    """Rows of a table, encoded once, in batches that are padded to their longest row.

    A subclass says which columns it reads, and makes sequences and labels of them.

    Args:
        source: Where the rows come from; `None` takes files at `path`.
        tokenizer: A tokenizer, or the recipe for one that is trained on the rows; `None` trains one of 4096 tokens.
        path: Files in the place of `source`; see `LabelledFiles`.
        validation_path: Files to validate on; `None` holds some rows out.
        header: See `LabelledFiles`.
        delimiter: See `LabelledFiles`.
        skip_incomplete: Leave out rows without a label, without text, or with too few or many columns, and count them,
            instead of refusing them.
        layout: Special tokens of a pair, `roberta` or `bert`; `None` goes by the tokenizer.
        max_length: Most tokens of a sequence, T.
        batch_size: Samples per batch on each device.
        validation_fraction: Share of the rows to hold out, chosen by a hash of their text, so that equal ones stay on
            one side and added ones move no others; 1 holds out all. Not used where there are rows to validate on.
        num_workers: Processes that prepare batches ahead; 0 prepares them in the training process.
        seed: Of the order of samples.
        cache_dir: Where tokenizers and encoded rows are kept; `None` is `default_cache_dir()`.
        group_by_length: Put samples of similar length into a batch; see `LengthOrder`.
        shuffle: False trains on the rows in their own order.
        pin_memory: Put batches where a GPU can copy them from while it computes.

    Raises:
        InputError: When an argument is out of range.
    """

    def __init__(
        self,
        source: LabelledSource | None = None,
        tokenizer: Tokenizer | TokenizerRecipe | None = None,
        *,
        path: PathLike | Sequence[PathLike] | None = None,
        validation_path: PathLike | Sequence[PathLike] | None = None,
        header: bool = True,
        delimiter: str | None = None,
        skip_incomplete: bool = False,
        layout: str | None = None,
        max_length: int = 512,
        batch_size: int = 32,
        validation_fraction: float = 0.1,
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str | os.PathLike[str] | None = None,
        group_by_length: bool = True,
        shuffle: bool = True,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            max_length=max_length,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            shuffle=shuffle,
            pin_memory=pin_memory,
        )
        if not 0 <= validation_fraction <= 1:
            raise InputError(f"`data.validation_fraction` must be between 0 and 1, but is {validation_fraction}")
        if source is None and path is None:
            raise InputError("`data.path` must name files with labelled rows; use for example `data.path=train.tsv`")
        self.source = source or LabelledFiles(
            path or (), validation_path, header=header, delimiter=delimiter, skip_malformed=skip_incomplete
        )
        self.skip_incomplete = skip_incomplete
        self.layout = layout
        self.group_by_length = group_by_length
        self.validation_fraction = validation_fraction
        self.cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
        self._recipe: TokenizerRecipe = ByteLevelBPE()
        if isinstance(tokenizer, Tokenizer):
            self._tokenizer = tokenizer
        elif tokenizer is not None:
            self._recipe = tokenizer
        self._num_left_out = 0
        self.rows: dict[str, Rows] = {}
        """The rows of `training` and `validation`, once prepared."""

    # What a subclass says

    @abstractmethod
    def wanted(self) -> Wanted:
        """Columns to read, each with the option that names it; the last is that of the labels."""

    @abstractmethod
    def texts(self, rows: Rows) -> Columns:
        """The texts of rows, column by column.

        Args:
            rows: With the columns wanted.

        Raises:
            InputError: When a row holds something else.
        """

    @abstractmethod
    def encode_labels(self, rows: Rows) -> npt.NDArray[Any]:
        """(N,) labels of rows.

        Args:
            rows: With the columns wanted.
        """

    @abstractmethod
    def encode_rows(self, rows: Rows) -> EncodedSequences:
        """The sequences of rows.

        Args:
            rows: With the columns wanted.
        """

    def settle_labels(self, rows: Rows, training: Rows) -> None:
        """Find out what the labels are, or refuse them.

        Args:
            rows: All that may be trained on, before any are held out.
            training: Those that are trained on.
        """

    @property
    def num_choices(self) -> int | None:
        """Sequences of a sample; `None` where there is one."""
        return None

    # What is the same for all

    def prepare(self) -> Self:
        """Read, divide and encode the rows unless that is done. Any process may call it at any time.

        Returns:
            The data module itself.

        Raises:
            InputError: When rows, labels or texts are not what they must be.
        """
        if self._train is not None or self._validation is not None:
            return self
        wanted = self.wanted()
        rows = self._complete(self.source.train(wanted))
        texts = self.texts(rows)
        validation = self.source.validation(wanted)
        if validation is not None:
            training, validation = rows, self._complete(validation)
            self.texts(validation)
        else:
            training, validation = hold_out(rows, texts, self.validation_fraction)
        self.settle_labels(rows, training)
        parts = {"training": training, "validation": validation}
        self.rows = {name: part for name, part in parts.items() if len(part)}
        # Refused before hours of encoding.
        labels = {name: self.encode_labels(part) for name, part in self.rows.items()}
        if self._tokenizer is None:
            self._tokenizer = prepare_tokenizer(self.cache_dir, RowTexts(texts), self._recipe)
        samples = {name: self._samples(part, labels[name]) for name, part in self.rows.items()}
        self._train, self._validation = samples.get("training"), samples.get("validation")
        return self

    @property
    def sequence_layout(self) -> SequenceLayout:
        """The special tokens of a sequence."""
        return choose_layout(self.layout, self.tokenizer)

    @property
    def train_samples(self) -> LabelledSamples:
        """The samples to train on.

        Raises:
            InputError: When all are kept for validation.
        """
        samples = super().train_samples
        assert isinstance(samples, LabelledSamples)
        return samples

    @property
    def validation_samples(self) -> LabelledSamples:
        """The samples to validate on.

        Raises:
            InputError: When none were held out.
        """
        samples = super().validation_samples
        assert isinstance(samples, LabelledSamples)
        return samples

    def training_loader(self) -> ResumableLoader:
        """A new training stream."""
        samples = self.train_samples
        count = len(samples)
        lengths = samples.lengths(np.arange(count)) if self.group_by_length else None
        return ResumableLoader(
            samples,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            order=LengthOrder(count, self.seed, self.shuffle, lengths),
        )

    def describe(self) -> dict[str, str]:
        """The data in a few facts, for a table."""
        self.prepare()
        num_texts = 2 if len(self.wanted()) > 2 else 1
        facts = {
            "rows": self.source.describe(),
            "vocabulary": f"{self.vocab_size:,} tokens",
            "sequence": self.sequence_layout.describe(self.tokenizer, num_texts),
        }
        parts = {"training": self._train, "validation": self._validation}
        for name, samples in parts.items():
            if isinstance(samples, LabelledSamples):
                lengths = samples.lengths(np.arange(len(samples)))
                facts[name] = (
                    f"{len(samples):,} rows{self.describe_labels(samples.labels)}; median {int(np.median(lengths))} "
                    f"tokens, longest {lengths.max()}"
                )
                if samples.sequences.num_cut:
                    facts[name] += f", {samples.sequences.num_cut:,} cut to {self.max_length}"
        if self._num_left_out:
            facts["note"] = f"{self._num_left_out:,} rows without a label, without text or with other columns left out"
        return facts

    def describe_labels(self, labels: npt.NDArray[Any]) -> str:
        """The labels in a few words, to stand behind the number of rows.

        Args:
            labels: (N,) as encoded.
        """
        return ""

    def _complete(self, rows: Rows) -> Rows:
        kept = complete_rows(rows, self.wanted(), skip=self.skip_incomplete)
        self._num_left_out += rows.num_malformed + len(rows) - len(kept)
        return kept

    def _samples(self, rows: Rows, labels: npt.NDArray[Any]) -> LabelledSamples:
        tokenizer = self.tokenizer
        return LabelledSamples(
            self.encode_rows(rows),
            labels,
            # Any id will do where there is no <pad>: padding is not attended to.
            pad_id=tokenizer.pad_id if tokenizer.has("pad") else tokenizer.eos_id,
            token_types=self.sequence_layout.token_types and len(self.wanted()) > 2,
            num_choices=self.num_choices,
        )
