"""What keeps a program in: bubblewrap, namespaces of our own, or only limits; and which of them this system allows."""

from __future__ import annotations

import functools
import json
import os
import shutil
import site
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lmmodules.errors import InputError
from lmmodules.evaluation import confinement
from lmmodules.evaluation.system_calls import usable_filter

ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONIOENCODING": "utf-8",
    "LANG": "C.UTF-8",
}
"""All that a program sees of an environment, with `HOME` and `TMPDIR`."""


@dataclass(frozen=True)
class Protection:
    """A way of keeping programs in.

    Attributes:
        name: `bubblewrap`, `namespaces` or `process`.
        walls: What it keeps from a program, in words.
    """

    name: str
    walls: str

    @property
    def description(self) -> str:
        """What it keeps from a program here, in a sentence."""
        filtered = "system calls filtered" if usable_filter() else "system calls not filtered, as this kernel cannot"
        return f"{self.walls}; {filtered}"

    @property
    def isolates(self) -> bool:
        """Whether files and network of the outside are out of reach."""
        return self.name != "process"

    def command(self, directory: Path, report: int, limits: dict[str, float]) -> list[str]:
        """The command that runs `program.py` of a directory.

        Args:
            directory: Where the program lies.
            report: Descriptor on which the end is reported.
            limits: The numbers of `Limits`, by name.
        """
        interpreter = sys.executable
        script = str(Path(confinement.__file__).resolve())
        visible = visible_paths()
        instructions = usable_filter()
        plan: dict[str, object] = {
            "protection": self.name,
            "program": str(directory / confinement.PROGRAM),
            "report": report,
            "interpreter": interpreter,
            "visible": visible,
            "limits": limits,
            "filter": None if instructions is None else instructions.hex(),
        }
        if self.name != "bubblewrap":
            return [interpreter, "-I", "-S", script, json.dumps(plan)]
        command = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--unshare-user", "--disable-userns"]
        command += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--uid", "65534", "--gid", "65534"]
        for path in visible:
            if Path(path).is_symlink() and path in confinement.SYSTEM:
                command += ["--symlink", str(Path(path).readlink()), path]
            else:
                command += ["--ro-bind-try", path, path]
        command += ["--ro-bind", script, "/confinement.py", "--proc", "/proc", "--dev", "/dev"]
        for path in filter(os.path.exists, confinement.HIDDEN):
            command += ["--ro-bind", "/dev/null", path]
        size = str(int(limits["disk_bytes"]))
        work = confinement.WORKPLACE
        program = str(directory / confinement.PROGRAM)
        command += ["--size", size, "--tmpfs", work, "--file", "0", f"{work}/{confinement.PROGRAM}", "--chdir", work]
        command += ["--size", "65536", "--tmpfs", "/dev/shm"]
        if not any(path.startswith("/tmp/") for path in visible):
            command += ["--symlink", work, "/tmp"]
        command += ["--remount-ro", "/dev", "--remount-ro", "/"]
        plan["program"] = program
        return [*command, interpreter, "-I", "-S", "/confinement.py", json.dumps(plan)]


# Only for users other than root, who would stay root behind it.
BUBBLEWRAP = Protection("bubblewrap", "own file system, no network, own processes, limits (bubblewrap)")
NAMESPACES = Protection("namespaces", "own file system, no network, own processes, limits (namespaces of the kernel)")
PROCESS = Protection(
    "process", "limits only: a program reads and writes what this user can and reaches the network; not isolated"
)
PROTECTIONS = {protection.name: protection for protection in (BUBBLEWRAP, NAMESPACES, PROCESS)}
"""From the strongest to the weakest."""


def visible_paths() -> list[str]:
    """What a program must see to have an interpreter with its packages; never a home or a checkout as a whole."""
    prefixes = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent.parent)}
    packages = {path for path in site.getsitepackages() if Path(path).is_dir()}
    roots = {"/", "/root", "/home", str(Path.home())}
    wanted = ["/usr", *confinement.SYSTEM, "/etc/ld.so.cache", "/etc/alternatives"]
    wanted += sorted(path for path in prefixes | packages if path not in roots)
    kept: list[str] = []
    for path in wanted:
        inside = any(path.startswith(f"{outer}/") for outer in kept if outer not in confinement.SYSTEM)
        if os.path.lexists(path) and not inside and path not in kept:
            kept.append(path)
    return kept


@functools.cache
def works(name: str) -> bool:
    """Whether a protection does what it says here: a program runs in it, and does not see this file.

    Args:
        name: One of `PROTECTIONS`.
    """
    if name == "process":
        return True
    if sys.platform != "linux":
        return False
    if name == "bubblewrap" and (shutil.which("bwrap") is None or os.geteuid() == 0):
        return False  # behind bubblewrap root stays root, and may write the settings of the kernel
    from lmmodules.evaluation.sandbox import Limits, Sandbox

    with tempfile.NamedTemporaryFile(prefix="outside", suffix=".txt") as outside:
        probe = f"import os\nprint(6 * 7, os.path.exists({outside.name!r}))"
        sandbox = Sandbox.of(Limits(seconds=20.0), PROTECTIONS[name])
        try:
            return sandbox.run(probe).output == "42 False\n"
        except (OSError, subprocess.SubprocessError):
            return False


def strongest() -> Protection:
    """The strongest protection that works here."""
    return next(protection for name, protection in PROTECTIONS.items() if works(name))


def chosen(name: str | None) -> Protection:
    """The protection that is asked for, or the strongest, which then must isolate.

    Args:
        name: One of `PROTECTIONS`, or `None`.

    Raises:
        InputError: When it is unknown or does not work here, or none is named and none isolates.
    """
    if name is None:
        protection = strongest()
        if not protection.isolates:
            raise InputError(
                "programs cannot be isolated here: neither `bwrap` nor namespaces of users work; install bubblewrap, "
                "or run them with limits alone by `evaluation.protection=process`"
            )
        return protection
    if name not in PROTECTIONS:
        raise InputError(
            f"`protection` must be one of {', '.join(PROTECTIONS)}, but is {name!r}; use `evaluation.protection=null`"
        )
    if not works(name):
        raise InputError(f"`protection` is `{name}`, which does not work here; use `evaluation.protection=null`")
    return PROTECTIONS[name]
