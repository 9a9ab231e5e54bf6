"""The floating-point mode holds where attention is computed: in torch's own threads."""

from __future__ import annotations

import os
import subprocess
import sys
from ast import literal_eval
from typing import Any

import pytest
import torch

from lmmodules.models import floating_point
from lmmodules.models.floating_point import denormals_are_flushed, flush_denormals

COUNT_DENORMALS = """
import runpy, torch

module = runpy.run_path({path!r})  # without the rest of the package, which takes a while to import
{before}
answer = module["flush_denormals"]()
numbers = torch.full((1 << 20,), 2e-38) * 0.25
left = int((numbers.view(torch.int32) != 0).sum())
print(torch.get_num_threads(), answer, left, module["denormals_are_flushed"]())
"""


def count_denormals(before: str = "", **environment: str) -> list[Any]:
    """Threads, the function's answer, denormals left of a million, and what the probe says, in a fresh process."""
    process = subprocess.run(
        [sys.executable, "-c", COUNT_DENORMALS.format(path=floating_point.__file__, before=before)],
        env={**os.environ, "OMP_NUM_THREADS": "2", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [literal_eval(word) for word in process.stdout.split()]


def supported() -> bool:
    was_on = (torch.full((1,), 2e-38) * 0.25).view(torch.int32).item() == 0
    return bool(torch.set_flush_denormal(was_on)) or bool(torch.set_flush_denormal(False))


needs_mode = pytest.mark.skipif(not supported(), reason="this processor cannot flush denormals")


@needs_mode
def test_every_thread_flushes() -> None:
    assert count_denormals() == [2, True, 0, True]


@needs_mode
def test_too_late_is_noticed() -> None:
    threads, answer, left, noticed = count_denormals(before="torch.ones(1 << 20).sum()")
    assert (threads, answer) == (2, True)
    assert left > 0, "the thread that existed before goes on as it was"
    assert noticed is False


def test_a_user_may_opt_out() -> None:
    assert count_denormals(LMM_FLUSH_DENORMALS="0") == [2, False, 1 << 20, False]


@needs_mode
def test_turning_it_on_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(floating_point.SWITCH, raising=False)
    torch.set_flush_denormal(False)
    floating_point._try_threads.cache_clear()
    assert not denormals_are_flushed()
    try:
        assert flush_denormals()
        if torch.get_num_threads() == 1:
            assert denormals_are_flushed()
    finally:
        torch.set_flush_denormal(False)
        floating_point._try_threads.cache_clear()
