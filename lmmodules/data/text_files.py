"""A corpus in files: text, JSON lines and Parquet, plain or compressed."""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from lmmodules.data.compression import damage, kind_and_compression, open_decompressed
from lmmodules.data.corpora import Corpus, StandardLibrary, skipped_sentence
from lmmodules.errors import InputError, require

PathLike = str | os.PathLike[str]

MAX_DOCUMENT_BYTES = 1024**3
"""A plain text file is read whole when it is one document; a longer one has to say what separates its documents."""
MAX_HASHED_BYTES = 1024**3
"""Up to this size the fingerprint of a corpus hashes its content; beyond, names, sizes and times."""

_CHUNK = 1024 * 1024


def text_corpus(
    path: PathLike | Sequence[PathLike] | None = None,
    *,
    suffixes: Sequence[str] | None = None,
    text_field: str = "text",
    document_separator: str | None = None,
) -> Corpus:
    """The text at a path, or the standard library of the interpreter when there is no path.

    Args:
        path: See `TextFiles`.
        suffixes: See `TextFiles`.
        text_field: See `TextFiles`.
        document_separator: See `TextFiles`.
    """
    if path is None:
        return StandardLibrary()
    return TextFiles(path, suffixes=suffixes, text_field=text_field, document_separator=document_separator)


