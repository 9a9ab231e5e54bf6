"""WordNet 3.x as it is distributed: words, their senses, and what they are opposed to, read from its own files."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from lmmodules.errors import InputError

PartOfSpeech = Literal["noun", "verb", "adj", "adv"]
PARTS_OF_SPEECH: tuple[PartOfSpeech, ...] = get_args(PartOfSpeech)

_TYPES = {"noun": (b"1",), "verb": (b"2",), "adj": (b"3", b"5"), "adv": (b"4",)}  # ss_type of a sense key
_COUNTS = ("cntlist.rev", "index.sense")  # Both hold, sorted by sense key, how often a sense was tagged
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


class WordNet:
    """A directory of WordNet 3.x.

    Nothing is loaded: its files are sorted, and an entry is found by halving in a memory map, which all workers share.

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
        for name in (*(f"{pos}.exc" for pos in PARTS_OF_SPEECH), *_COUNTS):
            if (self.directory / name).is_file() and (self.directory / name).stat().st_size:
                self._files[name] = self._open(name)

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
        listed = None if name not in self._files else _find(self._files[name], word)
        if listed is not None:
            forms = [word, *listed.split()[1:]]
        else:
            stems = [word[: -len(end)] + new for end, new in _ENDINGS[pos] if word.endswith(end) and word != end]
            forms = [word, *stems]
        return tuple(form for form in dict.fromkeys(forms) if self._entry(form, pos) is not None)

    def synsets(self, lemma: str, pos: PartOfSpeech) -> tuple[Synset, ...]:
        """Senses of an entry, the most frequent first.

        Args:
            lemma: A base form, `_` between words.
            pos: Part of speech.

        Raises:
            InputError: When index and data do not fit together.
        """
        entry = self._entry(lemma, pos)
        if entry is None:
            return ()
        try:
            count = int(entry[2])
            offsets = [int(field) for field in entry[len(entry) - count :]] if count else []
        except (ValueError, IndexError) as error:
            raise self._broken(f"index.{pos}", f"has no readable entry for `{lemma}`") from error
        return tuple(self.synset(offset, pos) for offset in offsets)

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
        """
        for name in _COUNTS:
            if name in self._files:
                prefix = f"{lemma}%".encode()
                lines = _lines_with_prefix(self._files[name], prefix)
                of_pos = (line for line in lines if line[len(prefix) : len(prefix) + 1] in _TYPES[pos])
                return sum(int(line.rpartition(b" ")[2]) for line in of_pos)
        entry = self._entry(lemma, pos)
        return 0 if entry is None else int(entry[5 + int(entry[3])])  # behind the pointer symbols and sense_cnt

    def irregular_forms(self, pos: PartOfSpeech) -> Iterator[tuple[str, str]]:
        """Exceptional forms with their base form, one by one.

        Args:
            pos: Part of speech.
        """
        name = f"{pos}.exc"
        if name in self._files:
            for line in self._files[name][:].decode("ascii", "replace").splitlines():
                form, *bases = line.split()
                yield from ((form, base) for base in bases)

    def entries(self, pos: PartOfSpeech) -> Iterator[tuple[str, int]]:
        """Every entry, with how many of its senses were tagged in text.

        Args:
            pos: Part of speech.
        """
        for line in self._files[f"index.{pos}"][:].decode("ascii", "replace").splitlines():
            if not line.startswith("  "):
                fields = line.split()
                yield fields[0], int(fields[5 + int(fields[3])])

    def _entry(self, lemma: str, pos: PartOfSpeech) -> list[str] | None:
        line = _find(self._files[f"index.{pos}"], lemma)
        return None if line is None else line.split()

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
        data = self._files[f"data.{pos}"]
        start = 0
        while data[start : start + 2] == b"  ":  # the licence
            start = data.find(b"\n", start) + 1
        self.synset(start, pos)
        self.synset(data.rfind(b"\n", 0, len(data) - 1) + 1, pos)

    def _broken(self, name: str, fault: str) -> InputError:
        return InputError(
            f"`{self._option}` must be a whole directory of WordNet 3.x, but `{name}` in `{self.directory}` {fault}; "
            f"{_REMEDY.format(option=self._option)}"
        )


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


def _find(lines: mmap.mmap, key: str) -> str | None:
    """The line that begins with a word and a space, among sorted lines."""
    wanted = key.encode()
    low, high = 0, len(lines)
    while low < high:
        start = lines.rfind(b"\n", low, (low + high) // 2) + 1 or low
        end = lines.find(b"\n", start)
        head = lines[start:end].partition(b" ")[0]
        if head == wanted:
            return lines[start:end].decode("ascii", "replace")
        if head < wanted:
            low = end + 1
        else:
            high = start
    return None


def _lines_with_prefix(lines: mmap.mmap, prefix: bytes) -> Iterator[bytes]:
    """The lines that begin with a prefix, among sorted lines."""
    low, high = 0, len(lines)
    while low < high:
        start = lines.rfind(b"\n", low, (low + high) // 2) + 1 or low
        end = lines.find(b"\n", start)
        if lines[start : start + len(prefix)] < prefix:
            low = end + 1
        else:
            high = start
    while lines[low : low + len(prefix)] == prefix:
        end = lines.find(b"\n", low)
        yield lines[low:end]
        low = end + 1
