"""The three texts of CLINE, from tokens: what is replaced, what it is labelled, and on what that depends."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch

from lmmodules.batch import IGNORED, check_batch
from lmmodules.data import Blocks, ByteLevelBPE, CorpusDataModule, SampleKeys, Tokenizer
from lmmodules.data.cline import ReplacementViews
from lmmodules.data.wordnet import WordNet
from lmmodules.errors import InputError
from lmmodules.replacement_batch import ReplacementBatch

TEXT = " the hot dog ran to a mat while_dog Dog dogs2 and dog, (cat)"


@pytest.fixture(scope="module")
def directory(tiny_wordnet: Path) -> Path:
    return tiny_wordnet


def views(
    tokenizer: Tokenizer, directory: Path, number: int = 24, *, seed: int = 0, epoch: int = 0, **options: Any
) -> Any:
    tokens = np.array([[*tokenizer.encode(TEXT), tokenizer.eos_id]] * number, dtype=np.uint16)
    blocks = Blocks(tokens, **{name: options.pop(name) for name in ("lengths", "document_ids") if name in options})
    transform = ReplacementViews(wordnet=directory, **options).bind(tokenizer)
    return transform(blocks, SampleKeys(seed, np.full(number, epoch), np.arange(number)))


def original(batch: Any) -> torch.Tensor:
    return torch.where(batch["labels"] == IGNORED, batch["input_ids"], batch["labels"])


def test_the_contract(tokenizer: Tokenizer, directory: Path) -> None:
    batch = views(tokenizer, directory)
    check_batch(batch, ReplacementBatch, "test")
    assert len({batch[name].shape for name in batch if name not in ("contrasted", "opposed")}) == 1
    mask = tokenizer.mask_id
    assert (batch["input_ids"] == mask).any()
    for view, label in (("positive", 1), ("negative", 2)):
        assert not (batch[f"{view}_ids"] == mask).any()
        assert set(batch[f"{view}_labels"].unique().tolist()) == {IGNORED, 0, label}
        assert (batch[f"{view}_ids"][:, 0] == tokenizer.bos_id).all()
        assert (batch[f"{view}_labels"][batch[f"{view}_attention_mask"] == 0] == IGNORED).all()
    assert batch["contrasted"].all()


def test_what_is_not_replaced_keeps_its_tokens(tokenizer: Tokenizer, directory: Path) -> None:
    batch = views(tokenizer, directory)
    text = original(batch)
    candidates = {"hot", "dog", "ran", "mat"}
    replaced = set()
    for row in range(len(text)):
        ids, labels = batch["positive_ids"][row], batch["positive_labels"][row]
        # Neither pieces of identifiers, nor names, numbers and function words were asked about.
        kept = tokenizer.decode(ids[labels == 0]).split()
        assert {word.strip("(") for word in kept} <= candidates | {"cat"}
        replaced |= set(tokenizer.decode(ids[labels == 1]).split())
        unasked = ids[labels == IGNORED]
        assert torch.isin(unasked[unasked != tokenizer.pad_id], text[row]).all()
    assert {"domestic", "hound", "animal"} <= replaced


def test_a_word_beside_a_line_break_is_a_word(tokenizer: Tokenizer, directory: Path) -> None:
    transform = ReplacementViews(wordnet=directory).bind(tokenizer)
    assert transform._writer is not None

    def found(text: str) -> list[str]:
        tokens = np.array([tokenizer.encode(text)], dtype=np.uint16)
        return [word.text for row in transform._writer.content(Blocks(tokens)) for word in row.words]  # type: ignore[union-attr]

    assert found(" the dog\nran to\ta mat\r\n(hot)\x7fcat ") == ["dog", "ran", "mat", "hot", "cat"]
    assert found(" the dog\u00e9 ran\u00e9\nmat_\nhot' cat9 ") == []  # letters of several bytes glue as others do


def test_which_negative_views_are_of_opposites(tokenizer: Tokenizer, directory: Path) -> None:
    batch = views(tokenizer, directory, 200)
    opposites = {"cold", "stay"}  # of hot, and of go, which is above run
    for ids, labels, opposed in zip(batch["negative_ids"], batch["negative_labels"], batch["opposed"], strict=True):
        written = set(tokenizer.decode(ids[labels == 2]).split())
        assert (written <= opposites) == bool(opposed), written
    assert 60 < batch["opposed"].sum() < 140  # every other text, as released
    assert views(tokenizer, directory, 200, mode="per_word")["opposed"].sum() < 60


def test_every_piece_of_an_expression_is_labelled(tokenizer: Tokenizer, directory: Path) -> None:
    batch = views(tokenizer, directory, 200)
    pieces = torch.tensor(tokenizer.encode(" domestic dog"))
    found = 0
    for ids, labels in zip(batch["positive_ids"], batch["positive_labels"], strict=True):
        for start in range(len(ids) - len(pieces)):
            if torch.equal(ids[start : start + len(pieces)], pieces):
                found += 1
                assert (labels[start : start + len(pieces)] == 1).all()
    assert found > 10


def test_it_belongs_to_seed_epoch_and_index(tokenizer: Tokenizer, directory: Path) -> None:
    first = views(tokenizer, directory)
    again = views(tokenizer, directory)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for other in ({"seed": 1}, {"epoch": 1}):
        assert not torch.equal(first["positive_ids"], views(tokenizer, directory, **other)["positive_ids"])
    few = views(tokenizer, directory, 3)
    assert torch.equal(few["negative_ids"], first["negative_ids"][:3])


@pytest.mark.parametrize(
    ("options", "view"), [({"positive_share": 0.1}, "positive"), ({"negative_share": 0.1}, "negative")]
)
def test_shares(tokenizer: Tokenizer, directory: Path, options: Any, view: str) -> None:
    def count(batch: Any) -> int:
        return int((batch[f"{view}_labels"] > 0).sum())

    assert count(views(tokenizer, directory, **options)) < count(views(tokenizer, directory))


def test_modes_and_masks_differ(tokenizer: Tokenizer, directory: Path) -> None:
    batch = views(tokenizer, directory)
    assert not torch.equal(views(tokenizer, directory, mode="per_word")["positive_ids"], batch["positive_ids"])
    more = views(tokenizer, directory, mask_probability=0.5)
    assert (more["labels"] != IGNORED).sum() > 2 * (batch["labels"] != IGNORED).sum()
    hidden = views(tokenizer, directory, mask_probability=0.5, random_probability=0.0, keep_probability=0.0)
    assert (hidden["input_ids"][hidden["labels"] != IGNORED] == tokenizer.mask_id).all()


def test_documents_and_padding(tokenizer: Tokenizer, directory: Path) -> None:
    length = len(tokenizer.encode(TEXT)) + 1
    documents = np.repeat((np.arange(length) > 9)[None].astype(np.int64), 24, 0)
    batch = views(tokenizer, directory, document_ids=documents, lengths=np.full(24, length - 8))
    assert not (batch["positive_ids"] == tokenizer.eos_id).any()
    for view in ("positive", "negative"):
        ids = batch[f"{view}_document_ids"]
        assert (ids[:, 0] == 0).all()
        inside = batch[f"{view}_attention_mask"][:, 1:] == 1
        assert (ids.diff()[inside] >= 0).all()
        assert set(ids.unique().tolist()) == {0, 1}


def test_where_documents_are_masked_only_what_the_start_sees_is_contrasted(
    tokenizer: Tokenizer, directory: Path
) -> None:
    length = len(tokenizer.encode(TEXT)) + 1
    first = len(tokenizer.encode(" the hot"))  # one word that has an opposite, and a synonym only in its own document
    documents = np.repeat((np.arange(length) >= first)[None].astype(np.int64), 200, 0)
    batch = views(tokenizer, directory, 200, document_ids=documents)
    changed = {}
    for view, label in (("positive", 1), ("negative", 2)):
        seen = batch[f"{view}_document_ids"] == 0
        changed[view] = ((batch[f"{view}_labels"] == label) & seen).any(1)
        assert (batch[f"{view}_labels"] == label).any(1).all()  # somewhere in the row
    assert torch.equal(batch["contrasted"].bool(), changed["positive"] & changed["negative"])
    assert 20 < batch["contrasted"].sum() < 180
    alone = views(tokenizer, directory, 200, document_ids=np.zeros_like(documents))
    assert torch.equal(alone["contrasted"], views(tokenizer, directory, 200)["contrasted"])


def test_ignored_samples_count_nowhere(tokenizer: Tokenizer, directory: Path) -> None:
    batch = views(tokenizer, directory)
    ReplacementViews(wordnet=directory).bind(tokenizer).ignore(batch, np.array([2]))
    for name in ("labels", "positive_labels", "negative_labels"):
        assert (batch[name][2] == IGNORED).all()
    assert batch["contrasted"].sum() == 23


def test_a_text_without_words_is_in_no_contrast(tokenizer: Tokenizer, directory: Path) -> None:
    transform = ReplacementViews(wordnet=directory).bind(tokenizer)
    tokens = np.array([tokenizer.encode(" the the the the")], dtype=np.uint16)
    batch = transform(Blocks(tokens), SampleKeys(0, np.zeros(1, dtype=int), np.zeros(1, dtype=int)))
    assert batch["contrasted"].tolist() == [0]
    assert torch.equal(batch["positive_ids"][0, 1:], torch.from_numpy(tokens[0].astype(np.int64)))


def test_a_corpus_without_words_is_refused(
    tokenizer: Tokenizer, directory: Path, corpus_of: Callable[..., Any], tmp_path: Path
) -> None:
    module = CorpusDataModule(
        corpus_of(["the the nobody seven 12 34 " * 40] * 4), tokenizer, ReplacementViews(wordnet=directory),
        max_length=32, cache_dir=tmp_path,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"`data\.path` must hold English text with words that WordNet can replace"):
        module.prepare()


def test_workers_write_the_same(
    directory: Path, tokenizer: Tokenizer, corpus_of: Any, prose: Any, tmp_path: Path
) -> None:
    batches = []
    for workers in (0, 2):
        module = CorpusDataModule(
            corpus_of(prose(60)), tokenizer, ReplacementViews(wordnet=directory), max_length=32, batch_size=4,
            num_workers=workers, cache_dir=tmp_path,
        )  # fmt: skip
        loader = module.prepare().training_loader()
        batches.append([next(iterator) for iterator in [iter(loader)] for _ in range(3)])
        loader.close()
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_no_wordnet(tokenizer: Tokenizer, tmp_path: Path, corpus_of: Any, prose: Any) -> None:
    transform = ReplacementViews(wordnet=tmp_path / "none")
    with pytest.raises(InputError, match="apt-get install wordnet-base"):
        transform.bind(tokenizer)
    corpus = corpus_of(prose(60))
    with pytest.raises(InputError, match="apt-get install wordnet-base"):
        CorpusDataModule(corpus, transform=transform, max_length=32, cache_dir=tmp_path / "cache").prepare()
    assert corpus.times_read == 0  # told before a tokenizer was trained
    assert not (tmp_path / "cache").exists()


def test_training_and_validation_share_what_was_looked_up(
    tokenizer: Tokenizer, directory: Path, corpus_of: Any, prose: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    class Counted(WordNet):
        def __init__(self, *where: Any) -> None:
            opened.append(where)
            super().__init__(*where)

    monkeypatch.setattr("lmmodules.data.cline.WordNet", Counted)
    data = CorpusDataModule(
        corpus_of(prose(60)), tokenizer, ReplacementViews(wordnet=directory), max_length=32, cache_dir=tmp_path
    ).prepare()
    assert data.train_samples
    assert data.validation_samples
    assert opened == [(directory,)]


def test_no_mask_token(directory: Path) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"<s>": 0, "</s>": 1, "a": 2}, []))
    backend.add_special_tokens(["<s>", "</s>"])
    with pytest.raises(InputError, match="`mask` token"):
        ReplacementViews(wordnet=directory).bind(Tokenizer(backend))


def test_refuses_a_tagger_it_does_not_know() -> None:
    with pytest.raises(InputError, match="`tagger` must be one of most_frequent_sense, spacy"):
        ReplacementViews(tagger="guess")  # type: ignore[arg-type]


def test_spacy_is_asked_for_the_words_in_their_context(
    tokenizer: Tokenizer, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Fake:
        reads_context = True

        def __init__(self, model: str) -> None:
            assert model == "large"

        def tag(self, words: list[str]) -> list[str | None]:
            seen.append(words)
            return ["noun" if word == "mat" else None for word in words]

    monkeypatch.setattr("lmmodules.data.cline.Spacy", Fake)
    batch = views(tokenizer, directory, 2, tagger="spacy", spacy_model="large")
    assert seen[0][:6] == ["the", "hot", "dog", "ran", "to", "a"]
    asked = batch["negative_labels"] != IGNORED
    assert asked.any(1).all()
    assert asked.sum() < (views(tokenizer, directory, 2)["negative_labels"] != IGNORED).sum()


def test_bytes_and_word_pieces(directory: Path, corpus_of: Any, prose: Any) -> None:
    from lmmodules.data import WordPiece

    for recipe in (ByteLevelBPE(vocab_size=290), WordPiece(vocab_size=100)):
        tokenizer = recipe.train(corpus_of([*prose(40), TEXT * 20]))
        batch = copy.copy(views(tokenizer, directory))
        assert (batch["positive_labels"] == 1).any(), type(recipe)
        assert batch["contrasted"].any()
