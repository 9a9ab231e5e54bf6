"""What a word may be replaced by, and which words of a text are replaced: two views, one of the same meaning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from lmmodules.data.inflection import Inflection
from lmmodules.data.wordnet import PartOfSpeech, WordNet
from lmmodules.errors import InputError

Kind = Literal["synonym", "hypernym", "inflection", "antonym", "random"]
Mode = Literal["per_block", "per_word"]
Floats = npt.NDArray[np.float64]
KEEPS_MEANING: tuple[Kind, ...] = ("hypernym", "synonym", "inflection")


class ContentWord(NamedTuple):
    """A word that may be replaced."""

    text: str  # in lower case
    pos: PartOfSpeech


class Choice(NamedTuple):
    """What a word is replaced by, and what that is to it."""

    text: str
    kind: Kind


class Thesaurus:
    """Replacements of words by kind, each looked up once.

    All senses of a word count, since nothing tells which is meant. What equals the word or its base form is left out,
    and the order is that of the alphabet, so that a draw means the same in every process.

    Args:
        wordnet: Where words come from.

    Source:
        Wang et al. 2021, CLINE; kandorm/CLINE, `src/wordnet.py` and `src/dataloader.py`.

    Differences:
        Random words are WordNet's nouns that were tagged in text, where the released code has a list of 5,449 nouns.
    """

    def __init__(self, wordnet: WordNet) -> None:
        self.wordnet = wordnet
        self.inflection = Inflection(wordnet)
        self._known: dict[tuple[ContentWord, Kind], tuple[str, ...]] = {}
        self._finders: dict[Kind, Callable[[ContentWord, str], set[str]]] = {
            "synonym": self._synonyms,
            "hypernym": self._hypernyms,
            "antonym": self._antonyms,
        }

    def replacements(self, word: ContentWord, kind: Kind) -> tuple[str, ...]:
        """Everything that may stand for a word, sorted; words of an expression are divided by spaces.

        Args:
            word: To be replaced.
            kind: Of replacement.
        """
        if kind == "random":
            return self.random_words
        found = self._known.get((word, kind))
        if found is None:
            found = self._known[word, kind] = self._find(word, kind)
        return found

    @cached_property
    def random_words(self) -> tuple[str, ...]:
        """Nouns of one word that were tagged in text; all nouns where WordNet's counts are missing."""
        nouns = [(lemma, count) for lemma, count in self.wordnet.entries("noun") if lemma.isalpha() and len(lemma) > 2]
        return tuple(lemma for lemma, count in nouns if count) or tuple(lemma for lemma, _ in nouns)

    def _find(self, word: ContentWord, kind: Kind) -> tuple[str, ...]:
        if kind == "inflection":
            return tuple(sorted(self.inflection.forms(word.text, word.pos)))
        lemmas = self.wordnet.base_forms(word.text, word.pos)
        found = {other for lemma in lemmas for other in self._finders[kind](word, lemma)}
        own = {word.text, *lemmas}
        texts = {other.replace("_", " ") for other in found if other.lower() not in own}
        return tuple(sorted(texts))

    def _synonyms(self, word: ContentWord, lemma: str) -> set[str]:
        return {other for synset in self.wordnet.synsets(lemma, word.pos) for other in synset.words}

    def _hypernyms(self, word: ContentWord, lemma: str) -> set[str]:
        return {
            other
            for synset in self.wordnet.synsets(lemma, word.pos)
            for pointer in synset.pointers
            if pointer.symbol == "@"
            for other in self.wordnet.synset(pointer.offset, pointer.pos).words
        }

    def _antonyms(self, word: ContentWord, lemma: str) -> set[str]:
        """Opposites of any word of its senses, those of co-synonyms included."""
        return {
            self.wordnet.synset(pointer.offset, pointer.pos).words[pointer.target - 1]
            for synset in self.wordnet.synsets(lemma, word.pos)
            for pointer in synset.pointers
            if pointer.symbol == "!" and pointer.target
        }


