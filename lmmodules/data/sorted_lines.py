"""Lines of a sorted file in a memory map, found by halving."""

from __future__ import annotations

import mmap
from collections.abc import Iterator


def find(lines: mmap.mmap, key: str) -> str | None:
    """The line that begins with a word and a space.

    Args:
        lines: Sorted, each with a line break.
        key: The word.
    """
    wanted = key.encode()
    low, high = 0, len(lines)
    while low < high:
        start = lines.rfind(b"\n", low, (low + high) // 2) + 1 or low
        end = lines.find(b"\n", start)
        head = lines[start:end].partition(b" ")[0]
        if head == wanted:
            return lines[start:end].decode("ascii", "replace")
        if head < wanted:
            low = end + 1
        else:
            high = start
    return None


def with_prefix(lines: mmap.mmap, prefix: bytes) -> Iterator[bytes]:
    """The lines that begin with a prefix.

    Args:
        lines: Sorted, each with a line break.
        prefix: Of one or more whole characters.
    """
    low, high = 0, len(lines)
    while low < high:
        start = lines.rfind(b"\n", low, (low + high) // 2) + 1 or low
        end = lines.find(b"\n", start)
        if lines[start : start + len(prefix)] < prefix:
            low = end + 1
        else:
            high = start
    while lines[low : low + len(prefix)] == prefix:
        end = lines.find(b"\n", low)
        yield lines[low:end]
        low = end + 1


def spread(lines: mmap.mmap, number: int) -> dict[int, str]:
    """Lines at equal distances, the first and the last among them, by the byte at which each begins.

    Args:
        lines: Each with a line break.
        number: How many to look for; short files have fewer.
    """
    last = len(lines) - 1
    starts = {lines.rfind(b"\n", 0, last * place // (number - 1)) + 1 for place in range(number)}
    return {start: lines[start : lines.find(b"\n", start)].decode("ascii", "replace") for start in sorted(starts)}
