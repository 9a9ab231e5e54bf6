from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from lmmodules.data import StandardLibrary, TextFiles, text_corpus, text_files
from lmmodules.errors import InputError


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = pytest.importorskip("zstandard").compress(data)
    path.write_bytes(data)
    return path


def lines(*texts: str, field: str = "text") -> str:
    return "".join(json.dumps({field: text}) + "\n" for text in texts)


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_every_format_plain_and_compressed(tmp_path: Path, ending: str) -> None:
    write(tmp_path / f"a.txt{ending}", "plain\r\ntext é")
    write(tmp_path / f"b.jsonl{ending}", lines("one", "two\nlines") + "\n" + lines("three"))
    write(tmp_path / f"c.ndjson{ending}", lines("four"))
    assert list(TextFiles(tmp_path).documents()) == ["plain\r\ntext é", "one", "two\nlines", "three", "four"]


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_parquet(tmp_path: Path, ending: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    plain = tmp_path / "plain"
    parquet.write_table(arrow.table({"body": ["x", None, "z"], "id": [1, 2, 3]}), plain)
    file = write(tmp_path / f"d.parquet{ending}", plain.read_bytes())
    assert list(TextFiles(file, text_field="body").documents()) == ["x", "z"]
    with pytest.raises(InputError, match=r"must be a column of .* \(body, id\), but is `text`"):
        list(TextFiles(file).documents())
    broken = write(tmp_path / f"e.parquet{ending}", plain.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"e.parquet.*` must be a Parquet file, but it is truncated"):
        list(TextFiles(broken).documents())


def test_a_directory_is_read_in_the_order_of_names_with_all_below(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "sub/c.py", "README", "sub/deeper/d"):
        write(tmp_path / name, name)
    write(tmp_path / ".git/config", "hidden")
    write(tmp_path / ".hidden", "hidden")
    assert list(TextFiles(tmp_path).documents()) == ["README", "a.md", "b.txt", "sub/c.py", "sub/deeper/d"]


def test_suffixes_choose_files(tmp_path: Path) -> None:
    for name in ("a.py", "b.md", "c.py.gz", "d.txt"):
        write(tmp_path / name, name)
    assert list(TextFiles(tmp_path, suffixes=[".py"]).documents()) == ["a.py", "c.py.gz"]
    assert list(TextFiles(tmp_path, suffixes=[".py", ".md"]).documents()) == ["a.py", "b.md", "c.py.gz"]
    with pytest.raises(InputError, match=r"`data.path` must lead to files that end in \.rs, but there are none"):
        TextFiles(tmp_path, suffixes=[".rs"])


def test_globs_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x/1.txt", "x/2.txt", "y/z/3.txt", "y/4.md"):
        write(tmp_path / name, name)
    assert list(TextFiles(tmp_path / "x" / "*.txt").documents()) == ["x/1.txt", "x/2.txt"]
    assert list(TextFiles(f"{tmp_path}/**/*.txt").documents()) == ["x/1.txt", "x/2.txt", "y/z/3.txt"]
    monkeypatch.chdir(tmp_path)
    assert list(TextFiles(["y", "x/*.txt", "x/1.txt"]).documents()) == ["y/4.md", "y/z/3.txt", "x/1.txt", "x/2.txt"]
    with pytest.raises(InputError, match="there are none at `q\\*`"):
        TextFiles("q*")


def test_a_name_with_brackets_is_a_name(tmp_path: Path) -> None:
    file = write(tmp_path / "a[1].txt", "bracket")
    assert list(TextFiles(file).documents()) == ["bracket"]


def test_missing_and_empty_paths(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"`data.path` must name files or a directory that exist, but `.*gone` does not"
    ):
        TextFiles(tmp_path / "gone")
    with pytest.raises(InputError, match=r"`data.path` must lead to files, but there are none at"):
        TextFiles(tmp_path)


@pytest.mark.parametrize("separator", [None, ""])
def test_files_that_are_not_text_are_left_out_and_said(tmp_path: Path, separator: str | None) -> None:
    write(tmp_path / "a.txt", "good")
    write(tmp_path / "b.txt", "bad: é".encode("latin-1"))
    write(tmp_path / "c.bin", b"zero\0byte")
    write(tmp_path / "d.txt", "cut é".encode()[:-1])
    corpus = TextFiles(tmp_path, document_separator=separator)
    for _ in range(2):  # counted anew each time
        assert list(corpus.documents()) == ["good"]
        assert corpus.notes() == ["left out 3 files that are not UTF-8 text: b.txt, c.bin, d.txt"]
    (tmp_path / "c.bin").unlink()
    (tmp_path / "d.txt").unlink()
    one = TextFiles(tmp_path, document_separator=separator)
    list(one.documents())
    assert one.notes() == ["left out 1 file that is not UTF-8 text: b.txt"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "\ufeffone")
    write(tmp_path / "b.jsonl", "\ufeff" + lines("two"))
    assert list(TextFiles(tmp_path).documents()) == ["one", "two"]
    assert next(iter(TextFiles(tmp_path / "a.txt", document_separator="").documents())) == "one"


@pytest.mark.parametrize("separator", ["", "\n\n", "\\n\\n"])
def test_blank_lines_separate_documents(tmp_path: Path, separator: str) -> None:
    file = write(tmp_path / "a.txt", "\n\none\nmore\n\n\ntwo\r\n\r\nthree")
    assert list(TextFiles(file).documents()) == ["\n\none\nmore\n\n\ntwo\r\n\r\nthree"]
    found = list(TextFiles(file, document_separator=separator).documents())
    assert found == ["one\nmore\n", "two\r\n", "three"]


def test_a_line_separates_documents(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "one\n\nstill\n<|endoftext|>\ntwo <|endoftext|>\n")
    found = list(TextFiles(file, document_separator="<|endoftext|>").documents())
    assert found == ["one\n\nstill\n", "two <|endoftext|>\n"]


@pytest.mark.parametrize("bad", ["{not json", '{"text": "cut', "\xff"])
def test_a_broken_line_is_named_with_its_number(tmp_path: Path, bad: str) -> None:
    data = lines("fine").encode() + b"\n" + bad.encode("latin-1") + b"\n" + lines("later").encode()
    file = write(tmp_path / "a.jsonl", data)
    documents = TextFiles(file).documents()
    assert next(documents) == "fine"
    with pytest.raises(InputError, match=r"must be JSON, but line 3 of `.*a.jsonl` is not"):
        next(documents)


@pytest.mark.parametrize("row", ['{"body": "x"}', '{"text": 3}', '["text"]'])
def test_a_row_without_text_is_named(tmp_path: Path, row: str) -> None:
    file = write(tmp_path / "a.jsonl", row)
    with pytest.raises(InputError, match=r"line 1 of `.*` has no such field `text`"):
        list(TextFiles(file).documents())
    assert list(TextFiles(write(file, lines("x", field="body")), text_field="body").documents()) == ["x"]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_truncated_compressed_file(tmp_path: Path, ending: str) -> None:
    file = write(tmp_path / f"a.txt{ending}", "".join(f"{number} squared is {number**2}\n" for number in range(2000)))
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"must be a complete compressed file, but it is truncated or damaged"):
        list(TextFiles(file).documents())
    file.write_bytes(b"something else entirely")
    with pytest.raises(InputError, match=r"truncated or damaged"):
        list(TextFiles(file).documents())


