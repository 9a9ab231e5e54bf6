"""The names that others import, and what importing them costs."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import lmmodules

SOURCE = Path(lmmodules.__file__)
PACKAGES = sorted(path.parent for path in SOURCE.parent.rglob("__init__.py"))


def promised_to_type_checkers() -> dict[str, str]:
    """Name to module, from the imports under `if TYPE_CHECKING`."""
    tree = ast.parse(SOURCE.read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    found: dict[str, str] = {}
    for block in blocks:
        for node in block.body:
            assert isinstance(node, ast.ImportFrom)
            for alias in node.names:
                assert alias.asname == alias.name, "without `as` a type checker takes the name for private"
                found[alias.name] = str(node.module)
    return found


@pytest.mark.parametrize("name", lmmodules.__all__)
def test_every_public_name_imports(name: str) -> None:
    value = getattr(lmmodules, name)
    assert value is not None
    namespace: dict[str, object] = {}
    exec(f"from lmmodules import {name}", namespace)
    assert namespace[name] is value


@pytest.mark.parametrize("name", sorted(lmmodules._HOME))
def test_every_public_name_says_what_it_is(name: str) -> None:
    value = getattr(lmmodules, name)
    assert inspect.isclass(value) or inspect.isfunction(value)
    assert value.__name__ == name
    assert inspect.getdoc(value)
    assert value.__module__.startswith(lmmodules._HOME[name])


def test_run_time_and_type_checkers_see_the_same() -> None:
    assert promised_to_type_checkers() == lmmodules._HOME


def test_the_list_is_complete_and_in_order() -> None:
    assert lmmodules.__all__ == [*sorted(lmmodules._HOME), "__version__"]
    assert list(lmmodules._HOME) == sorted(lmmodules._HOME)
    assert dir(lmmodules) == sorted(lmmodules.__all__)


def test_every_name_is_public_where_it_lives_too() -> None:
    for name, home in lmmodules._HOME.items():
        module = sys.modules.get(home) or __import__(home, fromlist=[name])
        assert name in getattr(module, "__all__", [name]), f"{home}.__all__ lacks {name}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'lmmodules' has no attribute 'Transfomer'"):
        _ = lmmodules.Transfomer
    assert not hasattr(lmmodules, "nothing")


def test_the_version_is_that_of_the_project() -> None:
    project = (SOURCE.parent.parent / "pyproject.toml").read_text()
    assert f'version = "{lmmodules.__version__}"' in project


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_what_a_package_lists_is_there(package: Path) -> None:
    name = ".".join(package.relative_to(SOURCE.parent.parent).parts)
    module = __import__(name, fromlist=["x"])
    assert len(module.__all__) == len(set(module.__all__))
    for member in module.__all__:
        assert getattr(module, member) is not None


def test_importing_the_package_imports_next_to_nothing() -> None:
    code = (
        "import sys, lmmodules; lmmodules.__all__, dir(lmmodules)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'torch', 'lightning', 'numpy', 'tokenizers', 'hydra', 'omegaconf', 'rich', 'transformers', 'matplotlib'}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(lmmodules._HOME))
def test_every_name_can_be_the_first(name: str) -> None:
    """A circle of imports shows only when a certain name comes first."""
    subprocess.run([sys.executable, "-c", f"from lmmodules import {name}"], check=True, timeout=120)
