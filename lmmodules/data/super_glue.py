"""SuperGLUE for P-tuning: rows in a template, whose classes words say or whose answers are texts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from typing_extensions import Self

from lmmodules.data.base import DataModule
from lmmodules.data.byte_level_bpe import ByteLevelBPE
from lmmodules.data.cache import default_cache_dir
from lmmodules.data.prompt_rows import PromptLayout, PromptRow
from lmmodules.data.prompt_samples import PromptSamples, padding_of
from lmmodules.data.prompt_template import PromptTemplate
from lmmodules.data.recipe import TokenizerRecipe
from lmmodules.data.row_division import RowTexts
from lmmodules.data.super_glue_patterns import FOLDERS, PATTERNS, Example, read_examples
from lmmodules.data.text_files import PathLike
from lmmodules.data.tokenization import prepare_tokenizer
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError
from lmmodules.prompt_batch import PromptBatch, PromptChoiceBatch, VerbalizedBatch


class SuperGlue(DataModule):
    """A task of SuperGLUE by its pattern, in the folders in which SuperGLUE and FewGLUE are published.

    COPA is a choice between texts. WSC is a name to be said, learned from the rows whose name is right, with up to
    three masks more than it has, which ask for padding; the others are classes that words say.

    Args:
        task: `boolq`, `cb`, `copa`, `multirc`, `rte`, `wic` or `wsc`.
        path: The folder that holds a folder for each task, or that of the task.
        tokenizer: A tokenizer, or the recipe for one that is trained on the rows; `None` trains one of 4096 tokens.
        template: See `prompt_template`; `None` takes that of the released code, with one pseudo-token, two for WSC.
        verbalizer: Words that say each class, by its name; `None` takes those of the released code.
        causal: Kind of the backbone.
        train_file: Rows to train on: `train` are 32 in FewGLUE, and all in SuperGLUE.
        validation_file: Rows to validate on: `dev32`, or `val`.
        swap_choices: Train on every choice in both orders.
        max_length: Most tokens of a row, T.
        batch_size: Rows per batch on each device.
        shuffle: False trains on the rows in their own order.
        num_workers: Processes that prepare batches ahead.
        pin_memory: Put batches where a GPU can copy them from while it computes.
        seed: Of the order of rows.
        cache_dir: Where trained tokenizers are kept.

    Raises:
        InputError: When there is no such task; in `prepare`, when a file is not what it must be, or a word of the
            verbalizer is several tokens.

    Source:
        Liu et al. 2021, section 4.2; `PT-Fewshot` of THUDM/P-tuning; Wang et al. 2019, "SuperGLUE".

    Differences:
        Rows are cut to `max_length` exactly; the released code subtracts the special tokens twice. Names of WSC get 0,
        1, 2 and 3 masks more in turn, there as many as chance has it.
    """

    def __init__(
        self,
        task: str,
        path: PathLike,
        tokenizer: Tokenizer | TokenizerRecipe | None = None,
        *,
        template: str | None = None,
        verbalizer: Mapping[str, str | Sequence[str]] | None = None,
        causal: bool = False,
        train_file: str = "train",
        validation_file: str = "dev32",
        swap_choices: bool = True,
        max_length: int = 256,
        batch_size: int = 16,
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
        if task not in PATTERNS:
            raise InputError(f"`data.task` must be one of {', '.join(PATTERNS)}, but is {task}; use `data.task=rte`")
        self.task = task
        self.path = Path(path).expanduser()
        self.pattern = PATTERNS[task]()
        self.template = self.pattern.template if template is None else template
        said = self.pattern.verbalizer if verbalizer is None else verbalizer
        self.verbalizer = {name: [words] if isinstance(words, str) else list(words) for name, words in said.items()}
        if set(said) != set(self.pattern.verbalizer) or not all(self.verbalizer.values()):
            classes = ", ".join(self.pattern.verbalizer) or "no class"
            raise InputError(
                f"`data.verbalizer` must have words for {classes} in {task}, but is "
                f"{dict(said)}; use `data.verbalizer={self._usual_words() or 'null'}`"
            )
        self.causal = causal
        self.files = {"train": train_file, "validation": validation_file}
        self.swap_choices = swap_choices
        self.cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
        self._recipe: TokenizerRecipe = ByteLevelBPE()
        if isinstance(tokenizer, Tokenizer):
            self._tokenizer = tokenizer
        elif tokenizer is not None:
            self._recipe = tokenizer
        self.examples: dict[str, list[Example]] = {}
        """Those of `train` and `validation`, once prepared; the wrong ones of WSC among them, which are only graded."""
        self._graded: PromptSamples | None = None

    def prepare(self) -> Self:
        """Read the rows and lay them out, unless that is done.

        Returns:
            The data module itself.

        Raises:
            InputError: See the class.
        """
        if self._train is not None or self._validation is not None:
            return self
        folder = self.path / FOLDERS[self.task]
        folder = folder if folder.is_dir() else self.path
        for part, name in self.files.items():
            file = folder / f"{name}.jsonl"
            self.examples[part] = read_examples(self.pattern, file)
            for example in self.examples[part]:
                self._check(example, file)
            if not self._learned(part):
                raise InputError(f"`data.path` must hold rows, but `{file}` has none to use")
        if self.task == "copa" and self.swap_choices:
            self.examples["train"] += [_swapped(example) for example in self.examples["train"]]
        template = self.prompt_template
        template.check_fields(list(self.examples["train"][0].fields))
        if self._tokenizer is None:
            words = [f" {word}" for words in self.verbalizer.values() for word in words]
            texts = [value for example in self.examples["train"] for value in example.fields.values()]
            self._tokenizer = prepare_tokenizer(
                self.cache_dir, RowTexts([[self.template, *words * 100], texts]), self._recipe
            )
        layout = PromptLayout(self.tokenizer, self.causal, self.max_length)
        self._train = self._samples(layout, template, self._learned("train"), (0, 1, 2, 3))
        self._validation = self._samples(layout, template, self._learned("validation"), (1,))
        if self.task == "wsc":
            self._graded = self._names(layout, template)
        return self

    @property
    def graded_samples(self) -> PromptSamples:
        """The rows of `validation` that are graded: all of them, where `validation_samples` are the right ones of WSC.

        A causal model is asked for one token more than a name of WSC has, as a masked one is.
        """
        samples = self.validation_samples if self._graded is None else self._graded
        assert isinstance(samples, PromptSamples)
        return samples

    @property
    def prompt_template(self) -> PromptTemplate:
        """The template, without what a causal model does not see."""
        template = PromptTemplate(self.template)
        return template.before_target() if self.causal else template

    @property
    def classes(self) -> list[str]:
        """Names of the classes; of a choice the numbers of the texts, of WSC whether the name is right."""
        return {"copa": ["0", "1"], "wsc": ["false", "true"]}.get(self.task, list(self.verbalizer))

    def _usual_words(self) -> str:
        """The verbalizer of the released code, as it is typed."""
        words = ",".join(f"{name}:{word}" for name, word in self.pattern.verbalizer.items())
        return f"{{{words}}}" if words else ""

    def _learned(self, part: str) -> list[Example]:
        """Examples that a loss is taken of."""
        return [example for example in self.examples[part] if self.task != "wsc" or example.label == "true"]

    def _check(self, example: Example, file: Path) -> None:
        if example.label is None:
            raise InputError(f"`{file}` must have a label in every row, but has a row without")
        answers = {"copa": ("0", "1"), "wsc": ("false", "true")}.get(self.task, ())
        if answers and example.label not in answers:
            raise InputError(f"`{file}` must have the labels {' and '.join(answers)}, but has a row of {example.label}")
        if self.verbalizer and example.label not in self.verbalizer:
            raise InputError(
                f"`data.verbalizer` must say every class, but `{file}` has a row of {example.label}, and it says "
                f"{', '.join(self.verbalizer)}"
            )

    def _rows(
        self, layout: PromptLayout, template: PromptTemplate, of: Sequence[Example], targets: Sequence[Sequence[int]]
    ) -> list[PromptRow]:
        columns = {name: [example.fields[name] for example in of] for name in of[0].fields}
        return layout.rows(template, columns, targets)

    def _encoded(self, template: PromptTemplate, texts: Sequence[str]) -> list[list[int]]:
        space = "" if template.text.startswith("{target}") else " "
        return self.tokenizer.encode_batch([f"{space}{text}" for text in texts])

    def _samples(
        self, layout: PromptLayout, template: PromptTemplate, examples: Sequence[Example], more_masks: Sequence[int]
    ) -> PromptSamples:
        """Rows that a loss is taken of; names of WSC with so many masks more, in turn."""
        pad_id, tasks = padding_of(self.tokenizer), [0] * len(examples)
        if self.task == "wsc":
            names = self._encoded(template, [example.answers[0] for example in examples])
            if not self.causal:
                names = [name + [pad_id] * more_masks[row % len(more_masks)] for row, name in enumerate(names)]
            return PromptSamples(self._rows(layout, template, examples, names), tasks, pad_id=pad_id)
        if self.task == "copa":
            twice = [example for example in examples for _ in example.answers]
            texts = self._encoded(template, [answer for example in examples for answer in example.answers])
            chosen = [int(example.label or 0) for example in examples]
            rows = self._rows(layout, template, twice, texts)
            return PromptSamples(rows, tasks, pad_id=pad_id, classes=chosen, num_choices=2)
        words = self._encoded(template, [self.verbalizer[example.label or ""][0] for example in examples])
        classes = [self.classes.index(example.label or "") for example in examples]
        shared = {"verbalizer": torch.tensor(self._verbalizer_ids())}
        rows = self._rows(layout, template, examples, words)
        return PromptSamples(rows, tasks, pad_id=pad_id, classes=classes, shared=shared)

    def _names(self, layout: PromptLayout, template: PromptTemplate) -> PromptSamples:
        """All rows of WSC, right or wrong, with a place more than the name has tokens."""
        examples, pad_id = self.examples["validation"], padding_of(self.tokenizer)
        names = self._encoded(template, [example.answers[0] for example in examples])
        rows = self._rows(layout, template, examples, [[*name, pad_id] for name in names])
        classes = [int(example.label == "true") for example in examples]
        return PromptSamples(rows, [0] * len(examples), pad_id=pad_id, classes=classes)

    def _verbalizer_ids(self) -> list[list[int]]:
        widest = max(map(len, self.verbalizer.values()))
        table, said = [], dict[int, str]()
        for name, words in self.verbalizer.items():
            encoded = self.tokenizer.encode_batch([f" {word}" for word in words])
            for word, ids in zip(words, encoded, strict=True):
                if len(ids) != 1 or ids[0] in self.tokenizer.special_ids:
                    raise InputError(
                        f"`data.verbalizer` must say each class by words of one token, but {word!r} for {name} is "
                        f"{len(ids)} in this tokenizer; use for example `data.verbalizer={self._usual_words()}`"
                    )
                if said.setdefault(ids[0], name) != name:
                    raise InputError(
                        f"`data.verbalizer` must say each class by words of its own, but {word!r} says {said[ids[0]]} "
                        f"and {name}; use for example `data.verbalizer={self._usual_words()}`"
                    )
            table.append([ids[0] for ids in encoded] + [-1] * (widest - len(words)))
        return table

    @property
    def batch_type(self) -> type:
        """A batch of classes, of choices, or of tokens to say."""
        return {"copa": PromptChoiceBatch, "wsc": PromptBatch}.get(self.task, VerbalizedBatch)

    @property
    def objective_settings(self) -> dict[str, Any]:
        """The task, and its pseudo-tokens."""
        return {"tasks": [self.task], "prompt_lengths": [self.prompt_template.num_prompt_tokens]}

    def describe(self) -> dict[str, str]:
        """The data in a few facts, for a table."""
        self.prepare()
        first = self.examples["train"][0]
        counts = {part: Counter(example.label for example in some) for part, some in self.examples.items()}
        told = {
            part: f"{sum(count.values()):,} rows ({', '.join(f'{n} {label}' for label, n in count.most_common())})"
            for part, count in counts.items()
        }
        return {
            "rows": f"{self.task} in {self.path}",
            "template": self.prompt_template.fill({name: value[:60] for name, value in first.fields.items()}),
            "training": told["train"],
            "validation": told["validation"],
        }


def _swapped(example: Example) -> Example:
    fields = {**example.fields, "choice1": example.fields["choice2"], "choice2": example.fields["choice1"]}
    return Example(fields, str(1 - int(example.label or 0)), example.answers[::-1], example.group)
