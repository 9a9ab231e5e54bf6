"""A WordNet of a few words, in WordNet's own file format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

LICENCE = "  1 A licence stands here, each line behind two spaces.  \n  2 It ends here.  \n"
LETTERS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
NUMBERS = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}

# Name, part of speech, words, and pointers: symbol, name, word here, word there (0 for the whole synset).
SYNSETS: Sequence[tuple[str, str, list[str], list[tuple[str, str, int, int]]]] = (
    ("animal", "noun", ["animal", "beast"], []),
    ("dog", "noun", ["dog", "hound", "domestic_dog"], [("@", "animal", 0, 0)]),
    ("cat", "noun", ["cat", "puss"], [("@", "animal", 0, 0)]),
    ("mat", "noun", ["mat", "rug"], []),
    ("hill", "noun", ["hill", "rise"], []),
    ("child", "noun", ["child", "kid"], []),
    ("go", "verb", ["go", "move"], [("!", "stay", 1, 1)]),
    ("run", "verb", ["run", "race"], [("@", "go", 0, 0)]),
    ("stay", "verb", ["stay"], [("!", "go", 1, 1)]),
    ("sit", "verb", ["sit", "perch"], [("!", "stand", 1, 1)]),
    ("stand", "verb", ["stand"], [("!", "sit", 1, 1)]),
    ("hot", "adj", ["hot(p)", "warm"], [("!", "cold", 1, 1)]),
    ("cold", "adj", ["cold"], [("!", "hot", 1, 1)]),
    ("green", "adj", ["green"], []),
    ("fast", "adv", ["fast", "quickly"], [("!", "slowly", 2, 1)]),
    ("slowly", "adv", ["slowly"], [("!", "fast", 1, 2)]),
)
EXCEPTIONS = {
    "noun": ["children child"],
    "verb": ["ran run", "running run", "sat sit", "sitting sit", "went go", "gone go"],
    "adj": ["hotter hot"],
    "adv": [],
}
COUNTS = {("dog", "noun"): 42, ("run", "verb"): 20, ("run", "noun"): 3, ("hot", "adj"): 5, ("cat", "noun"): 9}


def write(directory: Path, *, counts: bool = True) -> Path:
    """Write the files; offsets are those of the bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {pos: [] for pos in LETTERS}

    def line(name: str, offsets: dict[str, int]) -> str:
        _, pos, words, pointers = next(synset for synset in SYNSETS if synset[0] == name)
        listed = " ".join(f"{word} 0" for word in words)
        links = "".join(
            f"{symbol} {offsets[other]:08d} {LETTERS[next(s[1] for s in SYNSETS if s[0] == other)]} {a:02x}{b:02x} "
            for symbol, other, a, b in pointers
        )
        verb = "01 + 02 00 " if pos == "verb" else ""
        return (
            f"{offsets[name]:08d} 00 {LETTERS[pos]} {len(words):02x} {listed} {len(pointers):03d} {links}{verb}"
            f"| what {name} means  \n"
        )

    offsets = {name: 0 for name, *_ in SYNSETS}
    for pos in LETTERS:
        at = len(LICENCE)
        for name, own, *_ in SYNSETS:
            if own == pos:
                offsets[name] = at
                at += len(line(name, offsets))
    index: dict[tuple[str, str], list[int]] = {}
    for name, pos, words, _ in SYNSETS:
        lines[pos].append(line(name, offsets))
        for word in words:
            index.setdefault((word.partition("(")[0], pos), []).append(offsets[name])
    for pos, letter in LETTERS.items():
        (directory / f"data.{pos}").write_text(LICENCE + "".join(lines[pos]))
        entries = [
            f"{word} {letter} {len(places)} 2 ! @ {len(places)} {int((word, pos) in COUNTS)} "
            + " ".join(f"{place:08d}" for place in places)
            + "  \n"
            for (word, own), places in index.items()
            if own == pos
        ]
        (directory / f"index.{pos}").write_text(LICENCE + "".join(sorted(entries)))
        (directory / f"{pos}.exc").write_text("".join(sorted(f"{text}\n" for text in EXCEPTIONS[pos])))
    if counts:
        tagged = sorted(f"{word}%{NUMBERS[pos]}:00:00:: 1 {count}\n" for (word, pos), count in COUNTS.items())
        (directory / "cntlist.rev").write_text("".join(tagged))
    return directory
