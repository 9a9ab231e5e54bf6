from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from lmmodules.errors import InputError
from lmmodules.evaluation import protection as protections
from lmmodules.evaluation.program_execution import run_programs
from lmmodules.evaluation.protection import PROCESS, PROTECTIONS, works
from lmmodules.evaluation.sandbox import Limits, Sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")


@pytest.fixture(params=list(PROTECTIONS))
def sandbox(request) -> Sandbox:
    if not works(request.param):
        pytest.skip(f"{request.param} does not work here")
    return Sandbox.of(Limits(seconds=20.0), PROTECTIONS[request.param])


def test_a_program_prints(sandbox: Sandbox) -> None:
    run = sandbox.run("import sys\nprint(6 * 7, '\u4f60')\nprint('said', file=sys.stderr)\n")
    assert (run.status, run.output, run.errors) == ("finished", "42 \u4f60\n", "said\n")
    assert run.seconds > 0


@pytest.mark.parametrize(
    "program", ["raise ValueError('no')", "import sys; sys.exit(3)", "import os; os.abort()", "def broken(:"]
)
def test_a_program_fails(sandbox: Sandbox, program: str) -> None:
    assert sandbox.run(program).status == "failed"


def test_a_program_that_does_not_end_is_ended() -> None:
    began = time.monotonic()
    assert Sandbox(timeout_seconds=1.0).run("while True: pass").status == "timeout"
    assert Sandbox(timeout_seconds=1.0).run("import time; time.sleep(99)").status == "timeout"
    assert time.monotonic() - began < 60


def test_limits_can_not_be_raised(sandbox: Sandbox) -> None:
    program = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))"
    run = sandbox.run(program)
    assert run.status == "failed" or os.geteuid() == 0


def test_memory_is_limited() -> None:
    small = Sandbox(timeout_seconds=20.0, memory_bytes=512 * 1024**2)
    assert small.run("print(len(bytearray(2**20)))").output == "1048576\n"
    run = small.run("bytearray(2**30)")
    assert run.status == "failed"
    assert "MemoryError" in run.errors


def test_output_is_limited() -> None:
    run = Sandbox(timeout_seconds=20.0, output_bytes=10_000).run("while True: print('x' * 99)")
    assert run.status == "failed"
    assert 9_000 < len(run.output) <= 10_000


def test_nothing_of_the_parent_is_inside(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMM_SECRET", "secret")
    program = "import os, sys\nprint(sorted(os.listdir()), 'LMM_SECRET' in os.environ, repr(sys.stdin.read()))"
    assert sandbox.run(program).output == "['program.py'] False ''\n"


def test_its_directory_is_removed(sandbox: Sandbox) -> None:
    run = sandbox.run("import os\nopen('left.txt', 'w').write('x')\nprint(os.getcwd())")
    assert run.status == "finished"
    assert not Path(run.output.strip()).exists()


def test_there_is_no_network() -> None:
    if not Sandbox().cuts_network:
        pytest.skip("namespaces are not allowed here")
    with socket.create_server(("127.0.0.1", 0)) as outside:
        program = f"""
import socket
try:
    socket.create_connection(("127.0.0.1", {outside.getsockname()[1]}), 5)
    print("connected")
except OSError as error:
    print("refused")
"""
        assert Sandbox(timeout_seconds=20.0).run(program).output == "refused\n"


def test_no_process_is_left_behind(sandbox: Sandbox, tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    program = f"""
import os, time
if os.fork() == 0:
    time.sleep(1)
    open({str(mark)!r}, "w").close()
"""
    assert sandbox.run(program).status == "finished"
    time.sleep(1.5)
    assert not mark.exists()


def test_several_programs(sandbox: Sandbox) -> None:
    runs = sandbox.run_all([f"print({number})" for number in range(5)])
    assert [run.output for run in runs] == [f"{number}\n" for number in range(5)]


def test_limits_must_be_positive() -> None:
    with pytest.raises(InputError, match="`timeout_seconds` must be positive, but is 0"):
        Sandbox(timeout_seconds=0)


def test_each_limit_must_be_positive() -> None:
    with pytest.raises(
        InputError, match=r"`processes` must be positive, but is 0; use `evaluation.limits.processes=32`"
    ):
        Limits(processes=0)


def test_the_run_says_what_kept_it_in(sandbox: Sandbox) -> None:
    assert sandbox.run("print(1)").protection == sandbox.protection.name
    assert sandbox.protection.isolates == ("not isolated" not in sandbox.protection.description)


def test_nothing_runs_unprotected_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protections, "strongest", lambda: PROCESS)
    with pytest.raises(InputError, match=r"programs cannot be isolated here.*`evaluation.protection=process`"):
        run_programs(["print(1)"])
    assert run_programs(["print(1)"], protection="process")[0].output == "1\n"


def test_an_unknown_protection() -> None:
    with pytest.raises(InputError, match="`protection` must be one of bubblewrap, namespaces, process, but is 'hope'"):
        run_programs([], protection="hope")


def test_there_must_be_a_worker() -> None:
    with pytest.raises(InputError, match="`workers` must be a whole number, at least 1, but is 0"):
        run_programs([], workers=0)