class WordReplacement:
    """Chooses the words of the two views of a text.

    Args:
        thesaurus: What words may be replaced by.
        mode: `per_block`, as released: one kind of replacement for a whole text, with the others to fall back on.
            `per_word`: each word by the first kind that it has, in random order; opposites before random words.
        positive_share: Most words that are replaced in the view that keeps the meaning, as a share of all words.
        negative_share: The same of the view that changes it.

    Raises:
        InputError: When an argument is out of range.

    Source:
        Wang et al. 2021, CLINE, section 3; kandorm/CLINE, `src/dataloader.py`.
    """

    def __init__(
        self,
        thesaurus: Thesaurus,
        *,
        mode: Mode = "per_block",
        positive_share: float = 0.5,
        negative_share: float = 0.5,
    ) -> None:
        check_shares(mode, positive_share, negative_share)
        self.thesaurus = thesaurus
        self.mode = mode
        self.positive_share = positive_share
        self.negative_share = negative_share

    def positive(self, words: Sequence[ContentWord], num_words: int, kind: float, draws: Floats) -> dict[int, Choice]:
        """Replacements that keep the meaning, by the place of the word.

        Args:
            words: Those that carry content, W of them.
            num_words: All words of the text.
            kind: Draw in [0, 1) that decides the kind of the text.
            draws: (2, W) in [0, 1): the order in which words are visited, and what is taken of the choice.
        """
        most = int(self.positive_share * num_words)
        if self.mode == "per_word":
            return self._each(words, most, draws, KEEPS_MEANING)
        drawn = KEEPS_MEANING[int(kind * 3)]
        for attempt in KEEPS_MEANING[KEEPS_MEANING.index(drawn) :]:
            chosen = self._all(words, most, draws, attempt)
            if chosen:
                return chosen
        return {}

    def negative(self, words: Sequence[ContentWord], num_words: int, kind: float, draws: Floats) -> dict[int, Choice]:
        """Replacements that change the meaning, by the place of the word.

        Args:
            words: As in `positive`.
            num_words: As in `positive`.
            kind: As in `positive`.
            draws: As in `positive`.
        """
        most = int(self.negative_share * num_words)
        if self.mode == "per_word":
            opposites = self._all(words, most, draws, "antonym")
            others = self._all(words, most, draws, "random")
            missing = [place for place in others if place not in opposites][: most - len(opposites)]
            return opposites | {place: others[place] for place in missing}
        chosen = self._all(words, most, draws, "antonym") if kind < 0.5 else {}
        return chosen or self._all(words, most, draws, "random")

    def _all(self, words: Sequence[ContentWord], most: int, draws: Floats, kind: Kind) -> dict[int, Choice]:
        """Words in random order, each by a replacement of one kind where it has one, until there are enough."""
        chosen: dict[int, Choice] = {}
        picks = draws[1].tolist()
        for place in np.argsort(draws[0], kind="stable").tolist():
            if len(chosen) >= most:
                break
            options = self.thesaurus.replacements(words[place], kind)
            if options:
                chosen[place] = Choice(options[int(picks[place] * len(options))], kind)
        return chosen

    def _each(self, words: Sequence[ContentWord], most: int, draws: Floats, kinds: Sequence[Kind]) -> dict[int, Choice]:
        """Words in random order, each by a kind of its own."""
        chosen: dict[int, Choice] = {}
        for place in np.argsort(draws[0], kind="stable").tolist():
            if len(chosen) >= most:
                break
            shifted = draws[1, place] * len(kinds)
            first, pick = int(shifted), shifted % 1
            for kind in (*kinds[first:], *kinds[:first]):
                options = self.thesaurus.replacements(words[place], kind)
                if options:
                    chosen[place] = Choice(options[int(pick * len(options))], kind)
                    break
        return chosen


def check_shares(mode: str, positive_share: float, negative_share: float) -> None:
    """Refuse arguments of `WordReplacement` that are out of range.

    Args:
        mode: As given.
        positive_share: As given.
        negative_share: As given.

    Raises:
        InputError: Saying which.
    """
    if mode not in get_args(Mode):
        raise InputError(
            f"`mode` must be one of {', '.join(get_args(Mode))}, but is {mode!r}; use `transform.mode=per_block`"
        )
    for name, value in (("positive_share", positive_share), ("negative_share", negative_share)):
        if not 0 < value <= 1:
            raise InputError(f"`{name}` must be above 0 and at most 1, but is {value}; use `transform.{name}=0.5`")
