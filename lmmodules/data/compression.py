"""Files that may be compressed: what their names say, and how they are opened."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

from lmmodules.errors import require

_CHUNK = 1024 * 1024


def kind_and_compression(file: Path) -> tuple[str, str]:
    """Read a file's name: for example (`.jsonl`, `.gz`); plain text of any name is (`.txt`, ``).

    Args:
        file: A path.
    """
    name = file.name.lower()
    compression = next((ending for ending in (".gz", ".zst") if name.endswith(ending)), "")
    name = name.removesuffix(compression)
    if name.endswith((".jsonl", ".ndjson")):
        return ".jsonl", compression
    return (".parquet" if name.endswith(".parquet") else ".txt"), compression


def open_decompressed(file: Path) -> BinaryIO:
    """Open a file for reading the bytes that were compressed.

    Args:
        file: A path; its ending tells the compression.

    Raises:
        InputError: When zstandard is needed and missing.
    """
    _, compression = kind_and_compression(file)
    if compression == ".gz":
        return cast(BinaryIO, gzip.open(file, "rb"))
    if compression == ".zst":
        return cast(BinaryIO, io.BufferedReader(_ZstandardReader(file), _CHUNK))
    return file.open("rb")


def damage(compression: str) -> tuple[type[Exception], ...]:
    """What reading a truncated or damaged file raises.

    Args:
        compression: `.gz`, `.zst` or the empty string.
    """
    if compression == ".zst":
        return (EOFError, require("zstandard", "zstd", "reading `.zst` files").ZstdError)
    return (EOFError, zlib.error, gzip.BadGzipFile)


class _ZstandardReader(io.RawIOBase):
    """Frames of Zstandard, one after the other; unlike the package's own reader, it notices a missing end."""

    def __init__(self, file: Path) -> None:
        self._zstandard = require("zstandard", "zstd", f"reading `{file}`")
        self._file = file.open("rb")
        self._frame: Any = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._frame.unused_data if self._frame and self._frame.eof else b""
            data = data or self._file.read(_CHUNK)
            if not data:
                if self._frame and not self._frame.eof:
                    raise EOFError("the last frame has no end")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._zstandard.ZstdDecompressor().decompressobj()
            self._ready = memoryview(self._frame.decompress(data))
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()
