from __future__ import annotations

import socket
from pathlib import Path

import pytest

import lmmodules.launch
from lmmodules.errors import InputError
from lmmodules.launch import PORTS, free_port


def test_ports_are_not_those_that_the_system_lends() -> None:
    try:
        lent = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except FileNotFoundError:
        lent = 49_152
    if lent < 32_768:
        pytest.skip(f"this machine lends ports from {lent}, below what systems do")
    assert PORTS.stop <= lent
    assert PORTS.start > 1024


def test_a_port_that_somebody_listens_on_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_port()
    monkeypatch.setattr(lmmodules.launch, "PORTS", range(first, first + 1))
    assert free_port() == first
    refusal = f"no port from {first} to {first} is free; set `MASTER_PORT`"
    with socket.create_server(("127.0.0.1", first)), pytest.raises(InputError, match=refusal):
        free_port()


def test_two_choices_hardly_meet() -> None:
    assert len({free_port() for _ in range(20)}) >= 18
