"""Texts, or pairs of them, with a class or a score."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lmmodules.batch import LabelledBatch, ScoredBatch
from lmmodules.data.base import Baseline
from lmmodules.data.labelled_rows import LabelledSource, Rows, Wanted
from lmmodules.data.labels import class_names, encode_classes, encode_scores, refuse_empty_classes
from lmmodules.data.recipe import TokenizerRecipe
from lmmodules.data.row_division import Columns
from lmmodules.data.rows_datamodule import RowsDataModule
from lmmodules.data.sequence_layout import EncodedSequences, encode_once
from lmmodules.data.text_files import PathLike
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError

LABEL_KINDS = ("classes", "scores")


class LabelledDataModule(RowsDataModule):
    """Texts with a class each, for `Classification`, or with a score, for `Regression`.

    Args:
        source: Where the rows come from; `None` takes files at `path`.
        tokenizer: A tokenizer, or the recipe for one that is trained on the rows.
        path: Files in the place of `source`; see `LabelledFiles`.
        validation_path: Files to validate on; `None` holds some rows out.
        text_columns: One column with text, or the two of a pair.
        label_column: Column with the labels.
        label_kind: `classes` or `scores`.
        classes: Names of the classes, in order; `None` takes those there are. Names may be given to labels that are
            the numbers 0, 1, ...
        label_scale: What scores are divided by.
        header: See `LabelledFiles`.
        delimiter: See `LabelledFiles`.
        skip_incomplete: See `RowsDataModule`.
        layout: Special tokens of a pair, `roberta` or `bert`; `None` goes by the tokenizer.
        max_length: Most tokens of a sequence, T; a longer one loses tokens from the end of its longer text.
        batch_size: Samples per batch on each device.
        validation_fraction: Share of the rows to hold out; see `RowsDataModule`.
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
        text_columns: Sequence[str | int] = ("sentence",),
        label_column: str | int = "label",
        label_kind: str = "classes",
        classes: Sequence[str] | None = None,
        label_scale: float = 1.0,
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
            source,
            tokenizer,
            path=path,
            validation_path=validation_path,
            header=header,
            delimiter=delimiter,
            skip_incomplete=skip_incomplete,
            layout=layout,
            max_length=max_length,
            batch_size=batch_size,
            validation_fraction=validation_fraction,
            num_workers=num_workers,
            seed=seed,
            cache_dir=cache_dir,
            group_by_length=group_by_length,
            shuffle=shuffle,
            pin_memory=pin_memory,
        )
        # Columns of a table without a header are numbers.
        columns = [text_columns] if isinstance(text_columns, (str, int)) else list(text_columns)
        self.text_columns = [str(column) for column in columns]
        self.label_column = str(label_column)
        if len(self.text_columns) not in (1, 2) or len({*self.text_columns, self.label_column}) <= len(columns):
            raise InputError(
                "`data.text_columns` must name one column, or two for pairs, and `data.label_column` another, but they "
                f"are [{', '.join(self.text_columns)}] and {self.label_column}; use for example "
                "`data.text_columns=[sentence1,sentence2] data.label_column=label`"
            )
        if label_kind not in LABEL_KINDS:
            raise InputError(
                f"`data.label_kind` must be one of {', '.join(LABEL_KINDS)}, but is {label_kind}; "
                "use `data.label_kind=classes`"
            )
        if label_scale <= 0 or not math.isfinite(label_scale):
            raise InputError(f"`data.label_scale` must be positive, but is {label_scale}; use `data.label_scale=1`")
        names = None if classes is None else tuple(str(name) for name in classes)
        if names is not None and (len(set(names)) < len(names) or len(names) < 2 or label_kind == "scores"):
            raise InputError(
                f"`data.classes` must name two classes or more, each once, where labels are classes, but is "
                f"[{', '.join(names)}] with `data.label_kind={label_kind}`; use `data.classes=null`"
            )
        self.label_kind = label_kind
        self.label_scale = label_scale
        self._classes = names

    @property
    def batch_type(self) -> type:
        """`LabelledBatch` for classes, `ScoredBatch` for scores."""
        return LabelledBatch if self.label_kind == "classes" else ScoredBatch

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order; none where labels are scores.

        Raises:
            InputError: See `prepare`.
        """
        return self.prepare()._classes or ()

    @property
    def objective_settings(self) -> dict[str, Any]:
        """What the objective has to know of the data."""
        return {"classes": list(self.classes)} if self.label_kind == "classes" else {}

    def wanted(self) -> Wanted:
        """The text columns and that of the labels."""
        return {**dict.fromkeys(self.text_columns, "data.text_columns"), self.label_column: "data.label_column"}

    def texts(self, rows: Rows) -> Columns:
        """The text columns.

        Raises:
            InputError: When one holds something else than text.
        """
        for column in self.text_columns:
            for index, value in enumerate(rows.columns[column]):
                if not isinstance(value, str):
                    raise InputError(
                        f"`data.text_columns` must name columns of text, but in {rows.place(index)} `{column}` is "
                        f"{value!r}"
                    )
        return [rows.columns[column] for column in self.text_columns]

    def settle_labels(self, rows: Rows, training: Rows) -> None:
        """Find out the classes, and refuse those that nothing is learnt about."""
        if self.label_kind == "classes":
            self._classes = self._classes or class_names(rows, self.label_column)
            if len(training):
                refuse_empty_classes(self.encode_labels(training), self._classes)

    def encode_labels(self, rows: Rows) -> npt.NDArray[Any]:
        """The number of each row's class, or its score."""
        if self.label_kind == "scores":
            return encode_scores(rows, self.label_column, self.label_scale)
        assert self._classes is not None
        return encode_classes(rows, self.label_column, self._classes)

    def encode_rows(self, rows: Rows) -> EncodedSequences:
        """One text or two as a sequence."""
        return encode_once(self.cache_dir, self.texts(rows), self.tokenizer, self.sequence_layout, self.max_length)

    def describe_labels(self, labels: npt.NDArray[Any]) -> str:
        """Share of each class, or the mean of the scores."""
        if self.label_kind == "scores":
            return f" (score {labels.mean():.3g} on average, {labels.min():.3g} to {labels.max():.3g})"
        shares = np.bincount(labels, minlength=len(self.classes)) / len(labels)
        return f" ({', '.join(f'{name} {share:.1%}' for name, share in zip(self.classes, shares, strict=True))})"

    def baseline(self) -> Baseline | None:
        """The loss of one who knows the validation labels but not the texts: their entropy, or their variance."""
        if not self.holds_out:
            return None
        labels = self.validation_samples.labels
        if self.label_kind == "scores":
            return Baseline("score_variance", float(labels.var()), "without the text", "variance of the scores")
        shares = np.bincount(labels) / len(labels)
        entropy = float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
        return Baseline("class_entropy", entropy, "without the text", "entropy of the classes")
