"""WordNet 3.x as it is distributed: words, their senses, and what they are opposed to, read from its own files."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from lmmodules.data.sorted_lines import find, spread, with_prefix
from lmmodules.errors import InputError

PartOfSpeech = Literal["noun", "verb", "adj", "adv"]
PARTS_OF_SPEECH: tuple[PartOfSpeech, ...] = get_args(PartOfSpeech)

_TYPES = {"noun": (b"1",), "verb": (b"2",), "adj": (b"3", b"5"), "adv": (b"4",)}  # ss_type of a sense key
_COUNTS = ("cntlist.rev", "index.sense")  # Both hold, sorted by sense key, how often a sense was tagged
_LOOKED_AT = 64  # lines of each file that are read when it is opened
_ENDINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "noun": (("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"),
             ("ies", "y")),
    "verb": (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}  # fmt: skip
_USUAL_PLACES = (
    "/usr/share/wordnet",
    "/usr/local/share/wordnet",
    "/usr/local/WordNet-3.1/dict",
    "/usr/local/WordNet-3.0/dict",
)
_REMEDY = (
    "install one with `apt-get install wordnet-base`, or unpack one with `apt-get download wordnet-base && dpkg-deb -x "
    "wordnet-base_*.deb wordnet` and use `{option}=wordnet/usr/share/wordnet`"
)


class Pointer(NamedTuple):
    """A relation of a synset, or of one of its words, to another."""

    symbol: str  # "!" antonym, "@" hypernym, ...
    offset: int
    pos: PartOfSpeech
    source: int  # number of the word it starts from, from 1; 0 for the whole synset
    target: int


class Synset(NamedTuple):
    """Words that share a sense, and where the sense leads."""

    words: tuple[str, ...]
    pointers: tuple[Pointer, ...]


class Entry(NamedTuple):
    """A word in an index: its senses, the most frequent first, and how many of them were tagged in text."""

    offsets: tuple[int, ...]
    num_tagged: int


class WordNet:
    """A directory of WordNet 3.x.

    Nothing is loaded: its files are sorted, and an entry is found by halving in a memory map, which all workers share.
    Some lines of each file are looked at when it is opened, so that a damaged directory is mostly found before it is
    used.

    Args:
        directory: Holds `index.*` and `data.*`; `*.exc` and `cntlist.rev` or `index.sense` are used where they are.
            `None` looks where `LMM_WORDNET` says, and then in the usual places.
        option: What an error calls the directory.

    Raises:
        InputError: When there is none, or it is damaged.

    Source:
        WordNet 3.0 reference manual, wndb(5WN), senseidx(5WN), cntlist(5WN) and morphy(7WN).
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None, *, option: str = "transform.wordnet") -> None:
        self.directory = find_wordnet(directory, option=option)
        self._option = option
        self._files: dict[str, mmap.mmap] = {}
        for pos in PARTS_OF_SPEECH:
            for kind in ("index", "data"):
                self._files[f"{kind}.{pos}"] = self._open(f"{kind}.{pos}")
            self._check_data(pos)
            self._check_index(pos)
        for name in (*(f"{pos}.exc" for pos in PARTS_OF_SPEECH), *_COUNTS):
            if (self.directory / name).is_file() and (self.directory / name).stat().st_size:
                self._files[name] = self._open(name)
                for line in spread(self._files[name], _LOOKED_AT).values():
                    self._count(name, line) if name in _COUNTS else self._exception(name, line)

    def __reduce__(self) -> tuple[type[WordNet], tuple[Path]]:
        return WordNet, (self.directory,)  # a memory map cannot be sent to a worker, but opened there

    def __deepcopy__(self, memo: object) -> WordNet:
        return self

    def base_forms(self, word: str, pos: PartOfSpeech) -> tuple[str, ...]:
        """Entries that a word may be a form of: itself, and what its exceptions or else its endings lead to.

        Args:
            word: In lower case.
            pos: Part of speech.
        """
        name = f"{pos}.exc"
        listed = None if name not in self._files else find(self._files[name], word)
        if listed is not None:
            forms = [word, *self._exception(name, listed)[1:]]
        else:
            stems = [word[: -len(end)] + new for end, new in _ENDINGS[pos] if word.endswith(end) and word != end]
            forms = [word, *stems]
        index = self._files[f"index.{pos}"]
        return tuple(form for form in dict.fromkeys(forms) if find(index, form) is not None)

    def synsets(self, lemma: str, pos: PartOfSpeech) -> tuple[Synset, ...]:
        """Senses of an entry, the most frequent first.

        Args:
            lemma: A base form, `_` between words.
            pos: Part of speech.

        Raises:
            InputError: When index and data do not fit together.
        """
        entry = self._entry(lemma, pos)
        return () if entry is None else tuple(self.synset(offset, pos) for offset in entry.offsets)

    def synset(self, offset: int, pos: PartOfSpeech) -> Synset:
        """The synset at a byte of the data file.

        Args:
            offset: Of its line.
            pos: Part of speech.

        Raises:
            InputError: When there is none.
        """
        data = self._files[f"data.{pos}"]
        line = data[offset : data.find(b"\n", offset)].decode("ascii", "replace") if offset < len(data) else ""
        fields = line.partition(" | ")[0].split()
        try:
            if int(fields[0]) != offset:
                raise ValueError(offset)
            num_words = int(fields[3], 16)
            words = tuple(fields[4 + 2 * index].partition("(")[0] for index in range(num_words))
            first = 5 + 2 * num_words
            pointers = tuple(
                Pointer(
                    fields[at],
                    int(fields[at + 1]),
                    _POS_OF_LETTER[fields[at + 2]],
                    int(fields[at + 3][:2], 16),
                    int(fields[at + 3][2:], 16),
                )
                for at in range(first, first + 4 * int(fields[first - 1]), 4)
            )
        except (ValueError, IndexError, KeyError) as error:
            raise self._broken(f"data.{pos}", f"has no synset at byte {offset}") from error
        return Synset(words, pointers)

    def frequency(self, lemma: str, pos: PartOfSpeech) -> int:
        """How often an entry was tagged in the texts that WordNet's counts were made of.

        Without a file of counts it is the number of its senses that were tagged at all.

        Args:
            lemma: A base form.
            pos: Part of speech.

        Raises:
            InputError: When the file holds no count.
        """
        for name in _COUNTS:
            if name in self._files:
                prefix = f"{lemma}%".encode()
                lines = with_prefix(self._files[name], prefix)
                of_pos = (line for line in lines if line[len(prefix) : len(prefix) + 1] in _TYPES[pos])
                return sum(self._count(name, line.decode("ascii", "replace")) for line in of_pos)
        entry = self._entry(lemma, pos)
        return 0 if entry is None else entry.num_tagged

    def irregular_forms(self, pos: PartOfSpeech) -> Iterator[tuple[str, str]]:
        """Exceptional forms with their base form, one by one.

        Args:
            pos: Part of speech.

        Raises:
            InputError: When a line is no form with its base.
        """
        name = f"{pos}.exc"
        if name in self._files:
            for line in self._files[name][:].decode("ascii", "replace").splitlines():
                form, *bases = self._exception(name, line)
                yield from ((form, base) for base in bases)

    def entries(self, pos: PartOfSpeech) -> Iterator[tuple[str, int]]:
        """Every entry, with how many of its senses were tagged in text.

        Args:
            pos: Part of speech.

        Raises:
            InputError: When a line is no entry.
        """
        for line in self._files[f"index.{pos}"][:].decode("ascii", "replace").splitlines():
            if not line.startswith(_LICENCE):
                yield line.partition(" ")[0], self._read(line, pos).num_tagged

    def _entry(self, lemma: str, pos: PartOfSpeech) -> Entry | None:
        line = find(self._files[f"index.{pos}"], lemma)
        return None if line is None else self._read(line, pos)

    def _read(self, line: str, pos: PartOfSpeech) -> Entry:
        fields = line.split()
        try:
            first = 6 + int(fields[3])  # behind the pointer symbols
            entry = Entry(tuple(map(int, fields[first:])), int(fields[first - 1]))
            if len(entry.offsets) != int(fields[2]):
                raise ValueError(line)
        except (ValueError, IndexError) as error:
            raise self._broken(f"index.{pos}", f"has no entry in {_shown(line)}") from error
        return entry

    def _exception(self, name: str, line: str) -> list[str]:
        fields = line.split()
        if len(fields) < 2:
            raise self._broken(name, f"has no form and its base in {_shown(line)}")
        return fields

    def _count(self, name: str, line: str) -> int:
        try:
            return int(line.rpartition(" ")[2])
        except ValueError as error:
            raise self._broken(name, f"has no count in {_shown(line)}") from error

    def _open(self, name: str) -> mmap.mmap:
        path = self.directory / name
        if not path.is_file() or not path.stat().st_size:
            raise self._broken(name, "is missing" if not path.is_file() else "is empty")
        with path.open("rb") as file:
            opened = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if opened[-1:] != b"\n":
            raise self._broken(name, "ends in the middle of a line")
        return opened

    def _check_data(self, pos: PartOfSpeech) -> None:
        """Look for the words of some synsets, of which an index that was cut off has not all."""
        for start, line in spread(self._files[f"data.{pos}"], _LOOKED_AT).items():
            if line.startswith(_LICENCE):
                continue
            for word in self.synset(start, pos).words:
                if find(self._files[f"index.{pos}"], word.lower()) is None:
                    raise self._broken(f"index.{pos}", f"has no entry for `{word}`, which `data.{pos}` has")

    def _check_index(self, pos: PartOfSpeech) -> None:
        """Follow some entries to their synsets."""
        for line in spread(self._files[f"index.{pos}"], _LOOKED_AT).values():
            if line.startswith(_LICENCE):
                continue
            lemma = line.partition(" ")[0]
            for offset in self._read(line, pos).offsets:
                if lemma not in (word.lower() for word in self.synset(offset, pos).words):
                    raise self._broken(f"index.{pos}", f"leads from {_shown(lemma)} to a synset of others")

    def _broken(self, name: str, fault: str) -> InputError:
        return InputError(
            f"`{self._option}` must be a whole directory of WordNet 3.x, but `{name}` in `{self.directory}` {fault}; "
            f"{_REMEDY.format(option=self._option)}"
        )


def _shown(line: str) -> str:
    """What is told of a line that may hold anything."""
    return f"{line[:40]!a}"


_LICENCE = "  "  # before each of its lines, at the beginning of a file
_POS_OF_LETTER: dict[str, PartOfSpeech] = {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}


def find_wordnet(directory: str | os.PathLike[str] | None = None, *, option: str = "transform.wordnet") -> Path:
    """The directory of WordNet that is given, or the one that is found.

    Args:
        directory: As in `WordNet`.
        option: As in `WordNet`.

    Raises:
        InputError: When there is none; the sentence says how to get one.
    """
    given = directory or os.environ.get("LMM_WORDNET")
    places = [Path(given).expanduser()] if given else [Path(place) for place in _USUAL_PLACES]
    for place in places:
        if place.is_dir():
            return place
    where = f"`{given}` is none" if given else f"there is none in {', '.join(map(str, places))}"
    remedy = _REMEDY.format(option=option)
    raise InputError(f"`{option}` must name a directory of WordNet 3.x, but {where}; {remedy}")