def test_a_huge_document_has_to_say_what_separates_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_DOCUMENT_BYTES", 10)
    file = write(tmp_path / "a.txt", "ten bytes\n\nand more")
    with pytest.raises(InputError, match=r"at most 10 bytes, but `.*` has more; use `data.document_separator=''`"):
        list(TextFiles(file).documents())
    assert len(list(TextFiles(file, document_separator="").documents())) == 2


def test_the_fingerprint_follows_content_and_not_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        write(folder / "a.txt", "one")
        write(folder / "b.txt", "two")
    key = TextFiles(here).fingerprint()
    assert TextFiles(there).fingerprint() == key
    assert TextFiles(here, document_separator="").fingerprint() != key
    write(there / "b.txt", "tWo")
    assert TextFiles(there).fingerprint() != key
    write(there / "b.txt", "two")
    monkeypatch.setattr(text_files, "MAX_HASHED_BYTES", 3)
    by_time = TextFiles(here).fingerprint()
    assert by_time == TextFiles(here).fingerprint() != key


def test_sizes_are_known_where_nothing_is_compressed(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "12345")
    assert TextFiles(tmp_path).num_bytes() == 5
    write(tmp_path / "b.txt.gz", "12345")
    assert TextFiles(tmp_path).num_bytes() is None
    assert TextFiles(file).describe() == str(file)
    assert TextFiles(tmp_path).describe() == f"{tmp_path} (2 files)"


def test_no_path_is_the_standard_library(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "x")
    assert isinstance(text_corpus(), StandardLibrary)
    assert list(text_corpus(tmp_path).documents()) == ["x"]
