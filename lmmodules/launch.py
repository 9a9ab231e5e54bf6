"""Who started the processes of a run, and whether what they will do is what was asked for."""

from __future__ import annotations

import os
import random
import socket
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lmmodules.errors import InputError
from lmmodules.fitting_parts import devices_per_node

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

# Below the ports that systems lend to outgoing connections (32,768 and up on Linux, 49,152 and up elsewhere).
PORTS = range(20_000, 32_000)


@dataclass(frozen=True)
class Launch:
    """How the processes of a run were started, when not by Lightning itself.

    Args:
        starter: What a person typed: `torchrun`, `srun`, `hydra/launcher=local` or `hydra/launcher=slurm`.
        processes: How many there are, on all machines.
    """

    starter: str
    processes: int

    @property
    def is_trial(self) -> bool:
        """Whether the processes are a trial of a sweep."""
        return self.starter.startswith("hydra/launcher=")


def find_launch() -> Launch | None:
    """Who started this process, by what it left in the environment; `None` when a person or Lightning did.

    Raises:
        InputError: When a job of several Slurm tasks runs the command in one of them only, which would wait for the
            others forever.
    """
    environment = os.environ
    if "SUBMITIT_EXECUTOR" in environment:
        executor = environment["SUBMITIT_EXECUTOR"]
        tasks = environment.get("SUBMITIT_LOCAL_NTASKS" if executor == "local" else "SLURM_NTASKS", "1")
        return Launch(f"hydra/launcher={executor}", int(tasks))
    if "TORCHELASTIC_RUN_ID" in environment:
        return Launch("torchrun", int(environment["WORLD_SIZE"]))
    if "SLURM_NTASKS" not in environment or environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    tasks_of_job = int(environment["SLURM_NTASKS"])
    if tasks_of_job > 1 and "SLURM_STEP_ID" not in environment:
        raise InputError(
            f"`--ntasks-per-node` gives this job {tasks_of_job} tasks, but the command runs in one of them; put `srun` "
            "before the command"
        )
    return Launch("srun", tasks_of_job)


def check_launch(config: DictConfig) -> None:
    """Refuse what would be silently wrong: a sweep or a run whose processes do not do the same.

    In a sweep, stock launchers let Lightning start the other ranks with the command line of the sweep, so that every
    rank walks through it on its own: a search then gives each rank another learning rate, and a list of devices
    leaves ranks alone with half of the data.

    Raises:
        InputError: Saying what to use.
    """
    launch = find_launch()
    wanted = processes_wanted(config)
    devices = config.trainer.devices
    if HydraConfig.get().mode == RunMode.MULTIRUN and (launch is None or not launch.is_trial):
        if launch is not None and launch.processes > 1:
            raise InputError(
                f"a sweep must not be started by {launch.starter}, whose {launch.processes} processes would each walk "
                "through it; use `hydra/launcher=local` or `hydra/launcher=slurm` without it"
            )
        if wanted > 1:
            raise InputError(
                f"a trial of this sweep runs in one process, but `trainer.devices={devices}` needs {wanted}; use "
                "`hydra/launcher=local`, or `hydra/launcher=slurm`, or start the runs one by one without `-m`"
            )
    if launch is None:
        return
    if launch.processes != wanted:
        override = f"trainer.devices={launch.processes}"
        if launch.is_trial:
            override = f"hydra.launcher.tasks_per_node={devices_per_node(config)}"
        raise InputError(
            f"`trainer.devices` times `trainer.num_nodes` must be the number of processes that {launch.starter} "
            f"started ({launch.processes}), but is {wanted}; use `{override}`"
        )
    directory = str(OmegaConf.to_container(config.paths, resolve=False)["output_dir"])  # type: ignore[index, call-overload]
    if not launch.is_trial and launch.processes > 1 and "${now" in directory:
        raise InputError(
            f"`paths.output_dir` must be given where {launch.starter} starts the processes, but is the time of day, "
            "which is another in each; use `paths.output_dir=runs/my_run`"
        )


def processes_wanted(config: DictConfig) -> int:
    """Processes that a run consists of, on all machines."""
    return devices_per_node(config) * int(config.trainer.num_nodes)


def free_port() -> int:
    """A port on which the ranks of a run on this machine can meet.

    The ranks listen seconds after the port was chosen, when they have imported what they need. A port that the system
    names itself may be lent to an outgoing connection in the meantime; one of `PORTS` is not.

    Raises:
        InputError: When somebody listens on every one of them.
    """
    # Of its own, so that the seed of a run neither decides the port nor is moved on by it.
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as listener:
            try:
                listener.bind(("", port))
            except OSError:
                continue
        return port
    raise InputError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free; set `MASTER_PORT` to one that is")


def cluster_environments(config: DictConfig) -> list[ClusterEnvironment]:
    """What tells Lightning the ranks, where it would not find out or would do more than that; empty elsewhere."""
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    # Said by Lightning wherever Slurm is installed.
    warnings.filterwarnings("ignore", message="The `srun` command is available on your system but is not used")
    launch = find_launch()
    if launch is None and processes_wanted(config) > 1 and config.trainer.num_nodes == 1:
        # Lightning hands it to the ranks that it starts.
        os.environ.setdefault("MASTER_PORT", str(free_port()))
    if launch is None or launch.starter == "torchrun":
        return []
    if launch.starter == "hydra/launcher=local":
        return [local_processes()]
    # Lightning's own requeue saves inside the signal handler, wherever each rank happens to be.
    return [SLURMEnvironment(auto_requeue=False)]


def local_processes() -> ClusterEnvironment:
    """Ranks of a trial that submitit started on this machine."""
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    rank, processes = int(os.environ["SUBMITIT_LOCAL_GLOBALID"]), int(os.environ["SUBMITIT_LOCAL_NTASKS"])
    # Lightning takes processes for started, and finds their ranks, by the variables that it sets itself.
    job = os.environ["SUBMITIT_LOCAL_JOB_ID"]
    os.environ |= {
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        # The same in every rank and another in each trial.
        "MASTER_PORT": str(PORTS[zlib.crc32(job.encode()) % len(PORTS)]),
    }
    return LightningEnvironment()


def checkpoint_before_restart(directory: Path) -> str | None:
    """The checkpoint that a job of Slurm left when it was preempted, for the job that was queued again in its place.

    Args:
        directory: Of the run; it is the same before and after.
    """
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) == 0:
        return None
    from lmmodules.checkpoint import resolve_checkpoint

    try:
        return str(resolve_checkpoint(directory))
    except InputError:
        return None
