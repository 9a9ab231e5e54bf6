"""Questions with programs as data to train on: made afresh for every epoch, or read from a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from typing_extensions import Self

from lmmodules.batch import CausalBatch
from lmmodules.data.base import DataModule, check_count
from lmmodules.data.cache import default_cache_dir
from lmmodules.data.math_questions import MathQuestion, MathQuestions
from lmmodules.data.math_samples import PairLayout, PairSamples
from lmmodules.data.randomness import Int64Array
from lmmodules.data.recipe import TokenizerRecipe
from lmmodules.data.row_division import RowTexts
from lmmodules.data.row_files import read_file
from lmmodules.data.single_digit_bpe import SingleDigitBPE
from lmmodules.data.text_files import PathLike
from lmmodules.data.tokenization import prepare_tokenizer
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError

_READ_BY_TOKENIZER = 20_000


class MathPairs(DataModule):
    """Pairs of a question and the program that answers it, of which the program is learned.

    Without a file, questions are made as they are needed: no two epochs have the same, and no held-out question has
    the program of one that is trained on. A file holds out rows by a hash of their question.

    Args:
        tokenizer: A tokenizer, or the recipe for one that is trained on the pairs; `None` trains one of 1024 tokens in
            which every digit is by itself.
        path: A file with the columns `question` and `program` (or `answer`, with that target), JSON lines, CSV, TSV or
            Parquet; `None` makes questions.
        target: What is learned to be written: `program`, or `answer` for a model that answers directly.
        prompt_style: Of the prompt for a program: `docstring` (the paper's), `comment` or `instruction`.
        subjects: Of the questions that are made: names out of `math_subjects.SUBJECTS`; `None` for all.
        kinds: Of the questions that are made; `None` for all kinds of the subjects.
        num_train: Questions of an epoch that are made.
        num_validation: Held-out questions that are made.
        validation_fraction: Share of the programs, or of the rows of a file, that is held out.
        max_length: Most tokens of a pair, T. A longer question loses from its beginning; a pair whose target alone is
            too long counts for nothing.
        batch_size: Pairs per batch on each device.
        shuffle: False takes the pairs in their own order.
        num_workers: Processes that prepare batches ahead.
        pin_memory: Put batches where a GPU can copy them from while it computes.
        seed: Of the questions and of the order.
        cache_dir: Where trained tokenizers are kept.

    Raises:
        InputError: When an option is out of range; in `prepare`, when the file is not what it must be.

    Source:
        Drori et al. 2022, "A neural network solves, explains, and generates university math problems by program
        synthesis and few-shot learning at human level": the prompt, and the subjects. They trained nothing.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | TokenizerRecipe | None = None,
        *,
        path: PathLike | None = None,
        target: str = "program",
        prompt_style: str = "docstring",
        subjects: Sequence[str] | None = None,
        kinds: Sequence[str] | None = None,
        num_train: int = 100_000,
        num_validation: int = 500,
        validation_fraction: float = 0.1,
        max_length: int = 256,
        batch_size: int = 32,
        shuffle: bool = True,
        num_workers: int = 0,
        pin_memory: bool = False,
        seed: int = 0,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(
            max_length=max_length,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            shuffle=shuffle,
            pin_memory=pin_memory,
        )
        check_count("num_train", num_train, least=1)
        check_count("num_validation", num_validation, least=1)
        self.path = None if path is None else Path(path).expanduser()
        self.target = target
        self.prompt_style = prompt_style
        self.num_train = num_train
        self.num_validation = num_validation
        self.validation_fraction = validation_fraction
        self.made = MathQuestions(subjects, kinds, held_out_fraction=validation_fraction, seed=seed)
        self.cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
        self._recipe: TokenizerRecipe = SingleDigitBPE(vocab_size=1024)
        if isinstance(tokenizer, Tokenizer):
            self._tokenizer = tokenizer
        elif tokenizer is not None:
            self._recipe = tokenizer
        self._rows: dict[str, list[MathQuestion]] = {}

    def prepare(self) -> Self:
        """Read the file if there is one, and train the tokenizer, unless that is done.

        Returns:
            The data module itself.

        Raises:
            InputError: See the class.
        """
        if self._train is not None:
            return self
        if self.path is not None and not self._rows:
            self._rows = self._divide(self._read(self.path))
        if self._tokenizer is None:
            learned = self._rows["training"] if self.path else self.made.first(_READ_BY_TOKENIZER)
            texts = [[f"{pair.question}\n" for pair in learned], [getattr(pair, self.target) for pair in learned]]
            self._tokenizer = prepare_tokenizer(self.cache_dir, RowTexts(texts), self._recipe)
        layout = PairLayout(self.tokenizer, self.target, self.prompt_style, self.max_length)
        self._train, self._validation = (self._samples(layout, part) for part in ("training", "validation"))
        return self

    def _samples(self, layout: PairLayout, part: str) -> PairSamples:
        if self.path is not None:
            rows = self._rows[part]
            return PairSamples(layout, len(rows), lambda epochs, indices: [rows[index] for index in indices])
        held_out = part == "validation"

        def draw(epochs: Int64Array, indices: Int64Array) -> list[MathQuestion]:
            return self.made.questions(np.zeros_like(epochs) if held_out else epochs, indices, held_out=held_out)

        return PairSamples(layout, self.num_validation if held_out else self.num_train, draw)

    def _read(self, path: Path) -> list[MathQuestion]:
        columns, _, _ = read_file(path, {"question": "data.path", self.target: "data.path"})
        pairs = zip(columns["question"], columns[self.target], strict=True)
        return [
            MathQuestion(str(question), **{"program": "", "answer": "", self.target: str(target)})
            for question, target in pairs
        ]

    def _divide(self, pairs: list[MathQuestion]) -> dict[str, list[MathQuestion]]:
        parts: dict[str, list[MathQuestion]] = {"training": [], "validation": []}
        for pair in pairs:
            digest = hashlib.blake2b(pair.question.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            held_out = int.from_bytes(digest, "little") < self.validation_fraction * 2**64
            parts["validation" if held_out else "training"].append(pair)
        for part, members in parts.items():
            if not members:
                raise InputError(
                    f"`data.path` must have rows enough for {part}, but none of its {len(pairs)} fell there; use "
                    "another `data.validation_fraction`, or more rows"
                )
        return parts

    # What the rest of the house asks

    @property
    def batch_type(self) -> type:
        """`CausalBatch`."""
        return CausalBatch

    def describe(self) -> dict[str, str]:
        """The data in a few facts, for a table."""
        self.prepare()
        if self.path is not None:
            source = str(self.path)
            counts = {part: f"{len(rows):,} pairs" for part, rows in self._rows.items()}
            first = self._rows["training"][0]
        else:
            subjects = dict.fromkeys(subject for subject, _ in self.made.kinds)
            source = f"{len(self.made.kinds)} kinds of {', '.join(subjects).replace('_', ' ')}"
            counts = {
                "training": f"{self.num_train:,} new ones every epoch",
                "validation": f"{self.num_validation:,} with programs that are not trained on",
            }
            [first] = self.made.first(1)
        asked = " ".join(first.question.split())
        return {"questions": source, "for example": f"{asked} -> {getattr(first, self.target)!r}", **counts}
