"""How a classifier fares when words of a sentence are swapped for synonyms that were chosen against it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmmodules.errors import InputError
from lmmodules.objectives import Classification

if TYPE_CHECKING:
    from lmmodules.data import LabelledDataModule
    from lmmodules.data.parts_of_speech import Tagger
    from lmmodules.data.word_replacement import Thesaurus
    from lmmodules.objectives import Objective

Classify = Callable[[Sequence[str]], Tensor]
"""Probabilities (N, C) of the classes of N texts."""

_WORD = re.compile(r"(?<![\w'])[a-z]{2,}(?![\w'])")


class Swappable(NamedTuple):
    """A word of a text, and what may stand in its place."""

    start: int
    end: int
    synonyms: tuple[str, ...]


class Turned(NamedTuple):
    """A text that is no longer answered rightly, and how many of its words were swapped."""

    text: str
    num_swapped: int


@dataclass(frozen=True)
class SynonymAttack:
    """The accuracy of a classifier on sentences, and on the same sentences under attack.

    Of each word that WordNet has synonyms for, the attack finds the one that lowers the probability of the right class
    most, all else being as it was. It swaps those words one after another, the one that lowers it most first, until
    the answer is wrong or the share of words is used up. Who answers wrongly before is wrong under attack too.

    Args:
        wordnet: Directory of WordNet 3.x; `None` looks where `LMM_WORDNET` says and in the usual places.
        max_share: Most words that are swapped, as a share of all words of a sentence; one may be swapped in any.
        max_rows: Attack so many sentences, spread over those that are held out; `None` takes them all.

    Raises:
        InputError: When an argument is out of range, or there is no WordNet.

    Differences:
        CLINE is attacked with TextFooler, whose synonyms come from word vectors and are kept where a sentence encoder
        finds the sentence unchanged. Here they are all of WordNet's, of any sense, and no form is adapted.
    """

    wordnet: str | None = None
    max_share: float = 0.2
    max_rows: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.max_share <= 1:
            raise InputError(
                f"`evaluation.max_share` must be above 0 and at most 1, but is {self.max_share}; use "
                "`evaluation.max_share=0.2`"
            )
        if self.max_rows is not None and self.max_rows < 1:
            raise InputError(
                f"`evaluation.max_rows` must be at least 1, but is {self.max_rows}; use `evaluation.max_rows=null` "
                "for all rows"
            )

    def __call__(self, objective: Objective, data: LabelledDataModule) -> dict[str, Any]:
        """Attack the validation part of the data.

        Args:
            objective: In evaluation mode.
            data: Prepared.

        Returns:
            `accuracy`, `attacked_accuracy`; of the sentences that were answered rightly the share that was `turned`,
            and the mean number of words it took (`words_swapped`); and the number of `rows`.

        Raises:
            InputError: When the objective is no classification of single texts, or no rows were held out.
        """
        from lmmodules.data.parts_of_speech import MostFrequentSense
        from lmmodules.data.word_replacement import Thesaurus
        from lmmodules.data.wordnet import WordNet

        if not isinstance(objective, Classification):
            raise InputError(
                "`evaluation=synonym_attack` needs a checkpoint of `objective=classification`, but this one holds a "
                f"`{type(objective).__name__}`; use `evaluation=perplexity`"
            )
        if len(data.wanted()) != 2:
            raise InputError("`evaluation=synonym_attack` swaps words of single texts, but the rows hold pairs of them")
        if not data.holds_out:
            raise InputError("an evaluation needs rows that are held out, but there are none; use `data.path=FILE`")
        wordnet = WordNet(self.wordnet, option="evaluation.wordnet")
        tagger, thesaurus = MostFrequentSense(wordnet), Thesaurus(wordnet)
        held_out = data.texts(data.rows["validation"])[0]
        # Not the first ones: files are often sorted by class.
        rows = np.linspace(0, len(held_out) - 1, min(self.max_rows or len(held_out), len(held_out))).astype(np.int64)
        texts = [held_out[row] for row in rows.tolist()]
        labels = data.validation_samples.labels[rows].tolist()
        right, swapped = 0, []
        with torch.inference_mode():
            classify = classifier(objective, data)
            answers = classify(texts).argmax(-1).tolist()
            for text, label, answer in zip(texts, labels, answers, strict=True):
                if answer == label:
                    right += 1
                    most = max(1, int(self.max_share * len(text.split())))
                    turned = attack(text, swappable(text, tagger, thesaurus), label, classify, most)
                    if turned is not None:
                        swapped.append(turned.num_swapped)
        return {
            "accuracy": right / len(texts),
            "attacked_accuracy": (right - len(swapped)) / len(texts),
            "turned": len(swapped) / max(right, 1),
            "words_swapped": sum(swapped) / max(len(swapped), 1),
            "rows": len(texts),
        }


def attack(text: str, words: Sequence[Swappable], label: int, classify: Classify, most: int) -> Turned | None:
    """Swap words until the answer is another.

    Args:
        text: Answered rightly.
        words: What may be swapped in it, in order.
        label: The right class.
        classify: The network that is attacked.
        most: Words that may be swapped at once.

    Returns:
        The first version that is answered wrongly, `None` if all are answered rightly.
    """
    options = [(place, synonym) for place, word in enumerate(words) for synonym in word.synonyms]
    if not options:
        return None
    chances = classify([swap(text, {words[place]: synonym}) for place, synonym in options])[:, label].tolist()
    best: dict[int, tuple[float, str]] = {}
    for (place, synonym), chance in zip(options, chances, strict=True):
        best[place] = min(best.get(place, (chance, synonym)), (chance, synonym))
    order = sorted(best, key=lambda place: best[place])[:most]
    versions = [swap(text, {words[place]: best[place][1] for place in order[: n + 1]}) for n in range(len(order))]
    for number, answer in enumerate(classify(versions).argmax(-1).tolist()):
        if answer != label:
            return Turned(versions[number], number + 1)
    return None


def swappable(text: str, tagger: Tagger, thesaurus: Thesaurus) -> list[Swappable]:
    """The content words of a text that have synonyms.

    Words with a capital are taken for names and left alone, and so are contractions.

    Args:
        text: A sentence.
        tagger: Says which words carry content.
        thesaurus: Knows synonyms.
    """
    from lmmodules.data.word_replacement import ContentWord

    found = list(_WORD.finditer(text))
    words = []
    for match, pos in zip(found, tagger.tag([match[0] for match in found]), strict=True):
        synonyms = () if pos is None else thesaurus.replacements(ContentWord(match[0], pos), "synonym")
        if synonyms:
            words.append(Swappable(match.start(), match.end(), synonyms))
    return words


def swap(text: str, chosen: Mapping[Swappable, str]) -> str:
    """A text with some of its words swapped.

    Args:
        text: A sentence.
        chosen: What stands in the place of each word.
    """
    for word in sorted(chosen, reverse=True):
        text = text[: word.start] + chosen[word] + text[word.end :]
    return text


def classifier(objective: Classification, data: LabelledDataModule) -> Classify:
    """What an objective says of texts, encoded as the data module encodes its rows.

    Args:
        objective: In evaluation mode.
        data: Its tokenizer, layout, longest length and batch size are taken.
    """
    from lmmodules.data.labelled_samples import LabelledSamples
    from lmmodules.data.sequence_layout import encode_texts

    tokenizer = data.tokenizer
    pad_id = tokenizer.pad_id if tokenizer.has("pad") else tokenizer.eos_id

    def classify(texts: Sequence[str]) -> Tensor:
        sequences = encode_texts([texts], tokenizer, data.sequence_layout, data.max_length)
        samples = LabelledSamples(sequences, np.zeros(len(texts), dtype=np.int64), pad_id=pad_id)
        parts = []
        for rows in np.array_split(np.arange(len(texts)), range(data.batch_size, len(texts), data.batch_size)):
            batch: Any = {
                name: value.to(objective.device) for name, value in samples[np.zeros_like(rows), rows].items()
            }
            parts.append(objective(batch).float().softmax(-1).cpu())
        return torch.cat(parts)

    return classify
