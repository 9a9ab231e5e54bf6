from __future__ import annotations

import errno
import platform
import re
import struct
import sys
from pathlib import Path

import pytest

from lmmodules.evaluation import protection as protections
from lmmodules.evaluation import system_calls
from lmmodules.evaluation.protection import NAMESPACES, PROTECTIONS, works
from lmmodules.evaluation.sandbox import Limits, Sandbox
from lmmodules.evaluation.system_calls import MACHINES, REFUSED, filter_of, usable_filter

ALLOWED, KILLED = "allowed", "killed"


def verdict(machine: str, number: int, argument: int = 0, *, audited: int | None = None) -> str | int:
    """What the kernel makes of a call: the instructions of a filter, run by hand."""
    instructions = filter_of(machine)
    assert instructions is not None
    data = struct.pack("=IIQQ", number, MACHINES[machine][1] if audited is None else audited, 0, argument)
    at = loaded = 0
    while True:
        code, skipped_if, skipped_else, value = struct.unpack_from("=HBBI", instructions, 8 * at)
        at += 1
        if code == 0x20:
            loaded = struct.unpack_from("=I", data, value)[0]
        elif code == 0x06:
            told = {0x7FFF0000: ALLOWED, 0x80000000: KILLED}
            return told[value] if value in told else value & 0xFFFF
        else:
            met = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[code]
            at += skipped_if if met else skipped_else


@pytest.mark.parametrize("machine", MACHINES)
def test_every_call_on_every_machine(machine: str) -> None:
    which, _ = MACHINES[machine]
    assert {verdict(machine, numbers[which]) for numbers in REFUSED.values()} == {errno.EPERM}
    known = {numbers[which] for numbers in REFUSED.values()}
    conditional = {(41, 198)[which], (53, 199)[which], 435}
    others = [number for number in range(500) if number not in known | conditional]
    assert {verdict(machine, number) for number in others} == {ALLOWED}


@pytest.mark.parametrize(("machine", "socket", "pair", "clone"), [("x86_64", 41, 53, 56), ("aarch64", 198, 199, 220)])
def test_some_calls_by_what_is_asked(machine: str, socket: int, pair: int, clone: int) -> None:
    assert [family for family in range(50) if verdict(machine, socket, family) == ALLOWED] == [1, 2, 10, 16]
    assert verdict(machine, pair, 1) == ALLOWED
    assert verdict(machine, pair, 40) == errno.EAFNOSUPPORT
    assert verdict(machine, clone, 0x003D0F00 | 17) == ALLOWED  # a thread
    for bit in (17, 25, 26, 27, 28, 29, 30):
        assert verdict(machine, clone, 1 << bit | 17) == errno.EPERM
    assert verdict(machine, 435) == errno.ENOSYS


def test_calls_in_the_manner_of_another_machine() -> None:
    assert verdict("x86_64", 102, audited=0x40000003) == KILLED  # i386, where 102 is `socketcall`
    assert verdict("x86_64", 0x40000000 + 319) == errno.EPERM  # x32
    assert filter_of("riscv64") is None


@pytest.mark.parametrize(
    ("which", "header"),
    [(0, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), (1, "/usr/include/asm-generic/unistd.h")],
)
def test_the_numbers_are_those_of_the_kernel(which: int, header: str) -> None:
    if not Path(header).is_file():
        pytest.skip(f"`{header}` is not here")
    defined = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text(), re.M)
    numbers = {name: int(number) for name, number in defined}
    assert {name: numbers.get(name, pair[which]) for name, pair in REFUSED.items()} == {
        name: pair[which] for name, pair in REFUSED.items()
    }


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="system calls are those of Linux")


@pytest.fixture(params=list(PROTECTIONS))
def sandbox(request) -> Sandbox:
    if not works(request.param):
        pytest.skip(f"{request.param} does not work here")
    return Sandbox.of(Limits(seconds=120.0), PROTECTIONS[request.param])


