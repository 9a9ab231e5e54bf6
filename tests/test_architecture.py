"""The import arrows of the house, read from the source without running it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "lmmodules"
COMMANDS = {
    "train",
    "network",
    "export",
    "reproduce",
    "sweep_states",
    "trial",
    "fitting_parts",
    "plan",
    "preview",
    "evaluate",
    "generate",
    "solve",
    "command",
    "compare",
    "comparison",
    "failure",
    "launch",
    "rank_warnings",
    "composition",
    "run_directory",
    "scale",
}

# What a folder (or a single file) may import of the package, besides itself and `errors`.
ALLOWED = {
    "errors": set(),
    "batch": set(),
    "prompt_batch": {"batch"},
    "replacement_batch": {"batch"},
    "losses": {"batch", "parallel"},
    "optim": set(),
    "parallel": {"models"},  # plans for modules, by their type; within the functions that apply them
    "models": {"parallel"},
    "data": {"batch", "prompt_batch", "replacement_batch"},
    "objectives": {
        "batch",
        "losses",
        "models",
        "optim",
        "parallel",
        "prompt_batch",
        "replacement_batch",
    },
    "callbacks": {"optim", "parallel"},
    "evaluation": {"batch", "data", "losses", "models", "objectives", "parallel"},
    "plots": set(),
    "run_lock": set(),
    "checkpoint": {"callbacks", "data", "models", "objectives", "parallel"},
    "exported_parts": {"data", "models", "objectives"},
    "starting_weights": {"callbacks", "checkpoint", "data", "models", "objectives"},
    "claims": {
        "checkpoint",
        "data",
        "evaluation",
        "objectives",
        "plots",
        "run_directory",
        "synthesis",
        "trial",
    },
    "synthesis": {"callbacks", "checkpoint", "data", "evaluation", "models", "objectives", "plots", "run_directory"},
    "report": {"callbacks", "checkpoint", "evaluation", "objectives", "plots", "run_directory", "train"},
}
# Packages that only some parts may import at module level.
LIGHTNING = {"data", "objectives", "callbacks", "parallel"}
# Extras are imported in the function that needs them, by `errors.require`.
EXTRAS = {
    "transformers",
    "datasets",
    "pyarrow",
    "zstandard",
    "matplotlib",
    "wandb",
    "mlflow",
    "tensorboard",
    "spacy",
    "gguf",
    "accelerate",
    "lm_eval",
}


def imports(path: Path, *, top_level_only: bool) -> list[str]:
    """Dotted names a file imports; those under `if TYPE_CHECKING` count as well unless only run time is asked for."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name lives"
            names.append(node.module or "")
    return names


def part(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows(path: Path) -> None:
    here = part(path)
    if here in COMMANDS | {"__init__"}:
        return
    for name in imports(path, top_level_only=False):
        if name.startswith("lmmodules."):
            target = name.split(".")[1]
            assert target in ALLOWED[here] | {here, "errors"}, f"{here} must not import {target} ({path.name})"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_foreign_packages(path: Path) -> None:
    here = part(path)
    for name in imports(path, top_level_only=False):
        package = name.split(".")[0]
        if package in {"hydra", "omegaconf"}:
            assert here in COMMANDS, f"only commands know Hydra, not {path.name}"
        if package in {"lightning", "pytorch_lightning"}:
            assert here in LIGHTNING | COMMANDS, f"{path.name} must not know Lightning"
    for name in imports(path, top_level_only=True):
        assert name.split(".")[0] not in EXTRAS, f"{path.name} imports the extra {name} before it is needed"


def test_commands_do_not_import_torch_to_show_help() -> None:
    for name in COMMANDS - {"run_directory"}:
        for imported in imports(PACKAGE / f"{name}.py", top_level_only=True):
            assert imported.split(".")[0] not in {"torch", "lightning", "tokenizers", "numpy"}, f"{name}.py: {imported}"


def test_no_file_is_called_utils() -> None:
    assert not [path for path in FILES if path.stem in {"utils", "util", "helpers", "common", "misc"}]


def test_no_class_receives_a_dictconfig() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                annotations = [ast.unparse(a.annotation) for a in node.args.args + node.args.kwonlyargs if a.annotation]
                assert not [a for a in annotations if "DictConfig" in a], f"{path}: {node.lineno}"
