"""The attack by synonyms, against a classifier whose answers are known by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmmodules.data import LabelledDataModule, TextFiles, Tokenizer
from lmmodules.data.byte_level_bpe import ByteLevelBPE
from lmmodules.data.parts_of_speech import MostFrequentSense
from lmmodules.data.word_replacement import Thesaurus
from lmmodules.data.wordnet import WordNet
from lmmodules.errors import InputError
from lmmodules.evaluation.synonym_attack import SynonymAttack, Turned, attack, classifier, swap, swappable
from lmmodules.models import Transformer
from lmmodules.objectives import CausalLM, Classification

TEXT = "the hot dog ran to a mat, and Dog's dog-like cat sat"
EVIDENCE = {"hot": 2.0, "warm": 0.5, "dog": 1.0, "hound": -0.5, "domestic": 0.9, "mat": 0.3, "rug": 0.2}


def by_words(texts: Sequence[str]) -> Tensor:
    """Class 1 where the evidence of the words sums to more than nothing."""
    evidence = [sum(EVIDENCE.get(word.strip(",."), 0.0) for word in text.split()) for text in texts]
    return torch.tensor([[-value, value] for value in evidence], dtype=torch.float64).softmax(-1)


@pytest.fixture
def words(tiny_wordnet: Path) -> Any:
    wordnet = WordNet(tiny_wordnet)
    return lambda text: swappable(text, MostFrequentSense(wordnet), Thesaurus(wordnet))


def test_what_may_be_swapped(words: Any) -> None:
    found = {TEXT[word.start : word.end]: word.synonyms for word in words(TEXT)}
    assert found == {
        "hot": ("warm",),
        "dog": ("domestic dog", "hound"),
        "ran": ("race",),
        "mat": ("rug",),
        "cat": ("puss",),
        "sat": ("perch",),
    }
    assert [TEXT[word.start : word.end] for word in words(TEXT)].count("dog") == 2  # a name with 's is none of them


def test_places_hold_when_lengths_change(words: Any) -> None:
    text = "the dog on the mat, the cat"
    first, second, third = words(text)
    assert swap(text, {third: "puss", first: "domestic dog"}) == "the domestic dog on the mat, the puss"
    assert swap(text, {}) == text
    assert swap(text, {second: "rug"}) == "the dog on the rug, the cat"


class TestAttack:
    def test_the_word_that_costs_most_is_swapped_first(self, words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        text = "a hot dog on a mat"  # 3.3: warm takes 3.5 of it, hound 1.5, rug 0.1
        assert attack(text, words(text), 1, by_words, 1) is None
        monkeypatch.setitem(EVIDENCE, "warm", -1.5)
        assert attack(text, words(text), 1, by_words, 3) == Turned("a warm dog on a mat", 1)

    def test_the_worst_of_several_synonyms_is_taken(self, words: Any) -> None:
        text = "a dog there"  # 1.0: domestic dog makes it 1.9, hound -0.5
        assert attack(text, words(text), 1, by_words, 1) == Turned("a hound there", 1)

    def test_as_many_words_as_are_allowed(self, words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(EVIDENCE, "warm", 0.4)
        text = "a hot dog there"  # 3.0: warm leaves 1.4, hound 1.5, both -0.1
        assert attack(text, words(text), 1, by_words, 1) is None
        assert attack(text, words(text), 1, by_words, 2) == Turned("a warm hound there", 2)

    def test_nothing_to_swap(self, words: Any) -> None:
        assert attack("the who", words("the who"), 0, by_words, 3) is None


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("hot dog cold cat warm hound puss mat rug green hill rise " * 50)
    return ByteLevelBPE(vocab_size=270).train(TextFiles(path))


def rows(folder: Path, tokenizer: Tokenizer, **options: Any) -> LabelledDataModule:
    texts = [f"{'the ' * (index % 5)}{('hot dog', 'green mat', 'cat on a hill')[index % 3]}" for index in range(15)]
    (folder / "rows.tsv").write_text(
        "sentence\tlabel\tother\n" + "\n".join(f"{text}\t{index % 2}\tx" for index, text in enumerate(texts))
    )
    options = {"batch_size": 4, "validation_fraction": 1.0, "max_length": 40} | options
    return LabelledDataModule(tokenizer=tokenizer, path=folder / "rows.tsv", cache_dir=folder, **options).prepare()


def network(tokenizer: Tokenizer) -> Classification:
    torch.manual_seed(0)
    objective = Classification(
        Transformer(
            vocab_size=tokenizer.vocab_size,
            hidden_size=16,
            num_layers=1,
            num_heads=2,
            causal=False,
            initializer_std=1.0,
        )
    ).eval()
    for layer in (objective.head.dense, objective.head.output):
        torch.nn.init.normal_(layer.weight)
    return objective


def test_texts_are_read_as_the_rows_are(tmp_path: Path, tokenizer: Tokenizer) -> None:
    data, objective = rows(tmp_path, tokenizer), network(tokenizer)
    samples = data.validation_samples
    everything: Any = samples[np.zeros(15, dtype=np.int64), np.arange(15)]
    with torch.no_grad():
        expected = objective(everything).softmax(-1)
        found = classifier(objective, data)(data.texts(data.rows["validation"])[0])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_figures_are_those_of_its_sentences(
    tmp_path: Path, tokenizer: Tokenizer, tiny_wordnet: Path, words: Any
) -> None:
    data, objective = rows(tmp_path, tokenizer), network(tokenizer)
    figures = SynonymAttack(wordnet=str(tiny_wordnet), max_share=0.5)(objective, data)
    classify = classifier(objective, data)
    right, swapped = 0, []
    with torch.no_grad():
        texts, labels = data.texts(data.rows["validation"])[0], data.validation_samples.labels
        for text, label in zip(texts, labels, strict=True):
            if classify([text])[0].argmax() == label:
                right += 1
                turned = attack(text, words(text), int(label), classify, max(1, len(text.split()) // 2))
                swapped += [] if turned is None else [turned.num_swapped]
    assert 0 < len(swapped) < right < 15
    assert figures == {
        "accuracy": right / 15,
        "attacked_accuracy": (right - len(swapped)) / 15,
        "turned": len(swapped) / right,
        "words_swapped": pytest.approx(np.mean(swapped)),
        "rows": 15,
    }


def test_each_option_changes_the_figures(
    tmp_path: Path, tokenizer: Tokenizer, tiny_wordnet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmmodules.evaluation.synonym_attack.classifier", lambda objective, data: by_words)
    monkeypatch.setitem(EVIDENCE, "warm", 0.4)
    data, objective = rows(tmp_path, tokenizer), network(tokenizer)

    def figures(**options: Any) -> dict[str, float]:
        return SynonymAttack(wordnet=str(tiny_wordnet), **options)(objective, data)

    # Eight are right; `hot dog` takes two swaps, and is right in the rows 3 (of five words) and 9 (of six).
    assert figures(max_share=0.2)["attacked_accuracy"] == 8 / 15
    many = figures(max_share=0.4)
    assert (many["attacked_accuracy"], many["turned"], many["words_swapped"]) == (6 / 15, 2 / 8, 2)
    # The rows 0, 4, 9 and 14, of which the last two are right.
    assert (figures(max_rows=4)["rows"], figures(max_rows=4)["accuracy"]) == (4, 0.5)


def test_bad_input(tmp_path: Path, tokenizer: Tokenizer, tiny_wordnet: Path) -> None:
    with pytest.raises(InputError, match=r"`evaluation\.max_share` must be above 0 and at most 1, but is 2"):
        SynonymAttack(max_share=2)
    with pytest.raises(InputError, match=r"`evaluation\.max_rows` must be at least 1, but is 0"):
        SynonymAttack(max_rows=0)
    data, objective = rows(tmp_path, tokenizer), network(tokenizer)
    with pytest.raises(InputError, match=r"`evaluation\.wordnet` must name a directory of WordNet"):
        SynonymAttack(wordnet=str(tmp_path / "none"))(objective, data)
    causal = Transformer(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2, causal=True)
    with pytest.raises(InputError, match="holds a `CausalLM`; use `evaluation=perplexity`"):
        SynonymAttack(wordnet=str(tiny_wordnet))(CausalLM(causal), data)
    pairs = rows(tmp_path, tokenizer, text_columns=["sentence", "other"])
    with pytest.raises(InputError, match="the rows hold pairs"):
        SynonymAttack(wordnet=str(tiny_wordnet))(objective, pairs)
    trained_on = rows(tmp_path, tokenizer, validation_fraction=0.0)
    with pytest.raises(InputError, match="rows that are held out, but there are none"):
        SynonymAttack(wordnet=str(tiny_wordnet))(objective, trained_on)
