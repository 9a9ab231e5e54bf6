"""The first process inside a sandbox: it builds the walls, starts the program between them, and reports its end.

It is run as a script, with the standard library alone: `python -I -S confinement.py '{...}'`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import signal
import stat
import sys
from pathlib import Path
from typing import Any, NoReturn

NOBODY = 65534
WORKPLACE = "/inside"
PROGRAM = "program.py"
SYSTEM = ("/bin", "/sbin", "/lib", "/lib64", "/lib32")
HIDDEN = ("/proc/keys", "/proc/key-users")
"""Files of the user and not of the processes that are seen."""
DEVICES = ("null", "zero", "full", "random", "urandom")

# Of linux/sched.h, linux/mount.h and linux/prctl.h.
_NEW_NAMESPACES = 0x10000000 | 0x00020000 | 0x40000000 | 0x20000000 | 0x08000000 | 0x04000000 | 0x02000000
_BIND, _RECURSIVE, _SLAVE, _DETACH = 4096, 16384, 1 << 19, 2
_NO_SUID, _NO_DEVICES = 2, 4
_READ_ONLY_ATTRIBUTES = 1 | 2 | 4
_PARENT_DEATH, _DUMPABLE, _SUBREAPER, _NO_NEW_PRIVILEGES = 1, 4, 36, 38
SET_SECCOMP, SECCOMP_FILTER = 22, 2
_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_KEYCTL = {"x86_64": 250, "aarch64": 219}
_JOIN_SESSION_KEYRING = 1

libc = ctypes.CDLL(None, use_errno=True)


def main(plan: dict[str, Any]) -> NoReturn:
    """Confine this process, run the program in a child of it, and write to the report how that ended.

    Args:
        plan: What `Protection.command` wrote: `protection`, `program`, `report`, `interpreter`, `visible`, `limits`,
            `filter`.
    """
    report = plan["report"]
    os.set_inheritable(report, False)
    libc.prctl(_PARENT_DEATH, signal.SIGKILL)
    with contextlib.suppress(OSError):  # when memory runs out, the kernel should not look elsewhere
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        if plan["protection"] == "namespaces":
            source = Path(plan["program"]).read_bytes()
            _enter_namespaces(report)
            _build_root(Path(plan["program"]).parent / "root", source, plan["visible"], plan["limits"])
        else:
            libc.prctl(_SUBREAPER, 1)
    except OSError as error:
        _end(report, f"setup {error}")
    libc.prctl(_DUMPABLE, 0)  # the program can neither trace this process nor take over its report
    child = os.fork()
    if child == 0:
        _become_program(plan, report)
    status = None
    while status is None:  # this process adopts orphans
        ended, code = os.wait()
        status = os.waitstatus_to_exitcode(code) if ended == child else None
    if plan["protection"] == "process":  # elsewhere they end with this process
        _end_orphans()
    _end(report, f"exit {status}")


def _end_orphans() -> None:
    """End what the program left behind; what those leave falls to this process in turn."""
    with contextlib.suppress(ChildProcessError, OSError):
        while True:
            for pid in map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()):
                os.kill(pid, signal.SIGKILL)
            os.wait()


def _end(report: int, words: str) -> NoReturn:
    os.write(report, words.encode("utf-8", "replace"))
    os._exit(0)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _enter_namespaces(report: int) -> None:
    """Go on as the first process of namespaces of our own: users, mounts, network, processes, messages, names."""
    root = os.geteuid() == 0
    us, user, group = os.getpid(), os.geteuid(), os.getegid()
    ready_end, ready = os.pipe()
    mapper = 0
    if root:  # only from outside may several users be mapped; the program becomes one whose processes are counted
        mapper = os.fork()
        if mapper == 0:
            os.close(ready)
            os.read(ready_end, 1)
            code = 0
            try:
                for kind in ("uid_map", "gid_map"):
                    Path(f"/proc/{us}/{kind}").write_text(f"0 0 1\n{NOBODY} {NOBODY} 1\n")
            except OSError:
                code = 1
            os._exit(code)
    _checked(libc.unshare(_NEW_NAMESPACES), "unshare")
    if root:
        os.write(ready, b"x")
        if os.waitpid(mapper, 0)[1] != 0:
            raise OSError("users could not be mapped")
    else:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{NOBODY} {user} 1\n")
        Path("/proc/self/gid_map").write_text(f"{NOBODY} {group} 1\n")
    os.close(ready)
    os.close(ready_end)
    with contextlib.suppress(OSError):  # no namespaces inside
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
    first = os.fork()
    if first != 0:
        os.close(report)
        os.waitpid(first, 0)
        os._exit(0)
    libc.prctl(_PARENT_DEATH, signal.SIGKILL)


def _mount(source: str, target: Path, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, str(target), kind)]
    _checked(libc.mount(*texts, ctypes.c_ulong(flags), None if data is None else data.encode()), f"mount {target}")


def _read_only(target: Path, *, recursive: bool) -> None:
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY_ATTRIBUTES, 0, 0, 0)
    flags = 0x8000 if recursive else 0
    result = libc.syscall(_MOUNT_SETATTR, -100, os.fsencode(target), flags, attributes, ctypes.sizeof(attributes))
    _checked(result, f"mount_setattr {target}")


def _show(path: Path, root: Path) -> None:
    """Show something of the outside inside, read-only; a link stays a link."""
    target = root / path.relative_to("/")
    if target.exists() or not path.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() and str(path) in SYSTEM:
        target.symlink_to(path.readlink())
        return
    if path.is_dir():
        target.mkdir()
    else:
        target.touch()
    _mount(str(path), target, None, _BIND | _RECURSIVE)
    if not stat.S_ISCHR(path.stat().st_mode):
        _read_only(target, recursive=True)


def _build_root(root: Path, program: bytes, visible: list[str], limits: dict[str, int]) -> None:
    """Make a root of our own: what the interpreter needs, read-only, and a workplace of limited size."""
    root.mkdir()
    _mount("none", Path("/"), None, _SLAVE | _RECURSIVE)
    _mount("none", root, "tmpfs", _NO_SUID | _NO_DEVICES, "mode=755,size=1m")
    for path in visible:
        _show(Path(path), root)
    for device in DEVICES:
        _show(Path("/dev", device), root)
    (root / "proc").mkdir()
    with contextlib.suppress(OSError):  # refused where the outside hides parts of it; then there is none
        _mount("none", root / "proc", "proc", _NO_SUID | _NO_DEVICES)
        for path in HIDDEN:
            _mount("/dev/null", root / path[1:], None, _BIND)
    workplace = root / WORKPLACE[1:]
    workplace.mkdir()
    size = f"mode=1777,size={limits['disk_bytes']},nr_inodes=4096"
    _mount("none", workplace, "tmpfs", _NO_SUID | _NO_DEVICES, size)
    for name in ("tmp", "dev/shm"):
        if not (root / name).exists():  # an interpreter may live below /tmp
            (root / name).symlink_to(WORKPLACE)
    (workplace / PROGRAM).write_bytes(program)
    (workplace / PROGRAM).chmod(0o644)
    os.chdir(root)
    if platform.machine() not in _PIVOT_ROOT:
        raise OSError(f"no `pivot_root` is known for {platform.machine()}")
    _checked(libc.syscall(_PIVOT_ROOT[platform.machine()], b".", b"."), "pivot_root")
    _checked(libc.umount2(b".", _DETACH), "umount")
    os.chdir(WORKPLACE)
    _read_only(Path("/"), recursive=False)


def _leave_keys() -> None:
    """Go on with an empty keyring instead of that of the session, where there are keys at all."""
    if platform.machine() in _KEYCTL:
        libc.syscall(_KEYCTL[platform.machine()], _JOIN_SESSION_KEYRING, None)


def _filter_calls(instructions: bytes) -> None:
    """Have the kernel refuse system calls to this process and to all that it starts.

    Args:
        instructions: See `system_calls.filter_of`.
    """

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    program = Program(len(instructions) // 8, instructions)
    _checked(libc.prctl(SET_SECCOMP, SECCOMP_FILTER, ctypes.byref(program), 0, 0), "seccomp")


def _become_program(plan: dict[str, Any], report: int) -> NoReturn:
    """Take the limits on, give every privilege up, and become the program."""
    limits = plan["limits"]
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.set_inheritable(0, True)  # where 0 was closed, it is what was opened
        libc.prctl(_PARENT_DEATH, signal.SIGKILL)
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        _leave_keys()
        if plan["protection"] == "namespaces" and os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        seconds = int(limits["seconds"]) + 1
        wanted = {
            resource.RLIMIT_AS: limits["memory_bytes"],
            resource.RLIMIT_CPU: seconds,
            resource.RLIMIT_FSIZE: limits["file_bytes"],
            resource.RLIMIT_NOFILE: 128,
            resource.RLIMIT_CORE: 0,
        }
        if plan["protection"] == "namespaces":  # elsewhere all processes of the user would count
            wanted[resource.RLIMIT_NPROC] = limits["processes"]
        for kind, value in wanted.items():
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(kind, (value, value))
        for number in range(1, signal.NSIG):
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        if plan["filter"] is not None:
            _filter_calls(bytes.fromhex(plan["filter"]))
        os.execv(plan["interpreter"], [plan["interpreter"], "-I", PROGRAM])
    except OSError as error:
        _end(report, f"setup {error}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
