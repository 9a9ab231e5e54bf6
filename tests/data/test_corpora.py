from __future__ import annotations

import ast
import itertools
import sys
from pathlib import Path

import pytest

from lmmodules.data import HuggingFaceDataset, StandardLibrary
from lmmodules.errors import InputError

TEXTS = [f"document {number}" for number in range(20)]


def test_the_standard_library_is_source_and_prose() -> None:
    corpus = StandardLibrary()
    documents = list(corpus.documents())
    assert documents == list(StandardLibrary().documents())
    assert 5_000_000 < sum(map(len, documents)) < 40_000_000
    for source in itertools.islice(documents, 3):
        ast.parse(source)
    assert any("The `if` statement" in text or 'The "if" statement' in text for text in documents[-200:])
    assert not any("import unittest" in text and "from test import support" in text for text in documents)
    assert corpus.fingerprint() == StandardLibrary().fingerprint()
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in corpus.describe()
    assert corpus.num_bytes() > 5_000_000


def test_an_interpreter_without_source_says_so(tmp_path: Path) -> None:
    corpus = StandardLibrary()
    corpus.root = tmp_path
    with pytest.raises(InputError, match=r"has no `\*.py` files; use `data.path=DIR_OR_FILES`"):
        list(corpus.documents())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datasets = pytest.importorskip("datasets")
    path = tmp_path_factory.mktemp("dataset")
    table = datasets.Dataset.from_dict({"text": [*TEXTS, None], "id": list(range(21))})
    table.save_to_disk(str(path / "one"))
    datasets.DatasetDict({"train": table, "dev": table.select(range(3))}).save_to_disk(str(path / "several"))
    (path / "files").mkdir()
    table.select(range(20)).to_json(str(path / "files" / "train.jsonl"))
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["one", "several", "files"])
def test_hugging_face_datasets(
    folder: Path, name: str, streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    corpus = HuggingFaceDataset(str(folder / name), streaming=streaming)
    assert list(corpus.documents()) == list(corpus.documents()) == TEXTS
    key = corpus.fingerprint()
    assert HuggingFaceDataset(str(folder / name), streaming=streaming).fingerprint() == key
    assert corpus.describe() == f"{folder / name} (train)"


def test_splits(folder: Path) -> None:
    train = HuggingFaceDataset(str(folder / "several"))
    dev = HuggingFaceDataset(str(folder / "several"), split="dev")
    assert list(dev.documents()) == TEXTS[:3]
    assert dev.fingerprint() != train.fingerprint()


def test_wrong_columns_splits_and_names(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must be one of text, id, but is `body`; use `data.corpus.text_column=text`"):
        list(HuggingFaceDataset(str(folder / "one"), text_column="body").documents())
    with pytest.raises(InputError, match=r"must name a column of text, but `id` of .* holds a int"):
        list(HuggingFaceDataset(str(folder / "one"), text_column="id").documents())
    with pytest.raises(InputError, match="with the split `missing`"):
        list(HuggingFaceDataset(str(folder / "several"), split="missing").documents())
    with pytest.raises(InputError, match=r"`data.corpus.name_or_path` must be a dataset"):
        list(HuggingFaceDataset(str(tmp_path / "nowhere")).documents())


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"needs `datasets`: pip install 'lmmodules\[hub\]'"):
        list(HuggingFaceDataset("anything").documents())
