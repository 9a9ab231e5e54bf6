"""Rows of every kind of file, and what is said of those that are not what they must be."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from lmmodules.data.row_files import read_file
from lmmodules.errors import InputError

WANTED = {"sentence": "data.text_columns", "label": "data.label_column"}
EXPECTED = {"sentence": ['it is "fine', "worse, much"], "label": ["1", "0"]}


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_tsv_is_cut_at_tabs_and_quotes_are_characters(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", '\ufeffid\tsentence\tlabel\r\n7\tit is "fine\t1\r\n\r\n8\tworse, much\t0')
    assert read_file(file, WANTED) == (EXPECTED, [1, 2], 0)


def test_csv_may_quote_and_name_its_delimiter(tmp_path: Path) -> None:
    text = 'label,sentence\n1,"it is ""fine"\n0,"worse, much"\n'
    assert read_file(write(tmp_path / "a.csv", text), WANTED)[0] == EXPECTED
    text = 'label;sentence\n1;"it is ""fine"\n0;worse, much\n'
    assert read_file(write(tmp_path / "b.csv", text), WANTED, delimiter=";")[0] == EXPECTED


def test_columns_without_a_header_are_numbers(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", 'x\t1\tit is "fine\ny\t0\tworse, much\n')
    columns, numbers, _ = read_file(file, {"2": "data.text_columns", "1": "data.label_column"}, header=False)
    assert columns == {"2": EXPECTED["sentence"], "1": EXPECTED["label"]}
    assert numbers == [1, 2]


def test_json_lines_compressed_and_parquet(tmp_path: Path) -> None:
    rows = [dict(zip(EXPECTED, values, strict=True)) for values in zip(*EXPECTED.values(), strict=True)]
    text = "\n".join(json.dumps(row) for row in rows)
    assert read_file(write(tmp_path / "a.jsonl", text), WANTED)[0] == EXPECTED
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    assert read_file(tmp_path / "a.jsonl.gz", WANTED)[0] == EXPECTED
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table(EXPECTED), tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet", WANTED)[0] == EXPECTED


def test_malformed_rows_are_refused_or_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", "sentence\tlabel\ngood\t1\nbad\nfine\t0\n")
    with pytest.raises(
        InputError, match=r"as many columns as the first line of `.*a.tsv` \(2\), but row 2 has 1; use .*skip_incomplet"
    ):
        read_file(file, WANTED)
    columns, numbers, skipped = read_file(file, WANTED, skip_malformed=True)
    assert (columns["label"], numbers, skipped) == (["1", "0"], [1, 3], 1)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.tsv", "sentence\tmark\nx\t1\n",
         r"which are sentence, mark, but is `label`; use for example `data.label_column=mark`"),
        ("a.tsv", "text\tlabel\nx\t1\n",
         r"`data.text_columns` must .* which are text, label, but is `sentence`; use .*`data.text_columns=\[text\]`"),
        ("a.csv", "sentence\tlabel\nx\t1\n", "has a single column, `sentence\tlabel`; name the file `.tsv`"),
        ("a.csv", "sentence,label\n", "must hold rows, but there are none"),
        ("a.csv", "", "must hold rows, but there are none"),
        ("a.jsonl", '{"sentence": "x"\n', "must be JSON, but line 1 is not"),
        ("a.jsonl", "[1]\n", "must be a JSON object, but line 1 is not"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(name: str, text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        read_file(write(tmp_path / name, text), WANTED)


def test_other_encodings_and_damage_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes("sentence\tlabel\nétoile\t1\n".encode("latin-1"))
    with pytest.raises(InputError, match="must be UTF-8, but byte 15 is not"):
        read_file(tmp_path / "a.tsv", WANTED)
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"sentence\tlabel\nx\t1\n" * 99)[:-9])
    with pytest.raises(InputError, match="truncated or damaged"):
        read_file(tmp_path / "a.tsv.gz", WANTED)
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="must be a Parquet file"):
        read_file(tmp_path / "a.parquet", WANTED)
