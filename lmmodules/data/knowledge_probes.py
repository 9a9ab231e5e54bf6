"""Knowledge probing: facts of relations as sentences whose object is asked for."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from typing_extensions import Self

from lmmodules.data.base import DataModule
from lmmodules.data.byte_level_bpe import ByteLevelBPE
from lmmodules.data.cache import default_cache_dir
from lmmodules.data.facts import SPLITS, Fact, FactSource, LamaFiles, UnicodeFacts
from lmmodules.data.prompt_rows import PromptLayout
from lmmodules.data.prompt_samples import PromptSamples, padding_of
from lmmodules.data.prompt_template import PromptTemplate
from lmmodules.data.recipe import TokenizerRecipe
from lmmodules.data.row_division import RowTexts
from lmmodules.data.text_files import PathLike
from lmmodules.data.tokenization import prepare_tokenizer
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError
from lmmodules.prompt_batch import PromptBatch

VOCABULARIES = {"original": None, "shared": "29k-vocab.json", "lama": "34k-vocab.json"}
"""Subsets of the vocabulary, and the files of the authors' archive that list them."""
MANUAL = "manual"


class KnowledgeProbes(DataModule):
    """Subjects in a template, whose objects a language model is to name by one token.

    Each relation has pseudo-tokens of its own. Objects outside of the vocabulary, or of several tokens, are left out
    of all parts and counted.

    Args:
        source: Where facts come from; `None` takes the folder at `path`.
        tokenizer: A tokenizer, or the recipe for one that is trained on the facts; `None` trains one of 4096 tokens.
        path: A folder as `LamaFiles` reads it; `None` takes `UnicodeFacts`.
        relations: Names of those to take; `None` for all.
        template: See `prompt_template`; its only field is `subject`. `manual` takes each relation's sentence, and
            `None` makes one of `order` and `prompt_tokens`.
        order: Of the template that is made: `paper` has the subject first, `official` the answer, as the released code
            does for masked models.
        prompt_tokens: Pseudo-tokens before, between and behind subject and answer; a causal model has none behind.
        causal: Kind of the backbone.
        vocabulary: Which tokens may be answers: `original` for all, or `shared` (of several models) and `lama`, which
            files list.
        vocabulary_path: The file of the vocabulary; `None` for its usual name at `path`.
        vocabulary_model: Which list of the file; `None` for the first.
        skip_long_objects: With the vocabulary `original`, leave out objects of several tokens, instead of refusing.
        validation_split: What is validated on: `train`, `dev` or `test`.
        max_length: Most tokens of a row, T.
        batch_size: Rows per batch on each device.
        shuffle: False trains on the facts in their own order.
        num_workers: Processes that prepare batches ahead.
        pin_memory: Put batches where a GPU can copy them from while it computes.
        seed: Of the order of rows.
        cache_dir: Where trained tokenizers are kept.

    Raises:
        InputError: When an option is out of range; in `prepare`, when files or facts are not what they must be.

    Source:
        Liu et al. 2021, section 4.1; THUDM/P-tuning, `LAMA/p_tuning/modeling.py` and `LAMA/data_utils`.
    """

    def __init__(
        self,
        source: FactSource | None = None,
        tokenizer: Tokenizer | TokenizerRecipe | None = None,
        *,
        path: PathLike | None = None,
        relations: Sequence[str] | None = None,
        template: str | None = None,
        order: str = "paper",
        prompt_tokens: Sequence[int] = (3, 3, 3),
        causal: bool = False,
        vocabulary: str = "original",
        vocabulary_path: PathLike | None = None,
        vocabulary_model: str | None = None,
        skip_long_objects: bool = False,
        validation_split: str = "dev",
        max_length: int = 128,
        batch_size: int = 8,
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
        for name, value, known in (
            ("order", order, ("paper", "official")),
            ("vocabulary", vocabulary, tuple(VOCABULARIES)),
            ("validation_split", validation_split, SPLITS),
        ):
            if value not in known:
                raise InputError(f"`data.{name}` must be one of {', '.join(known)}, but is {value}")
        if order == "official" and (causal or template is not None):
            why = "a causal model does not see what stands behind the answer" if causal else "`data.template` is given"
            raise InputError(f"`data.order` must be paper where {why}, but is official; use `data.order=paper`")
        if len(prompt_tokens) != 3 or any(count < 0 for count in prompt_tokens):
            raise InputError(
                f"`data.prompt_tokens` must be three numbers, none negative, but is {list(prompt_tokens)}; use "
                "`data.prompt_tokens=[3,3,3]`"
            )
        self.source = source or (UnicodeFacts() if path is None else LamaFiles(path))
        self.path = path
        self.template = template
        self.order = order
        self.prompt_tokens = tuple(prompt_tokens)
        self.causal = causal
        self.vocabulary = vocabulary
        self.vocabulary_path = vocabulary_path
        self.vocabulary_model = vocabulary_model
        self.skip_long_objects = skip_long_objects
        self.validation_split = validation_split
        self.cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
        self._relations = None if relations is None else list(relations)
        self._recipe: TokenizerRecipe = ByteLevelBPE()
        if isinstance(tokenizer, Tokenizer):
            self._tokenizer = tokenizer
        elif tokenizer is not None:
            self._recipe = tokenizer
        self.facts: dict[str, list[Fact]] = {}
        """Facts of the samples of `train` and `validation`, once prepared."""
        self.left_out = 0
        """Facts that were left out, once prepared."""
        self._samples: dict[str, PromptSamples] = {}

    def prepare(self) -> Self:
        """Read the facts and lay them out, unless that is done.

        Returns:
            The data module itself.

        Raises:
            InputError: See the class.
        """
        if self._train is not None or self._validation is not None:
            return self
        parts = {"train": "train", "validation": self.validation_split}
        read = {
            part: {relation: self.source.facts(relation, split) for relation in self.relations}
            for part, split in parts.items()
        }
        templates = [self.template_of(relation) for relation in self.relations]
        if self._tokenizer is None:
            texts = RowTexts([self._sentences(read["train"], templates)])
            self._tokenizer = prepare_tokenizer(self.cache_dir, texts, self._recipe)
        allowed = self._allowed_ids()
        for part, by_relation in read.items():
            self._lay_out(part, by_relation, templates, allowed)
        self._train, self._validation = self._samples["train"], self._samples["validation"]
        return self

    @property
    def relations(self) -> list[str]:
        """Names of the relations.

        Raises:
            InputError: When one is not there.
        """
        there = self.source.relations()
        for name in self._relations or ():
            if name not in there:
                raise InputError(f"`data.relations` must be among {', '.join(there)}, but names {name}")
        return self._relations or there

    def template_of(self, relation: str) -> PromptTemplate:
        """The template of a relation, without what a causal model does not see.

        Args:
            relation: Its name.

        Raises:
            InputError: When it is not a template, or has another field than `subject`.
        """
        if self.template == MANUAL:
            text = self.source.sentence(relation).replace("[X]", "{subject}").replace("[Y]", "{target}")
        else:
            text = self._usual() if self.template is None else self.template
        template = PromptTemplate(text)
        template.check_fields(["subject"])
        return template.before_target() if self.causal else template

    def _usual(self) -> str:
        first, second, third = (f"{{prompt:{count}}}" if count else "" for count in self.prompt_tokens)
        if self.causal:
            return f"{first} {{subject}} {second} {{target}}"
        third = third or "."
        if self.order == "official":
            return f"{first} {{target}} {second} {{subject}} {third}"
        return f"{first} {{subject}} {second} {{target}} {third}"

    def _sentences(self, facts: dict[str, list[Fact]], templates: list[PromptTemplate]) -> list[str]:
        return [
            template.fill({"subject": fact.subject}).replace("<P>", "").replace("<target>", f" {fact.object}")
            for template, relation in zip(templates, self.relations, strict=True)
            for fact in facts[relation]
        ]

    def _lay_out(
        self,
        part: str,
        by_relation: dict[str, list[Fact]],
        templates: list[PromptTemplate],
        allowed: list[int] | None,
    ) -> None:
        layout = PromptLayout(self.tokenizer, self.causal, self.max_length)
        known = None if allowed is None else set(allowed)
        rows, task_ids, first = [], [], 0
        self.facts[part] = []
        for task, (relation, template) in enumerate(zip(self.relations, templates, strict=True)):
            space = "" if template.text.startswith("{target}") else " "
            tokens = self.tokenizer.encode_batch([f"{space}{fact.object}" for fact in by_relation[relation]])
            pairs = [
                (fact, answer)
                for fact, answer in zip(by_relation[relation], tokens, strict=True)
                if self._may_answer(relation, fact, answer, known)
            ]
            kept = [fact for fact, _ in pairs]
            rows += layout.rows(
                template,
                {"subject": [fact.subject for fact in kept]},
                [answer for _, answer in pairs],
                first_prompt=first,
            )
            self.facts[part] += kept
            self.left_out += len(by_relation[relation]) - len(kept)
            task_ids += [task] * len(kept)
            first += template.num_prompt_tokens
        if not rows:
            raise InputError(
                f"`data.relations` must have facts whose objects are in the vocabulary, but those of {part} have none; "
                "use `data.vocabulary=original data.skip_long_objects=true`"
            )
        shared = {} if allowed is None else {"candidate_ids": torch.tensor(allowed)}
        self._samples[part] = PromptSamples(rows, task_ids, pad_id=padding_of(self.tokenizer), shared=shared)

    def _may_answer(self, relation: str, fact: Fact, answer: list[int], known: set[int] | None) -> bool:
        if len(answer) == 1:
            return known is None or answer[0] in known
        if known is None and not self.skip_long_objects:
            raise InputError(
                f"an object must be one token, but {fact.object!r} of {relation} is {len(answer)}; use "
                "`data.skip_long_objects=true` to leave such facts out"
            )
        return False

    def _allowed_ids(self) -> list[int] | None:
        """The tokens that may be answers, sorted; `None` for all."""
        name = VOCABULARIES[self.vocabulary]
        if name is None and self.vocabulary_path is None:
            return None
        file = Path(self.vocabulary_path or Path(self.path or "", name or ""))
        try:
            content: Any = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"`data.vocabulary={self.vocabulary}` needs the file `{file}`, which cannot be read as JSON; use "
                "`data.vocabulary_path=FILE`, or `data.vocabulary=original`"
            ) from error
        if isinstance(content, dict):
            model = self.vocabulary_model or next(iter(content), "")
            if model not in content:
                raise InputError(
                    f"`data.vocabulary_model` must be one of {', '.join(content)}, as in `{file}`, but is {model}"
                )
            content = content[model]
        words = [f" {word.lstrip('Ġ')}" for word in content]
        encoded = self.tokenizer.encode_batch(words)
        return sorted({ids[0] for ids in encoded if len(ids) == 1})

    # What the rest of the house asks

    @property
    def batch_type(self) -> type:
        """`PromptBatch`."""
        return PromptBatch

    @property
    def objective_settings(self) -> dict[str, Any]:
        """Relations, and the pseudo-tokens of each."""
        lengths = [self.template_of(relation).num_prompt_tokens for relation in self.relations]
        return {"tasks": self.relations, "prompt_lengths": lengths}

    def majority(self) -> list[float]:
        """For each relation, how often the most frequent object of `train` is right in validation."""
        train, validation = (self._objects(part) for part in ("train", "validation"))
        shares = []
        for before, now in zip(train, validation, strict=True):
            best = Counter(before).most_common(1)[0][0] if before else ""
            shares.append(now.count(best) / len(now) if now else 0.0)
        return shares

    def _objects(self, part: str) -> list[list[str]]:
        by_task: list[list[str]] = [[] for _ in self.relations]
        for task, fact in zip(self._samples[part].task_ids.tolist(), self.facts[part], strict=True):
            by_task[task].append(fact.object)
        return by_task

    def describe(self) -> dict[str, str]:
        """The data in a few facts, for a table."""
        self.prepare()
        first = self.relations[0]
        fact = self.facts["train"][0]
        shares = self.majority()
        return {
            "facts": f"{self.source.describe()}: {', '.join(self.relations)}",
            "template": f"{first}: {self.template_of(first).fill({'subject': fact.subject})} ({fact.object})",
            "training": f"{len(self.facts['train']):,} facts",
            "validation": f"{len(self.facts['validation']):,} facts of {self.validation_split}",
            "always the most frequent object": f"{sum(shares) / len(shares):.4f} right, mean over relations",
            **({"note": f"{self.left_out:,} facts with other objects left out"} if self.left_out else {}),
        }
