from __future__ import annotations

import errno
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from lmmodules.data import cache
from lmmodules.data.cache import default_cache_dir, make_once
from lmmodules.errors import InputError


def write_hello(path: Path) -> None:
    path.mkdir()
    (path / "file").write_text("hello")


def test_a_directory_is_made_once(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    calls = []

    def write(path: Path) -> None:
        calls.append(path)
        assert not target.exists()
        write_hello(path)

    assert make_once(target, write) == make_once(target, write) == target
    assert (target / "file").read_text() == "hello"
    assert len(calls) == 1
    assert sorted(path.name for path in target.parent.iterdir()) == ["target", "target.lock"]


@pytest.mark.parametrize("failure", [RuntimeError("no"), KeyboardInterrupt(), InputError("wrong"), OSError(5, "io")])
def test_a_failure_leaves_nothing(tmp_path: Path, failure: BaseException) -> None:
    def write(path: Path) -> None:
        write_hello(path)
        raise failure

    with pytest.raises(type(failure)):
        make_once(tmp_path / "target", write)
    assert [path.name for path in tmp_path.iterdir()] == ["target.lock"]
    make_once(tmp_path / "target", write_hello)  # and the lock is free


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(tmp_path: Path, number: int) -> None:
    def write(path: Path) -> None:
        write_hello(path)
        raise OSError(number, os.strerror(number))

    with pytest.raises(
        InputError, match=r"`data.cache_dir` must have room .* full and nothing was kept; use `data.cache_dir=DIR`"
    ):
        make_once(tmp_path / "target", write)
    assert [path.name for path in tmp_path.iterdir()] == ["target.lock"]


def test_a_place_that_can_not_be_written_to(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        raise PermissionError(errno.EACCES, "denied")

    with pytest.raises(InputError, match=r"`data.cache_dir` must be a directory that can be written to"):
        make_once(tmp_path / "target", write)


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    write_hello(tmp_path / "target.partial-1")
    make_once(tmp_path / "target", write_hello)
    assert not (tmp_path / "target.partial-1").exists()


def test_without_locks_the_first_to_finish_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_fcntl", None)
    target = tmp_path / "target"

    def write(path: Path) -> None:
        write_hello(target)  # somebody else, meanwhile
        path.mkdir()
        (path / "file").write_text("late")

    make_once(target, write)
    assert (target / "file").read_text() == "hello"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def _make_slowly(target: Path, log: Path, started: object) -> None:
    def write(path: Path) -> None:
        with log.open("a") as file:
            file.write("written\n")
        started.set()  # type: ignore[attr-defined]
        time.sleep(0.3)
        write_hello(path)

    make_once(target, write)
    assert (target / "file").read_text() == "hello"


def test_of_two_processes_one_works_and_the_other_waits(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    started = context.Event()
    arguments = (tmp_path / "target", tmp_path / "log", started)
    first = context.Process(target=_make_slowly, args=arguments)
    second = context.Process(target=_make_slowly, args=arguments)
    first.start()
    started.wait(10)  # so that the second finds the lock taken
    second.start()
    for process in (first, second):
        process.join(20)
        assert process.exitcode == 0
    assert (tmp_path / "log").read_text() == "written\n"


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LMM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "lmmodules"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "lmmodules"
    monkeypatch.setenv("LMM_CACHE", "~/own")
    assert default_cache_dir() == tmp_path / "own"
