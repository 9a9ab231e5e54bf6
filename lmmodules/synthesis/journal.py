"""What was asked and answered, line by line, so that nothing is asked twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmmodules.errors import InputError
from lmmodules.synthesis.client import Decoding


class Journal:
    """Lines of JSON in a file, found again by key. What is not complete at its end, is as if it were not there.

    Args:
        path: The file, which need not exist; `None` keeps everything in memory.

    Raises:
        InputError: When a line before the last is damaged, or the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._lines: dict[str, dict[str, Any]] = {}
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._lines[key]

    def __contains__(self, key: str) -> bool:
        return key in self._lines

    def append(self, key: str, content: Mapping[str, Any]) -> None:
        """Write a line; one of the same key before it no longer counts.

        Args:
            key: From `attempt_key`.
            content: Plain values.
        """
        self._lines[key] = {"key": key, **content}
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self._lines[key]) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"`{path}` cannot be read as a journal: {error.strerror}") from error
        whole = content.rfind(b"\n") + 1
        for number, text in enumerate(content[:whole].splitlines(), start=1):
            try:
                line = json.loads(text)
                self._lines[str(line["key"])] = line
            except (ValueError, LookupError, TypeError) as error:
                raise InputError(
                    f"`{path}` is damaged in line {number}; remove that line, or name another place by `output=...`"
                ) from error
        if whole < len(content):  # the process was ended while it wrote
            with path.open("r+b") as file:
                file.truncate(whole)


def attempt_key(client: str, prompt: str, decoding: Decoding) -> str:
    """What a completion depends on, in 32 hexadecimal digits.

    Args:
        client: Name of the model.
        prompt: What it is given.
        decoding: How it writes.
    """
    told = json.dumps([client, prompt, dataclasses.asdict(decoding)], sort_keys=True)
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()
