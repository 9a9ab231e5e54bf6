"""WordNet's files, read entry by entry: those of a tiny one, and of a real one where it is there."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from lmmodules.data.wordnet import PARTS_OF_SPEECH, WordNet, find_wordnet
from lmmodules.errors import InputError


@pytest.fixture(scope="module")
def wordnet(tiny_wordnet: Path) -> WordNet:
    return WordNet(tiny_wordnet)


def test_senses(wordnet: WordNet) -> None:
    (dog,) = wordnet.synsets("dog", "noun")
    assert dog.words == ("dog", "hound", "domestic_dog")
    (up,) = dog.pointers
    assert up.symbol == "@"
    assert wordnet.synset(up.offset, up.pos).words == ("animal", "beast")
    assert wordnet.synsets("dog", "verb") == ()


def test_markers_of_adjectives_are_no_part_of_the_word(wordnet: WordNet) -> None:
    assert wordnet.synsets("hot", "adj")[0].words == ("hot", "warm")


def test_pointers_between_words(wordnet: WordNet) -> None:
    (pointer,) = wordnet.synsets("quickly", "adv")[0].pointers
    assert (pointer.symbol, pointer.source, pointer.target) == ("!", 2, 1)
    assert wordnet.synset(pointer.offset, pointer.pos).words[0] == "slowly"


@pytest.mark.parametrize(
    ("word", "pos", "bases"),
    [
        ("children", "noun", ("child",)),
        ("went", "verb", ("go",)),
        ("dogs", "noun", ("dog",)),
        ("races", "verb", ("race",)),
        ("colder", "adj", ("cold",)),
        ("dog", "noun", ("dog",)),
        ("dog", "verb", ()),
        ("nowhere", "noun", ()),
    ],
)
def test_base_forms(wordnet: WordNet, word: str, pos: str, bases: tuple[str, ...]) -> None:
    assert wordnet.base_forms(word, pos) == bases  # type: ignore[arg-type]


def test_every_entry_is_found(wordnet: WordNet) -> None:
    for pos in PARTS_OF_SPEECH:
        for lemma, _ in wordnet.entries(pos):
            assert lemma in [word for synset in wordnet.synsets(lemma, pos) for word in synset.words]


def test_frequencies(wordnet: WordNet, write_wordnet: Callable[..., Path], tmp_path: Path) -> None:
    assert wordnet.frequency("run", "verb") == 20
    assert wordnet.frequency("run", "noun") == 3
    assert wordnet.frequency("mat", "noun") == 0
    uncounted = WordNet(write_wordnet(tmp_path / "uncounted", counts=False))
    assert uncounted.frequency("dog", "noun") == 1  # senses that were tagged
    assert uncounted.frequency("mat", "noun") == 0


def test_it_travels_to_workers(wordnet: WordNet) -> None:
    assert pickle.loads(pickle.dumps(wordnet)).synsets("dog", "noun") == wordnet.synsets("dog", "noun")


def test_where_it_is_looked_for(tiny_wordnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tiny_wordnet
    monkeypatch.setenv("LMM_WORDNET", str(directory))
    assert find_wordnet() == directory
    monkeypatch.setenv("LMM_WORDNET", str(directory / "nowhere"))
    assert find_wordnet(directory) == directory
    with pytest.raises(InputError, match=r"apt-get install wordnet-base.*apt-get download.*transform\.wordnet="):
        find_wordnet()


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("data.noun", None, "`data.noun` in .* is missing"),
        ("index.adv", b"", "`index.adv` in .* is empty"),
        ("data.verb", b"cut", "`data.verb` in .* ends in the middle of a line"),
        ("data.adj", b"something else\n", "`data.adj` in .* has no synset at byte 0"),
        ("index.noun", b"\x07\xff dog\n", r"`index.noun` in .* has no entry for `animal`, which `data.noun` has"),
        ("noun.exc", b"\x9d\x00\x1c\xe2\n\n\x0b\n", r"`noun.exc` in .* has no form and its base in ''"),
        ("cntlist.rev", b"dog%1:00:00:: 1 many\n", "`cntlist.rev` in .* has no count in 'dog%1:00:00:: 1 many'"),
    ],
)
def test_a_broken_directory(
    write_wordnet: Callable[..., Path], tmp_path: Path, name: str, content: bytes | None, fault: str
) -> None:
    directory = write_wordnet(tmp_path / "broken")
    if content is None:
        (directory / name).unlink()
    else:
        (directory / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"^`transform.wordnet` must be a whole.*{fault}.*apt-get install"):
        WordNet(directory)


def test_an_index_of_other_data(write_wordnet: Callable[..., Path], tmp_path: Path) -> None:
    directory = write_wordnet(tmp_path / "other")
    index = directory / "index.noun"
    index.write_text(index.read_text().replace("dog n 1 2 ! @ 1 1 ", "dog n 1 2 ! @ 1 1 9"))
    with pytest.raises(InputError, match="has no synset at byte"):
        WordNet(directory)
    data = (write_wordnet(directory) / "data.noun").read_text()
    dog, cat = (data.index(f"{line}\n") for line in data.splitlines() if " dog 0 " in line or " cat 0 " in line)
    index.write_text(index.read_text().replace(f"{dog:08d}", f"{cat:08d}"))
    with pytest.raises(InputError, match=r"`index\.noun` in .* leads from 'dog' to a synset of others"):
        WordNet(directory)


def test_an_index_that_was_cut_at_the_end_of_a_line(write_wordnet: Callable[..., Path], tmp_path: Path) -> None:
    directory = write_wordnet(tmp_path / "cut")
    index = directory / "index.noun"
    lines = index.read_text().splitlines(keepends=True)
    assert lines[-1].startswith("rug n ")
    index.write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match=r"`index\.noun` in .* has no entry for `rug`, which `data\.noun` has"):
        WordNet(directory)


@pytest.mark.parametrize(
    ("name", "replaced", "by", "read", "fault"),
    [
        ("index.noun", "mat n 1 2 ! @ 1 0", "mat n one two", lambda wordnet: list(wordnet.entries("noun")),
         "`index.noun` in .* has no entry in 'mat n one two"),
        ("index.noun", "mat n 1 2 ! @ 1 0", "mat", lambda wordnet: wordnet.synsets("mat", "noun"),
         "`index.noun` in .* has no entry in 'mat"),
        ("index.noun", "mat n 1 2", "mat n 3 2", lambda wordnet: wordnet.synsets("mat", "noun"),
         "`index.noun` in .* has no entry in 'mat n 3 2"),
        ("noun.exc", "children child", "children", lambda wordnet: list(wordnet.irregular_forms("noun")),
         "`noun.exc` in .* has no form and its base in 'children'"),
        ("cntlist.rev", "dog%1:00:00:: 1 42", "dog%1:00:00:: 1 b2", lambda wordnet: wordnet.frequency("dog", "noun"),
         "`cntlist.rev` in .* has no count in 'dog%1:00:00:: 1 b2'"),
    ],
)  # fmt: skip
def test_what_opening_does_not_look_at_is_told_when_it_is_read(
    write_wordnet: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, replaced: str, by: str, read: Callable[[WordNet], object], fault: str,
) -> None:  # fmt: skip
    directory = write_wordnet(tmp_path / "broken")
    text = (directory / name).read_text()
    assert replaced in text
    (directory / name).write_text(text.replace(replaced, by))
    with pytest.raises(InputError, match=fault):
        WordNet(directory)
    monkeypatch.setattr("lmmodules.data.wordnet.spread", lambda lines, number: {})
    wordnet = WordNet(directory)
    with pytest.raises(InputError, match=f"^`transform.wordnet` must be a whole.*{fault}"):
        read(wordnet)


@pytest.mark.skipif(not os.environ.get("LMM_WORDNET"), reason="needs WordNet 3.0 at LMM_WORDNET")
def test_wordnet_3_0_whole() -> None:
    wordnet = WordNet()
    synsets = antonyms = entries = 0
    for pos in PARTS_OF_SPEECH:
        seen = {(lemma, synset) for lemma, _ in wordnet.entries(pos) for synset in wordnet.synsets(lemma, pos)}
        distinct = {synset for _, synset in seen}
        entries += len({lemma for lemma, _ in seen})
        synsets += len(distinct)
        antonyms += sum(pointer.symbol == "!" for synset in distinct for pointer in synset.pointers)
    assert entries == 155287
    assert antonyms == 7979
    assert 117000 < synsets <= 117659  # some share words and pointers
