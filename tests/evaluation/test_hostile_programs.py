"""Programs that mean harm: each is kept in, each is told why, and nothing outside has changed."""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import sys
import threading
from pathlib import Path

import pytest

from lmmodules.evaluation.program_execution import run_programs
from lmmodules.evaluation.protection import works
from lmmodules.evaluation.sandbox import Execution, Limits
from lmmodules.evaluation.system_calls import MACHINES, usable_filter
from lmmodules.evaluation.system_calls import REFUSED as REFUSED_CALLS

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux"),
]
MIB = 1024**2
LIMITS = Limits(30.0, 512 * MIB, processes=12, file_bytes=2 * MIB, disk_bytes=8 * MIB, output_bytes=64 * 1024)
SHORT = Limits(1.5, 512 * MIB, processes=12, file_bytes=2 * MIB, disk_bytes=8 * MIB, output_bytes=64 * 1024)


def attempt(action: str) -> str:
    """A program that tries something and says whether it could."""
    lines = "\n".join(f"    {line}" for line in action.strip().splitlines())
    return f"import os\ntry:\n{lines}\nexcept Exception as error:\n    print('refused')\nelse:\n    print('done')\n"


# What does not end by itself: the time limit ends it.
ENDLESS = {
    "endless_loop": "while True: pass",
    "sleeping": "import time\ntime.sleep(999)",
    "signals_ignored": "import signal\nfor s in (2, 15, 1, 24, 14): signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
    "swallows_everything": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "alarm_reset": "import signal\nsignal.alarm(0); signal.setitimer(signal.ITIMER_REAL, 0)\nwhile True: pass",
    "huge_power": "9 ** 9 ** 9",
    "regular_expression": "import re\nre.match(r'(a+)+$', 'a' * 60 + 'b')",
    "waits_for_a_lock": "import threading\nl = threading.Lock(); l.acquire(); l.acquire()",
    "stopped": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "atexit": "import atexit, time\natexit.register(time.sleep, 999)",
    "thread_stays": "import threading, time\nthreading.Thread(target=time.sleep, args=(999,)).start()",
    "reads_a_pipe": "import os\nr, w = os.pipe()\nos.read(r, 1)",
    "closed_outputs": "import os\nos.close(1); os.close(2)\nwhile True: pass",
}
# What a limit or the system ends: a part of the reason.
ENDED = {
    "memory_bomb": ("x = bytearray(2**31)", "memory"),
    "list_bomb": ("x = [0]\nwhile True: x += x", "memory"),
    "memory_of_many": (
        (
            "import os, time\nfor _ in range(3): os.fork()\nx = bytearray(200 * 2**20)\n"
            "for i in range(0, len(x), 4096): x[i] = 1"
            "\ntime.sleep(99)"
        ),
        "memory|processes|Resource temporarily|BlockingIOError|MemoryError",
    ),
    "fork_bomb": ("import os\nwhile True: os.fork()", "processes|temporarily|BlockingIOError"),
    "threads": (
        (
            "import threading, time\nfor _ in range(500):\n"
            "    threading.Thread(target=time.sleep, args=(99,), daemon=True).start()"
        ),
        "start new thread",
    ),
    "output_flood": ("while True: print('x' * 1000)", "printed more than 65536 bytes"),
    "error_flood": ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "printed more than 65536 bytes"),
    "large_file": ("open('big', 'wb').write(b'x' * 2**23)", "File too large"),
    "many_files": (
        "i = 0\nwhile True:\n    open(str(i), 'wb').write(b'x' * 2**20); i += 1",
        "No space left",
    ),
    "many_inodes": ("i = 0\nwhile True:\n    open(str(i), 'wb').close(); i += 1", "No space left"),
    "many_descriptors": ("x = []\nwhile True: x.append(open('/dev/null'))", "Too many open files"),
    "deep_recursion": ("def f(): f()\nf()", "RecursionError"),
    "stack": ("import sys\nsys.setrecursionlimit(10**9)\nf = lambda x: [f(x)]\nf(1)", "memory|SIGSEGV|RecursionError"),
    "huge_text": ("str(10 ** 10000)", "ValueError"),
    "aborts": ("import os\nos.abort()", "SIGABRT"),
    "null_pointer": ("import ctypes\nctypes.string_at(0)", "SIGSEGV"),
    "kills_itself": ("import os\nos.kill(os.getpid(), 9)", "SIGKILL"),
    "kills_its_session": ("import os\nos.killpg(0, 9)", "SIGKILL"),
    "exits": ("import os\nos._exit(7)", "exit code 7"),
    "asks": ("input()", "EOFError"),
    "nonsense": ("def broken(:", "SyntaxError"),
}
# What tries something that must be refused, or must find nothing; without walls none of it would do harm.
REFUSED = {
    "reads_the_home": attempt("open({home!r} + '/' + {entry!r})"),
    "reads_a_secret": attempt("open({secret!r}).read()"),
    "reads_the_users": attempt("open('/etc/passwd').read()"),
    "reads_the_shadow": attempt("open('/etc/shadow').read()"),
    "reads_the_checkout": attempt("open({checkout!r}).read()"),
    "imports_us": attempt("import lmmodules.errors"),
    "writes_outside": attempt("open({written!r}, 'w').write('x')"),
    "writes_to_the_root": attempt("if not os.access('/', os.W_OK): raise OSError"),
    "writes_to_usr": attempt("if not os.access('/usr', os.W_OK): raise OSError"),
    "writes_to_the_interpreter": attempt("import sys\nif not os.access(sys.prefix, os.W_OK): raise OSError"),
    "reads_a_device": attempt("os.close(os.open('/dev/mem', os.O_RDONLY))"),
    "link_out": attempt("os.symlink({secret!r}, 'link')\nopen('link').read()"),
    "dots_out": attempt("open('../../../../..' + {secret!r}).read()"),
    "root_of_another": attempt("open('/proc/1/root' + {secret!r}).read()"),
    "directory_of_another": attempt("open('/proc/1/cwd' + {secret!r}).read()"),
    "environment_of_another": attempt("if b'LMM_SECRET' not in open('/proc/1/environ', 'rb').read(): raise OSError"),
    "memory_of_another": attempt("open('/proc/1/mem', 'r+b').read(1)"),
    "core_pattern": attempt("os.close(os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY))"),
    "reaches_the_parent": attempt("os.kill({parent}, 0)"),
    "traces_the_parent": attempt("import ctypes\nif ctypes.CDLL(None).ptrace(16, {parent}, 0, 0) != 0: raise OSError"),
    "becomes_root": attempt("os.setuid(0)"),
    "mounts": attempt(
        "import ctypes\nif ctypes.CDLL(None).mount(b'none', b'/inside', b'tmpfs', 0, None) != 0: raise OSError"
    ),
    "new_namespaces": attempt("import ctypes\nif ctypes.CDLL(None).unshare(0x10000000) != 0: raise OSError"),
    "changes_root": attempt("os.chroot('.')"),
    "raises_limits": attempt("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))"),
    "nicer": attempt("os.nice(-10)"),
    "connects": attempt("import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)"),
    "datagram": attempt(
        "import socket, time\ns = socket.socket(2, 2)\ns.connect(('127.0.0.1', {port}))\n"
        "s.send(b'x')\ntime.sleep(0.3)\ns.send(b'x')"
    ),
    "asks_names": attempt("import socket\nsocket.getaddrinfo('example.org', 80)"),
    "raw_packets": attempt("import socket\nsocket.socket(17, 3)"),
    "posix_module": attempt("import posix\nif posix.system('cat ' + {secret!r} + ' 2>/dev/null') != 0: raise OSError"),
    "reloaded": attempt("import importlib\nimportlib.reload(os).stat({secret!r})"),
    "by_c": attempt("import ctypes\nif ctypes.CDLL(None).open({secret!r}.encode(), 0) < 0: raise OSError"),
}
# What no limit of a process counts, or no namespace parts.
WHICH = MACHINES.get(platform.machine(), (0, 0))[0]
NUMBERS = {f"{{{name}}}": str(numbers[WHICH]) for name, numbers in {**REFUSED_CALLS, "clone": (56, 220)}.items()}
CALL = (
    "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "if libc.{} < 0: raise OSError(ctypes.get_errno(), 'refused')"
)
CALLS = {
    "memory_in_a_file_of_none": attempt("os.memfd_create('x')"),
    "memory_of_the_system": attempt(CALL.format("shmget(0, 2**20, 0o1600)")),
    "messages_of_the_system": attempt(CALL.format("msgget(0, 0o1600)")),
    "semaphores_of_the_system": attempt(CALL.format("semget(0, 9, 0o1600)")),
    "secret_memory": attempt(CALL.format("syscall(447, 0)")),
    "machine_next_door": attempt("import socket\nsocket.socket(40, 1)"),
    "encryption_of_the_kernel": attempt("import socket\nsocket.socket(38, 5)"),
    "pair_of_another_family": attempt(
        "import socket\ntry: socket.socketpair(40, 1)\nexcept OSError as error: assert error.errno != 97"
    ),
    "ring_of_requests": attempt(CALL.format("syscall(425, 1, ctypes.create_string_buffer(120))")),
    "traces_itself": attempt(CALL.format("ptrace(0, 0, 0, 0)")),
    "clones_into_namespaces": attempt(
        "pid = __import__('ctypes').CDLL(None).syscall({clone}, 0x10000000 | 17, 0, 0, 0, 0)\n"
        "if pid == 0: os._exit(0)\nif pid < 0: raise OSError"
    ),
    "new_clone": attempt(
        "import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "libc.syscall(435, None, 0)\nif ctypes.get_errno() == errno.ENOSYS: raise OSError"
    ),
    "key_of_the_session": attempt(CALL.format("syscall({keyctl}, 10, -3, b'user', b'lmm_secret', 0)")),
    "leaves_a_key": attempt(CALL.format("syscall({add_key}, b'user', b'lmm_left', b'x', 1, -4)")),
    "lists_the_keys": attempt("if 'lmm_secret' not in open('/proc/keys').read(): raise OSError"),
    "watches_the_kernel": attempt(
        CALL.format("syscall({perf_event_open}, ctypes.create_string_buffer(128), 0, -1, -1, 0)")
    ),
    "catches_page_faults": attempt(CALL.format("syscall({userfaultfd}, 1)")),
    "program_in_the_kernel": attempt(CALL.format("syscall({bpf}, 0, ctypes.create_string_buffer(128), 128)")),
    "opens_a_file_system": attempt(CALL.format("syscall(430, b'tmpfs', 0)")),
}
REFUSED |= CALLS
# What goes well and leaves nothing.
HARMLESS = {
    "daemon": (
        (
            "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        for _ in range(99):"
            "\n            time.sleep(1)\n    os._exit(0)\nprint('left')"
        ),
        "left\n",
    ),
    "no_variables": ("import os\nprint('LMM_SECRET' in os.environ, os.environ['HOME'])", "False /inside\n"),
    "empty_directory": ("import os\nprint(os.listdir('.'))", "['program.py']\n"),
    "claims_to_have_passed": ("print('passed')\nimport sys\nsys.exit(0)", "passed\n"),
    "nobody_else": ("import os\nprint(sum(name.isdigit() for name in os.listdir('/proc')) <= 3)", "True\n"),
    "walks_frames": (
        "import sys\nframe = sys._getframe()\nprint(frame.f_back)",
        "None\n",
    ),
}


