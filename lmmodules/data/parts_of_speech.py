"""Which words carry content, and as which part of speech."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lmmodules.data.wordnet import PARTS_OF_SPEECH, PartOfSpeech, WordNet
from lmmodules.errors import InputError, require

_FUNCTION_WORDS = """
    a about above across after again against ago all almost along already also although always am among an and
    another any anybody anyone anything are around as at away be became because been before behind being below
    beneath beside besides between beyond both but by can cannot could did do does doing done down during each
    either else enough even ever every everybody everyone everything except few for from further had has have having
    he hence her here hers herself him himself his how however i if in inside instead into is it its itself just
    least less many may me might mine more most much must my myself near neither never nevertheless no nobody none
    nor not nothing now of off often on once one only onto or other others ought our ours ourselves out outside over
    own per perhaps quite rather same several shall she should since so some somebody someone something still such
    than that the their theirs them themselves then there therefore these they this those though through throughout
    thus till to together too toward towards under unless until up upon us very via was we were what whatever when
    whenever where whereas whether which while who whoever whom whose why will with within without would yet you
    your yours yourself
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Words that are never content, whatever nouns or verbs WordNet has of the same spelling."""


class Tagger(Protocol):
    """Says which words of a text are nouns, verbs, adjectives or adverbs.

    Attributes:
        reads_context: Whether the answer depends on the words around it.
    """

    reads_context: bool

    def tag(self, words: Sequence[str]) -> list[PartOfSpeech | None]:
        """The part of speech of each word; `None` for function words, names, punctuation and what is unknown."""
        ...


class MostFrequentSense:
    """The part of speech in which WordNet's tagged texts have a word most often.

    Args:
        wordnet: Holds the counts.

    Differences:
        CLINE tags with spaCy. This looks at a word alone, and so never errs on rare words more than on their most
        usual reading. A word with a capital is taken for a name, also where a sentence begins.
    """

    reads_context = False

    def __init__(self, wordnet: WordNet) -> None:
        self.wordnet = wordnet

    def tag(self, words: Sequence[str]) -> list[PartOfSpeech | None]:
        """The part of speech of each word."""
        return [self._part(word) for word in words]

    def _part(self, word: str) -> PartOfSpeech | None:
        if len(word) < 2 or not (word.isalpha() and word.islower()) or word in FUNCTION_WORDS:
            return None
        best, most = None, -1
        for pos in PARTS_OF_SPEECH:
            forms = self.wordnet.base_forms(word, pos)
            if forms:
                count = max(self.wordnet.frequency(form, pos) for form in forms)
                if count > most:
                    best, most = pos, count
        return best


class Spacy:
    """The parts of speech that a spaCy pipeline finds.

    Args:
        model: Name of an installed pipeline.

    Raises:
        InputError: When spaCy or the pipeline is not installed.
    """

    reads_context = True

    def __init__(self, model: str = "en_core_web_sm") -> None:
        self.model = model
        spacy = require("spacy", "spacy", "`transform.tagger` of spaCy")
        try:
            self._pipeline = spacy.load(model, disable=["parser", "ner"])
        except OSError as error:
            raise InputError(
                f"`transform.spacy_model` must be a pipeline that is installed, or the folder of one, but `{model}` is "
                f"neither; get it with `python -m spacy download {model}`, or use "
                "`transform.tagger=most_frequent_sense`"
            ) from error

    def tag(self, words: Sequence[str]) -> list[PartOfSpeech | None]:
        """The part of speech of each word."""
        document = require("spacy.tokens", "spacy", "`transform.tagger` of spaCy").Doc(
            self._pipeline.vocab, words=list(words)
        )
        return [_UNIVERSAL.get(token.pos_) for token in self._pipeline(document)]


_UNIVERSAL: dict[str, PartOfSpeech] = {"NOUN": "noun", "VERB": "verb", "ADJ": "adj", "ADV": "adv"}
