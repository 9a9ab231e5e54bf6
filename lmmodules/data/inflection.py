"""Other forms of an English word: its plural, its tenses, its degrees."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property

from lmmodules.data.wordnet import PARTS_OF_SPEECH, PartOfSpeech, WordNet

_VOWELS = "aeiou"


class Inflection:
    """Forms of a word, from WordNet's lists of irregular ones and the regular endings.

    Regular endings are given to nouns and verbs alone: adjectives and adverbs have the forms that are listed, since
    nothing here tells "quicker" from "beautifuler".

    Args:
        wordnet: Knows base forms and exceptions.

    Differences:
        CLINE's released code takes forms from LemmInflect, which also knows doubled consonants that no list has.
    """

    def __init__(self, wordnet: WordNet) -> None:
        self.wordnet = wordnet

    def forms(self, word: str, pos: PartOfSpeech) -> set[str]:
        """All forms of the words that a word may be a form of, base forms included and itself left out.

        Args:
            word: In lower case.
            pos: Part of speech.
        """
        found: set[str] = set()
        for lemma in self.wordnet.base_forms(word, pos):
            irregular = self._irregular[pos].get(lemma, [])
            found |= {lemma, *irregular}
            if pos == "noun" and not irregular:
                found.add(with_s(lemma))
            elif pos == "verb":
                found |= _verb_forms(lemma, irregular)
        return {form for form in found if form.isalpha()} - {word}

    @cached_property
    def _irregular(self) -> dict[PartOfSpeech, dict[str, list[str]]]:
        table: dict[PartOfSpeech, dict[str, list[str]]] = {pos: defaultdict(list) for pos in PARTS_OF_SPEECH}
        for pos in PARTS_OF_SPEECH:
            for form, base in self.wordnet.irregular_forms(pos):
                table[pos][base].append(form)
        return table


def with_s(word: str) -> str:
    """A noun's regular plural, or a verb's third person.

    Args:
        word: A base form.
    """
    if word.endswith("y") and word[-2:-1] not in _VOWELS:
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")


def _verb_forms(lemma: str, irregular: list[str]) -> set[str]:
    forms = {with_s(lemma)}
    if not any(form.endswith("ing") for form in irregular):
        silent = lemma.endswith("e") and not lemma.endswith(("ee", "oe", "ye"))
        forms.add((lemma[:-1] if silent else lemma) + "ing")
    if not any(not form.endswith(("ing", "s")) for form in irregular):
        is_y = lemma.endswith("y") and lemma[-2:-1] not in _VOWELS
        forms.add(lemma[:-1] + "ied" if is_y else lemma + ("d" if lemma.endswith("e") else "ed"))
    return forms