class Outside:
    """What must not change."""

    def __init__(self, directory: Path) -> None:
        self.secret = directory / "secret.txt"
        self.secret.write_text("secret")
        self.written = directory / "written.txt"
        self.server = socket.create_server(("127.0.0.1", 0))
        self.heard: list[object] = []
        threading.Thread(target=self.listen, daemon=True).start()
        if platform.machine() in MACHINES:  # a key in the keyring of the session, which programs would inherit
            ctypes.CDLL(None).syscall(REFUSED_CALLS["add_key"][WHICH], b"user", b"lmm_secret", b"x", 1, -3)

    def listen(self) -> None:
        while True:
            try:
                self.heard.append(self.server.accept()[1])
            except OSError:
                return

    def fill(self, program: str) -> str:
        for name, value in {
            "{home!r}": repr(str(Path.home())),
            "{entry!r}": repr(next((entry.name for entry in Path.home().iterdir() if entry.is_file()), "none")),
            "{secret!r}": repr(str(self.secret)),
            "{checkout!r}": repr(str(Path(__file__).resolve())),
            "{written!r}": repr(str(self.written)),
            "{parent}": str(os.getpid()),
            "{port}": str(self.server.getsockname()[1]),
            **NUMBERS,
        }.items():
            program = program.replace(name, value)
        return program


