"""What `pip install lmmodules` brings works far from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins  # noqa: F401  (a missing Hydra should fail here, not in a subprocess)

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout."""
    directory = tmp_path_factory.mktemp("dist")
    result = pip("wheel", "--no-deps", "--wheel-dir", str(directory), str(ROOT))
    if result.returncode and "hatchling" in result.stderr and "No matching distribution" in result.stderr:
        pytest.skip("the build backend cannot be had here")
    assert result.returncode == 0, result.stderr
    (path,) = directory.glob("lmmodules-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed package and nothing else."""
    target = tmp_path_factory.mktemp("site")
    result = pip("install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    assert result.returncode == 0, result.stderr
    return target


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Run:
    """Runs Python in an empty directory with the installed package, and without the checkout."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LMM_", "HYDRA_"))}
    variables |= {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120
        )

    return python


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_it_holds_the_package_and_its_configuration(wheel: Path) -> None:
    found = names(wheel)
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "lmmodules").rglob("*.py")}
    configuration = {f"lmmodules/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert "lmmodules/conf/train.yaml" in found
    assert sources <= found
    assert configuration <= found


def test_it_holds_nothing_else(wheel: Path) -> None:
    for name in names(wheel):
        assert name.startswith("lmmodules/") or ".dist-info/" in name, name
        assert not name.endswith((".pyc", ".ckpt", ".png")), name


def test_every_command_is_a_script(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        scripts = archive.read(name).decode()
    for command in ("train", "preview", "evaluate", "generate"):
        assert f"lmm-{command} = lmmodules.{command}:main" in scripts


def test_the_package_and_its_configuration_are_the_installed_ones(run: Run, installed: Path) -> None:
    code = "import lmmodules, lmmodules.command as command\nprint(lmmodules.__file__); print(command.conf_directory())"
    result = run("-c", code)
    assert result.stdout.splitlines() == [str(installed / "lmmodules/__init__.py"), str(installed / "lmmodules/conf")]


def test_help_shows_the_groups(run: Run) -> None:
    result = run("-m", "lmmodules.train", "--help")
    assert result.returncode == 0, result.stderr
    objectives = next(line for line in result.stdout.splitlines() if line.startswith("objective: "))
    assert {"causal_lm", "masked_lm", "roberta"} <= set(objectives.removeprefix("objective: ").split(", "))
    assert "max_steps" in result.stdout


def test_a_misspelling_is_one_sentence(run: Run, tmp_path: Path) -> None:
    result = run("-m", "lmmodules.train", "max_steps=1", "model=decoder_smal")
    assert result.returncode == 2
    assert "`model` has no option `decoder_smal`; there are " in result.stderr
    assert "decoder_small" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_can_be_planned(run: Run) -> None:
    result = run("-m", "lmmodules.preview", "model=gpt2", "max_steps=10", "data.max_length=64", "paths.output_dir=plan")
    assert result.returncode == 0, result.stderr
    assert "124,439,808 parameters" in result.stdout
