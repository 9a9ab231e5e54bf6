"""Questions about an article with a few answers, of which one is right, laid out as RoBERTa read RACE."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmmodules.batch import ChoiceBatch
from lmmodules.data.base import Baseline, check_count
from lmmodules.data.labelled_rows import LabelledSource, Rows, Wanted
from lmmodules.data.labels import lacks_text
from lmmodules.data.randomness import Int64Array
from lmmodules.data.recipe import TokenizerRecipe
from lmmodules.data.row_division import Columns
from lmmodules.data.rows_datamodule import RowsDataModule
from lmmodules.data.sequence_layout import EncodedSequences, encode_all
from lmmodules.data.text_files import PathLike
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError

ARTICLE, QUESTION, OPTIONS, ANSWER = "article", "question", "options", "answer"


class MultipleChoiceDataModule(RowsDataModule):
    """A sequence for every option of a question, the question and the option first and the article behind.

    Rows have an `article`, a `question`, `options` (a list of texts) and an `answer` (a letter, or a number from 0), as
    the RACE of the hub has them. An option takes the place of a `_` in its question, and otherwise stands behind it.

    Args:
        source: Where the rows come from; `None` takes files at `path`. `RaceFolder` reads RACE as it is published.
        tokenizer: A tokenizer, or the recipe for one that is trained on the rows.
        path: Files in the place of `source`; `.jsonl` or `.parquet`.
        validation_path: Files to validate on; `None` holds some rows out.
        max_question_length: Tokens after which question and option are cut, `<s>` and `</s>` included.
        skip_incomplete: See `RowsDataModule`.
        layout: Special tokens of a pair, `roberta` or `bert`; `None` goes by the tokenizer.
        max_length: Most tokens of a sequence, T; a longer one loses the end of the article.
        batch_size: Questions per batch on each device.
        validation_fraction: Share of the rows to hold out; see `RowsDataModule`.
        num_workers: Processes that prepare batches ahead; 0 prepares them in the training process.
        seed: Of the order of samples.
        cache_dir: Where tokenizers are kept; `None` is `default_cache_dir()`.
        group_by_length: Put samples of similar length into a batch; see `LengthOrder`.
        shuffle: False trains on the rows in their own order.
        pin_memory: Put batches where a GPU can copy them from while it computes.

    Raises:
        InputError: When an argument is out of range.

    Source:
        Liu et al. 2019, section 5.4; fairseq, `examples/roberta/preprocess_RACE.py` and `tasks/sentence_ranking.py`.
    """

    def __init__(
        self,
        source: LabelledSource | None = None,
        tokenizer: Tokenizer | TokenizerRecipe | None = None,
        *,
        path: PathLike | Sequence[PathLike] | None = None,
        validation_path: PathLike | Sequence[PathLike] | None = None,
        max_question_length: int = 128,
        skip_incomplete: bool = False,
        layout: str | None = None,
        max_length: int = 512,
        batch_size: int = 4,
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
        check_count("max_question_length", max_question_length, least=2)
        self.max_question_length = max_question_length
        self._num_choices = 0  # until the first question is read

    @property
    def batch_type(self) -> type:
        """`ChoiceBatch`."""
        return ChoiceBatch

    @property
    def num_choices(self) -> int:
        """Options of a question, the same for all."""
        return self._num_choices

    def wanted(self) -> Wanted:
        """The columns of RACE."""
        return {name: f"data.path ({name})" for name in (ARTICLE, QUESTION, OPTIONS, ANSWER)}

    def texts(self, rows: Rows) -> Columns:
        """Articles, and questions with all their options, one to a line.

        Raises:
            InputError: When the options of a question are no list of texts, or another number than those of the first.
        """
        for index, options in enumerate(rows.columns[OPTIONS]):
            if not isinstance(options, (list, tuple)):
                raise InputError(f"`{OPTIONS}` must be a list of texts, but in {rows.place(index)} it is {options!r}")
            for option in options:
                if not isinstance(option, (str, int, float)) or lacks_text(option):
                    raise InputError(f"every option must have text, but in {rows.place(index)} one is {option!r}")
            self._num_choices = self._num_choices or len(options)
            if len(options) != self._num_choices or len(options) < 2:
                raise InputError(
                    f"every question must have as many options as the first ({self._num_choices}), and at least two, "
                    f"but {rows.place(index)} has {len(options)}"
                )
        options = ["\n".join(map(str, options)) for options in rows.columns[OPTIONS]]
        questions = [f"{question}\n{text}" for question, text in zip(rows.columns[QUESTION], options, strict=True)]
        return [rows.columns[ARTICLE], questions]

    def encode_labels(self, rows: Rows) -> Int64Array:
        """Number of the right option: A is 0.

        Raises:
            InputError: When an answer is no option.
        """
        encoded = np.empty(len(rows), dtype=np.int64)
        for index, (answer, options) in enumerate(zip(rows.columns[ANSWER], rows.columns[OPTIONS], strict=True)):
            text = str(answer).strip()
            number = int(text) if text.isdecimal() else ord(text.upper()) - ord("A") if len(text) == 1 else -1
            if not 0 <= number < len(options):
                letters = ", ".join(chr(ord("A") + option) for option in range(len(options)))
                raise InputError(
                    f"an answer must be one of {letters}, or a number from 0 to {len(options) - 1}, but in "
                    f"{rows.place(index)} it is {text!r}"
                )
            encoded[index] = number
        return encoded

    def encode_rows(self, rows: Rows) -> EncodedSequences:
        """N times C sequences: question and option, cut to `max_question_length`, then the article."""
        tokenizer, layout = self.tokenizer, self.sequence_layout
        articles = encode_all([article.replace("\n", " ") for article in rows.columns[ARTICLE]], tokenizer)
        questions = [
            with_option(question, str(option))
            for question, options in zip(rows.columns[QUESTION], rows.columns[OPTIONS], strict=True)
            for option in options
        ]
        begin, end = [tokenizer.bos_id], [tokenizer.eos_id]
        sequences, first_lengths, num_cut = [], [], 0
        for number, question in enumerate(encode_all(questions, tokenizer)):
            first = (begin + question + end)[: self.max_question_length]
            whole = first + end * (layout.num_separators - 1) + articles[number // self.num_choices] + end
            sequences.append(whole[: self.max_length])
            first_lengths.append(len(first))
            num_cut += len(question) + 2 > len(first) or len(whole) > self.max_length
        return EncodedSequences.pack(sequences, first_lengths, num_cut, tokenizer.vocab_size)

    def baseline(self) -> Baseline | None:
        """The loss of a guess."""
        if not self.holds_out:
            return None
        return Baseline("guess", math.log(self.num_choices), "without the text", f"one of {self.num_choices} at random")

    def describe_labels(self, labels: npt.NDArray[Any]) -> str:
        """How many options there are."""
        return f" with {self.num_choices} options"


def with_option(question: str, option: str) -> str:
    """A question with one of its options: in the place of each `_`, or behind it.

    Args:
        question: For example `The cat sat on _.`
        option: For example `the mat`.
    """
    return question.replace("_", option) if "_" in question else f"{question} {option}"


class RaceFolder(LabelledSource):
    """RACE as it is published: a folder with `train` and `dev`, each with `middle` and `high`, an article per file.

    Args:
        path: The folder.
        split: Folder to train on.
        validation_split: Folder to validate on; `None` holds some questions out.
        levels: Schools to take.

    Raises:
        InputError: When one of the folders is missing.
    """

    def __init__(
        self,
        path: PathLike,
        *,
        split: str = "train",
        validation_split: str | None = "dev",
        levels: Sequence[str] = ("middle", "high"),
    ) -> None:
        self.path = Path(path).expanduser()
        self.split = split
        self.validation_split = validation_split
        self.levels = tuple(levels)
        for name in (split, validation_split):
            for level in self.levels:
                if name is not None and not (self.path / name / level).is_dir():
                    raise InputError(
                        f"`data.source.path` must be a folder with `{name}/{level}`, as RACE is published, but "
                        f"`{self.path}` has none; use `data.path=FILE` for questions in a `.jsonl`"
                    )

    def train(self, wanted: Wanted) -> Rows:
        """The questions of `split`."""
        return self._read(self.split)

    def validation(self, wanted: Wanted) -> Rows | None:
        """The questions of `validation_split`."""
        return None if self.validation_split is None else self._read(self.validation_split)

    def describe(self) -> str:
        """For example `RACE (middle, high)`."""
        return f"{self.path} ({', '.join(self.levels)})"

    def _read(self, split: str) -> Rows:
        columns: dict[str, list[Any]] = {ARTICLE: [], QUESTION: [], OPTIONS: [], ANSWER: []}
        file_numbers, row_numbers = [], []
        files = [file for level in self.levels for file in sorted((self.path / split / level).glob("*.txt"))]
        for number, file in enumerate(files):
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
                questions = list(zip(content["questions"], content["options"], content["answers"], strict=True))
                article = content["article"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"`{file}` must hold one article of RACE with its questions, but does not") from error
            for row, (question, options, answer) in enumerate(questions, start=1):
                for name, value in zip(columns, (article, question, options, answer), strict=True):
                    columns[name].append(value)
                file_numbers.append(number)
                row_numbers.append(row)
        if not row_numbers:
            raise InputError(f"`{self.path / split}` must hold questions in `*.txt`, but there are none")
        return Rows(columns, tuple(map(str, files)), np.array(file_numbers), np.array(row_numbers))
