"""The system calls that a program in a sandbox must do without, and the filter in the kernel that refuses them."""

from __future__ import annotations

import ctypes
import errno
import functools
import platform
import socket
import struct

from lmmodules.evaluation.confinement import SECCOMP_FILTER, SET_SECCOMP, libc

# Of asm/unistd.h, by `MACHINES`.
REFUSED: dict[str, tuple[int, int]] = {
    # memory that belongs to no process, so that no limit of a process counts it
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "semget": (64, 190),
    "shmget": (29, 194),
    # keys, which belong to the user
    "add_key": (248, 217),
    "keyctl": (250, 219),
    "request_key": (249, 218),
    # other processes
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    # file systems, roots and namespaces
    "chroot": (161, 51),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "pivot_root": (155, 41),
    "setns": (308, 268),
    "umount2": (166, 39),
    "unshare": (272, 97),
    # what watches the kernel, or works on its behalf
    "bpf": (321, 280),
    "fanotify_init": (300, 262),
    "io_uring_enter": (426, 426),  # opens sockets of any family by itself
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "perf_event_open": (298, 241),
    "syslog": (103, 116),
    "userfaultfd": (323, 282),
}
"""Calls that fail with `EPERM`, with their numbers on each of `MACHINES`."""
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Which of the numbers holds on a machine, and what linux/audit.h calls it."""
FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, 16)
"""Of sockets that may be made; the last is `AF_NETLINK`, by which names are looked up."""

_SOCKETS = ((41, 198), (53, 199))  # socket, socketpair
_CLONE, _CLONE3 = (56, 220), (435, 435)
_NEW_NAMESPACES = 0x7E020000
_OF_THE_OTHER_ABI = 0x40000000  # numbers from here on are those of x32
# Of linux/bpf_common.h, linux/filter.h and linux/seccomp.h.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000


def filter_of(machine: str) -> bytes | None:
    """The program of the kernel's filter: `REFUSED`, other `FAMILIES`, new namespaces; all else is allowed.

    Calls in the manner of another machine end the process. `clone3`, whose flags a filter cannot read, is said not to
    exist, so that the C library takes `clone`.

    Args:
        machine: As `platform.machine` names it.

    Returns:
        Instructions of eight bytes; `None` where the numbers of the calls are not known.
    """
    if machine not in MACHINES:
        return None
    which, audited = MACHINES[machine]
    permitted = [_one(_RETURN, _ALLOW)]
    refused = [_one(_RETURN, _REFUSE | errno.EPERM)]
    families = [_one(_LOAD, _FIRST_ARGUMENT)]
    for family in FAMILIES:
        families += _if(_EQUAL, family, permitted)
    families.append(_one(_RETURN, _REFUSE | errno.EAFNOSUPPORT))
    flags = [_one(_LOAD, _FIRST_ARGUMENT), *_if(_ANY_BIT, _NEW_NAMESPACES, refused), *permitted]
    program = [_one(_LOAD, _MACHINE), _one(_EQUAL, audited, 1), _one(_RETURN, _KILL), _one(_LOAD, _NUMBER)]
    program += _if(_AT_LEAST, _OF_THE_OTHER_ABI, refused)
    for numbers in REFUSED.values():
        program += _if(_EQUAL, numbers[which], refused)
    for numbers in _SOCKETS:
        program += _if(_EQUAL, numbers[which], families)
    program += _if(_EQUAL, _CLONE[which], flags)
    program += _if(_EQUAL, _CLONE3[which], [_one(_RETURN, _REFUSE | errno.ENOSYS)])
    return b"".join(program + permitted)


@functools.cache
def usable_filter() -> bytes | None:
    """The filter of this machine; `None` where there is none, or its kernel takes none."""
    # Without a program a kernel that takes filters complains of the address, and any other of the request.
    takes_filters = libc.prctl(SET_SECCOMP, SECCOMP_FILTER, None) != 0 and ctypes.get_errno() == errno.EFAULT
    return filter_of(platform.machine()) if takes_filters else None


def _one(code: int, value: int, skipped_if: int = 0, skipped_else: int = 0) -> bytes:
    return struct.pack("=HBBI", code, skipped_if, skipped_else, value)


def _if(code: int, value: int, then: list[bytes]) -> list[bytes]:
    """Instructions that are skipped unless what was loaded compares so."""
    return [_one(code, value, 0, len(then)), *then]