def mine() -> set[int]:
    """The children of this process and theirs."""
    from lmmodules.evaluation.sandbox import _descendants

    return set(_descendants(os.getpid()))


@pytest.fixture(scope="module", params=["bubblewrap", "namespaces"])
def battery(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Execution], Outside, set[int]]:
    if not works(request.param):
        pytest.skip(f"{request.param} does not work here")
    outside = Outside(tmp_path_factory.mktemp("outside"))
    before = mine()
    os.environ["LMM_SECRET"] = "secret"
    try:
        programs = {name: program for name, (program, _) in {**ENDED, **HARMLESS}.items()} | REFUSED
        filled = [outside.fill(program) for program in programs.values()]
        runs = run_programs(filled, LIMITS, workers=8, protection=request.param)
        endless = run_programs(list(ENDLESS.values()), SHORT, workers=8, protection=request.param)
    finally:
        del os.environ["LMM_SECRET"]
    outside.server.close()
    named = dict(zip(programs, runs, strict=True)) | dict(zip(ENDLESS, endless, strict=True))
    return named, outside, mine() - before


def test_there_are_enough() -> None:
    assert len(ENDLESS) + len(ENDED) + len(REFUSED) >= 80


@pytest.mark.parametrize("name", ENDLESS)
def test_time_runs_out(battery, name: str) -> None:
    run = battery[0][name]
    assert (run.status, run.reason[:10]) == ("timeout", "ran longer"), run