class TextFiles(Corpus):
    """Files with text, in the order of their names.

    `.jsonl` (also `.ndjson`) and `.parquet` hold a document in `text_field` of every row; any other file is plain
    text. Each may be compressed (`.gz`, `.zst`). Files that are not UTF-8, or hold a zero byte, are left out and
    counted. In directories, names that begin with a dot are passed over.

    Args:
        path: A file, a directory (read with all below it), a glob (`**` crosses directories), or a list of these.
        suffixes: Take only files with these endings, for example `[".py", ".md"]`; compressed ones included.
        text_field: Field or column with the text, in `.jsonl` and `.parquet`.
        document_separator: A line that stands between the documents of a plain text file, for example
            `<|endoftext|>`; the empty string, or nothing but line breaks, is a blank line. None makes every file one
            document.

    Raises:
        InputError: When a path does not exist, or nothing is found there.
    """

    def __init__(
        self,
        path: PathLike | Sequence[PathLike],
        *,
        suffixes: Sequence[str] | None = None,
        text_field: str = "text",
        document_separator: str | None = None,
    ) -> None:
        entries = [path] if isinstance(path, (str, os.PathLike)) else list(path)
        if not entries or "" in entries:
            raise InputError(
                "`data.path` must name files or directories, but is empty; use `data.path=.` for the working directory "
                "or `data.path=null` for the standard library of Python"
            )
        self.paths = [Path(entry) for entry in entries]
        # One ending is as good as a list of one.
        self.suffixes = None if suffixes is None else (suffixes,) if isinstance(suffixes, str) else tuple(suffixes)
        self.text_field = text_field
        if document_separator is not None:
            # A command line passes a line break as a backslash and a letter.
            document_separator = document_separator.replace("\\n", "\n").strip("\r\n")
        self.document_separator = document_separator
        self._skipped: list[str] = []
        # Found once: a corpus does not change while a run reads it.
        self.files = self._find()

    def documents(self) -> Iterator[str]:
        """The documents of all files.

        Raises:
            InputError: When a compressed file is damaged.
        """
        self._skipped = []
        for file in self.files:
            kind, compression = kind_and_compression(file)
            try:
                if kind == ".parquet":
                    yield from self._parquet(file)
                elif kind == ".jsonl":
                    yield from self._json_lines(file)
                else:
                    yield from self._plain(file)
            except damage(compression) as error:
                raise InputError(
                    f"`{file}` must be a complete compressed file, but it is truncated or damaged"
                ) from error

    def fingerprint(self) -> str:
        """A hash of the content, wherever it lies; above 1 GiB, of names, sizes and modification times instead."""
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        digest = hashlib.blake2b(repr((self.text_field, self.document_separator)).encode(), digest_size=8)
        statuses = [file.stat() for file in self.files]
        by_content = sum(status.st_size for status in statuses) <= MAX_HASHED_BYTES
        for file, status in zip(self.files, statuses, strict=True):
            kind, compression = kind_and_compression(file)
            digest.update(f"{kind} {compression} {status.st_size}\n".encode())
            if by_content:
                with file.open("rb") as stream:
                    while chunk := stream.read(_CHUNK):
                        digest.update(chunk)
            else:
                digest.update(f"{file.name} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def describe(self) -> str:
        """For example `corpus/ (12 files)`."""
        names = ", ".join(str(path) for path in self.paths[:2]) + (", ..." if len(self.paths) > 2 else "")
        return names if names == str(self.files[0]) else f"{names} ({len(self.files)} files)"

    def num_bytes(self) -> int | None:
        """The size of the files, where none is compressed (and Parquet always is)."""
        kinds = {kind_and_compression(file) for file in self.files}
        if kinds <= {(".txt", ""), (".jsonl", "")}:
            return sum(file.stat().st_size for file in self.files)
        return None

    def notes(self) -> list[str]:
        """Files that are not text."""
        return [skipped_sentence(self._skipped)] if self._skipped else []

    def _find(self) -> list[Path]:
        found: list[Path] = []
        for path in self.paths:
            expanded = path.expanduser()
            if expanded.is_file():
                found.append(expanded)
            elif expanded.is_dir():
                found += self._accepted(_walk(expanded))
            elif any(sign in str(path) for sign in "*?["):
                found += self._accepted(_matches(expanded))
            else:
                raise InputError(f"`data.path` must name files or a directory that exist, but `{path}` does not")
        unique: dict[Path, Path] = {}
        for file in found:
            unique.setdefault(file.resolve(), file)
        if not unique:
            wanted = "files" if self.suffixes is None else f"files that end in {', '.join(self.suffixes)}"
            named = ", ".join(str(path) for path in self.paths)
            raise InputError(f"`data.path` must lead to {wanted}, but there are none at `{named}`")
        return list(unique.values())

    def _accepted(self, files: Iterator[Path]) -> list[Path]:
        if self.suffixes is None:
            return list(files)
        return [file for file in files if file.name.removesuffix(".gz").removesuffix(".zst").endswith(self.suffixes)]

    def _plain(self, file: Path) -> Iterator[str]:
        if self.document_separator is not None:
            if not _is_text(file):
                self._skipped.append(file.name)
                return
            yield from self._separated(file, self.document_separator)
            return
        with open_decompressed(file) as stream:
            content = stream.read(MAX_DOCUMENT_BYTES + 1)
        if len(content) > MAX_DOCUMENT_BYTES:
            raise InputError(
                f"a file that is one document must have at most {MAX_DOCUMENT_BYTES} bytes, but `{file}` has more; "
                "use `data.document_separator=''` if blank lines separate its documents"
            )
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            self._skipped.append(file.name)
            return
        if "\0" in text:
            self._skipped.append(file.name)
            return
        yield text

    def _separated(self, file: Path, separator: str) -> Iterator[str]:
        with open_decompressed(file) as stream:
            lines: list[str] = []
            for line in io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""):
                if line.rstrip("\r\n") == separator:
                    if lines:
                        yield "".join(lines)
                    lines = []
                else:
                    lines.append(line)
            if lines:
                yield "".join(lines)

    def _json_lines(self, file: Path) -> Iterator[str]:
        with open_decompressed(file) as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except ValueError as error:
                    raise InputError(
                        f"every line of a `.jsonl` file must be JSON, but line {number} of `{file}` is not"
                    ) from error
                text = row.get(self.text_field) if isinstance(row, dict) else None
                if not isinstance(text, str):
                    raise InputError(
                        f"`data.text_field` must name a field with text, but line {number} of `{file}` has no such "
                        f"field `{self.text_field}`"
                    )
                yield text

    def _parquet(self, file: Path) -> Iterator[str]:
        parquet = require("pyarrow.parquet", "parquet", f"reading `{file}`")
        arrow = require("pyarrow", "parquet", f"reading `{file}`")
        _, compression = kind_and_compression(file)
        source = file if not compression else io.BytesIO(open_decompressed(file).read())
        try:
            table = parquet.ParquetFile(source)
        except arrow.ArrowInvalid as error:
            raise InputError(f"`{file}` must be a Parquet file, but it is truncated or of another kind") from error
        columns = table.schema_arrow.names
        if self.text_field not in columns:
            raise InputError(
                f"`data.text_field` must be a column of `{file}` ({', '.join(columns)}), but is `{self.text_field}`"
            )
        for batch in table.iter_batches(batch_size=1024, columns=[self.text_field]):
            for text in batch.column(0).to_pylist():
                if text is not None:
                    yield str(text)


def _walk(directory: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(directory):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        for name in sorted(names):
            path = Path(root) / name
            if not name.startswith(".") and path.is_file():
                yield path


def _matches(pattern: Path) -> Iterator[Path]:
    # Path.glob wants a pattern below a folder, and this one may be absolute.
    folder = Path(pattern.anchor)
    for path in sorted(folder.glob(str(pattern.relative_to(pattern.anchor)))):
        if path.is_file():
            yield path


def _is_text(file: Path) -> bool:
    """Whether a file is UTF-8 without zero bytes, in memory that does not grow with it."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with open_decompressed(file) as stream:
            while chunk := stream.read(_CHUNK):
                if b"\0" in chunk:
                    return False
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