@pytest.mark.parametrize(
    ("module", "program", "printed"),
    [
        ("numpy", "import numpy\nprint(numpy.linalg.det(numpy.eye(300) * 1.0))", "1.0"),
        ("sympy", "import sympy\nx = sympy.Symbol('x')\nprint(sympy.integrate(2 * x, x))", "x**2"),
        ("scipy", "from scipy.optimize import brentq\nprint(round(brentq(lambda x: x * x - 4, 0, 9), 6))", "2.0"),
        ("networkx", "import networkx\nprint(networkx.complete_graph(5).number_of_edges())", "10"),
        (
            "matplotlib",
            "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig('picture.png')\nprint('drawn')",
            "drawn",
        ),
        (
            "multiprocessing",
            "import multiprocessing\nwith multiprocessing.Pool(2) as pool: print(sum(pool.map(abs, range(-4, 0))))",
            "10",
        ),
        (
            "threading",
            "import threading\nt = threading.Thread(target=print, args=('told',))\nt.start(); t.join()",
            "told",
        ),
        ("subprocess", "import subprocess\nprint(subprocess.check_output(['/bin/echo', 'said']).decode())", "said"),
        ("asyncio", "import asyncio\nprint(asyncio.run(asyncio.sleep(0, 'slept')))", "slept"),
    ],
)
def test_ordinary_programs_need_none_of_them(sandbox: Sandbox, module: str, program: str, printed: str) -> None:
    pytest.importorskip(module)
    run = sandbox.run(program)
    assert (run.status, run.output.strip()) == ("finished", printed), run


def test_the_manner_of_another_machine_ends_a_program(sandbox: Sandbox) -> None:
    if platform.machine() != "x86_64" or usable_filter() is None:
        pytest.skip("no other manner is known here")
    # mov eax, 20 (getpid of i386); int 0x80; ret
    program = (
        "import ctypes, mmap\ncode = mmap.mmap(-1, 4096, prot=7)\n"
        "code.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))\n"
        "print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())"
    )
    run = sandbox.run(program)
    assert run.status == "failed"
    assert re.fullmatch("ended by (SIGSYS|SIGSEGV)", run.reason), run  # the latter where the kernel knows no i386


def test_it_is_said_where_nothing_is_filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    if not works("namespaces"):
        pytest.skip("namespaces do not work here")
    if usable_filter() is not None:
        assert NAMESPACES.description.endswith("; system calls filtered")
    monkeypatch.setattr(protections, "usable_filter", lambda: None)
    assert NAMESPACES.description.endswith("; system calls not filtered, as this kernel cannot")
    run = Sandbox.of(Limits(seconds=20.0), NAMESPACES).run("import os\nprint(os.memfd_create('x') > 2)")
    assert run.output == "True\n"


def test_keys_are_left_behind_even_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    if not works("namespaces") or platform.machine() not in MACHINES:
        pytest.skip("keys cannot be told apart here")
    which = MACHINES[platform.machine()][0]
    add, search = (REFUSED[name][which] for name in ("add_key", "keyctl"))
    libc = ctypes.CDLL(None)
    if (
        libc.syscall(add, b"user", b"lmm_kept", b"x", 1, -3) < 0
        or libc.syscall(search, 10, -3, b"user", b"lmm_kept", 0) < 0
    ):
        pytest.skip("this kernel keeps no keys")
    monkeypatch.setattr(protections, "usable_filter", lambda: None)
    program = f"import ctypes\nprint(ctypes.CDLL(None).syscall({search}, 10, -3, b'user', b'lmm_kept', 0))"
    assert Sandbox.of(Limits(seconds=20.0), NAMESPACES).run(program).output == "-1\n"


def test_a_kernel_without_filters_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        @staticmethod
        def prctl(*_: object) -> int:
            import ctypes

            ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr(system_calls, "libc", Kernel)
    assert usable_filter.__wrapped__() is None