@pytest.mark.parametrize("name", ENDED)
def test_it_is_told_why_it_ended(battery, name: str) -> None:
    import re

    run = battery[0][name]
    if name == "many_inodes" and run.protection == "bubblewrap":
        pytest.skip("bubblewrap counts bytes, not files")
    assert run.status == "failed", run
    assert re.search(ENDED[name][1], run.reason), run.reason


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(battery, name: str) -> None:
    run = battery[0][name]
    if name in CALLS and usable_filter() is None:
        pytest.skip("system calls are not filtered here")
    assert (run.status, run.output) == ("finished", "refused\n"), run


@pytest.mark.parametrize("name", HARMLESS)
def test_it_finds_and_leaves_nothing(battery, name: str) -> None:
    run = battery[0][name]
    assert (run.status, run.output, run.reason) == ("finished", HARMLESS[name][1], ""), run


def test_nothing_outside_has_changed(battery) -> None:
    _, outside, left = battery
    assert outside.secret.read_text() == "secret"
    assert not outside.written.exists()
    assert not outside.heard
    assert not left, "processes are left behind"
    assert not list(outside.secret.parent.glob("sandbox*"))


def test_eight_at_once() -> None:
    if not works("namespaces") and not works("bubblewrap"):
        pytest.skip("programs cannot be isolated here")
    program = (
        "import time\nbegan = time.monotonic()\nwhile time.process_time() < 0.3: pass\nprint(began, time.monotonic())"
    )
    spans = [tuple(map(float, run.output.split())) for run in run_programs([program] * 8, Limits(seconds=60), 8)]
    assert all(len(span) == 2 for span in spans)
    overlapping = sum(a < d and c < b for at, (a, b) in enumerate(spans) for c, d in spans[at + 1 :])
    assert overlapping >= 4
