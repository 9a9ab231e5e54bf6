"""What a run writes about itself, so that it can be told apart, repeated and scripted against."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

RECORDED_PACKAGES = (
    "lmmodules",
    "torch",
    "lightning",
    "hydra-core",
    "omegaconf",
    "tokenizers",
    "numpy",
    "transformers",
)


def write_configuration(directory: Path, config: DictConfig, overrides: Sequence[str]) -> None:
    """Write `config.yaml`, `overrides.yaml` and `environment.json` before the first step is taken.

    Args:
        directory: The directory of the run.
        config: The composed configuration; it is written with every interpolation resolved.
        overrides: What was given on the command line.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    write_text(directory / "overrides.yaml", OmegaConf.to_yaml(list(overrides)))
    write_json(directory / "environment.json", environment(int(config.seed)))


def environment(seed: int) -> dict[str, Any]:
    """What else decides the numbers of a run: versions, commit, seed, processor, threads."""
    import torch

    return {
        "seed": seed,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name in RECORDED_PACKAGES if (version := _version(name))},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "threads": torch.get_num_threads(),
    }


def git_commit() -> str | None:
    """Commit of the checkout the package runs from, with `-dirty` where it was changed; `None` outside of one."""
    root = Path(__file__).resolve().parent.parent
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
