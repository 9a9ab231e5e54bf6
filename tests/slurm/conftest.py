"""A real Slurm of one node on loopback, from Debian's packages, for as long as the tests of this folder run.

`apt-get install --no-install-recommends slurm-wlm munge` brings what it needs; it must be started as root and touches
nothing outside of its own directory.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmmodules.launch import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sinfo", "sbatch", "scontrol")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
HOST = socket.gethostname().partition(".")[0]

SETTINGS = """\
ClusterName=loop
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={base}/munge/socket,cred_expire=10
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
ReturnToService=2
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd.log
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool
SlurmdParameters=config_overrides
KillWait=5
JobRequeue=1
PropagateResourceLimits=NONE
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=100000,bf_interval=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""

Submit = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment in which the commands of Slurm speak to a cluster of this machine alone."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        pytest.skip(f"Slurm is not installed: {', '.join(missing)} (apt-get install slurm-wlm munge)")
    if os.geteuid() != 0:
        pytest.skip("the daemons of Slurm need root")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra `sweep`")
    base = tmp_path_factory.mktemp("slurm")
    for folder in ("munge", "state", "spool"):
        (base / folder).mkdir(mode=0o711)
    key = base / "munge/key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    settings = base / "slurm.conf"
    settings.write_text(SETTINGS.format(host=HOST, base=base, controller_port=free_port(), node_port=free_port()))
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "SUBMITIT_", "TORCHELASTIC_"))
    } | {"SLURM_CONF": str(settings), "PATH": PATH}
    munge = base / "munge"
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in (
            ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge}/socket",
             f"--pid-file={munge}/pid", f"--seed-file={munge}/seed", f"--log-file={munge}/log"],
            ["slurmctld", "-D", "-f", str(settings)],
            ["slurmd", "-D", "-f", str(settings)],
        ):  # fmt: skip
            output = (base / f"{command[0]}.out").open("wb")
            daemons.append(
                subprocess.Popen(command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
            )
            time.sleep(0.5)
        for _ in range(60):
            state = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
            if state.stdout.strip() in {"idle", "mixed", "allocated"}:
                break
            time.sleep(0.5)
        else:
            logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in base.glob("*.out"))
            pytest.fail(f"Slurm did not start: {state.stdout}{state.stderr}\n{logs}")
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()


@pytest.fixture
def submit(slurm: dict[str, str], tmp_path: Path) -> Submit:
    """Runs a command that uses the cluster, in an empty directory."""

    def run(*command: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(command), cwd=tmp_path, env=slurm, capture_output=True, text=True, timeout=timeout,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return run


@pytest.fixture
def train() -> list[str]:
    """The command."""
    return [sys.executable, "-m", "lmmodules.train"]
