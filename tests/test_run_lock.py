"""A directory belongs to one run at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lmmodules.errors import InputError
from lmmodules.run_lock import LOCK, only_run_in

pytestmark = pytest.mark.skipif(os.name != "posix", reason="this system has no locks on files")
HOLDER = """
import os, sys
from pathlib import Path
from lmmodules.run_lock import only_run_in
with only_run_in(Path(sys.argv[1])):
    if sys.argv[2:] == ["with a worker"] and os.fork() == 0:
        os.write(1, b"%d\\n" % os.getpid())
        sys.stdin.read()
        os._exit(0)
    os.write(1, b"%d\\n" % os.getpid())
    sys.stdin.read()
"""


@contextmanager
def running_in(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that keeps a directory until the block ends."""
    command = [sys.executable, "-c", HOLDER, str(directory), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip().isdigit()
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with running_in(tmp_path / "run") as first:
        sentence = (
            f"`paths.output_dir` must be free, but process {first.pid} is still writing to `{tmp_path / 'run'}`; use"
        )
        with pytest.raises(InputError, match=sentence), only_run_in(tmp_path / "run"):
            pass
        with (
            pytest.raises(InputError, match=r"`runs` must be free, .*, for example `runs=again`"),
            only_run_in(tmp_path / "run", "runs=again"),
        ):
            pass
        with only_run_in(tmp_path / "other"):
            assert (tmp_path / "other" / LOCK).read_text() == f"{os.getpid()}\n"
    with only_run_in(tmp_path / "run"):
        pass
    assert not list((tmp_path / "run").iterdir()), "nothing is left of it"


def test_a_killed_run_keeps_nobody_out_even_if_a_worker_outlives_it(tmp_path: Path) -> None:
    with running_in(tmp_path, "with a worker") as first:
        assert first.stdout is not None
        assert first.stdout.readline().strip().isdigit(), "both stand"
        first.kill()
        first.wait()
        assert (tmp_path / LOCK).read_text() == f"{first.pid}\n"
        with only_run_in(tmp_path):
            assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"


def test_a_file_that_was_taken_away_meanwhile_is_not_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run ends between opening its file and locking it: whoever locks that alone shuts nobody out."""
    import fcntl

    flock, taken = fcntl.flock, []

    def lock(*arguments: int) -> None:
        flock(*arguments)
        if not taken:
            taken.append(True)
            (tmp_path / LOCK).unlink()

    monkeypatch.setattr(fcntl, "flock", lock)
    with only_run_in(tmp_path):
        assert taken
        with pytest.raises(InputError, match="must be free"), only_run_in(tmp_path):
            pass


def test_an_error_ends_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), only_run_in(tmp_path):
        raise ZeroDivisionError
    with only_run_in(tmp_path):
        assert (tmp_path / LOCK).exists()


@pytest.mark.parametrize("error", [OSError(37, "No locks available"), OSError(95, "Not supported")])
def test_a_file_system_without_locks_keeps_nobody_out(
    tmp_path: Path, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("lmmodules.run_lock._fcntl.flock", refuse)
    with only_run_in(tmp_path):
        pass
