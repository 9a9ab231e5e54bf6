"""What is public says what it is, and says nothing of arguments that it does not take."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import lmmodules

PACKAGE = Path(lmmodules.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Source", "Differences", "Example", "Examples", "Note")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Public(NamedTuple):
    """Something that a reader of the documentation meets."""

    name: str
    node: ast.Module | ast.ClassDef | Function
    method: bool = False

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.node) or ""


def is_public(name: str) -> bool:
    return not name.startswith("_")


def decorators(node: ast.ClassDef | Function) -> set[str]:
    return {
        ast.unparse(item.func if isinstance(item, ast.Call) else item).split(".")[-1] for item in node.decorator_list
    }


def walk(path: Path) -> Iterator[Public]:
    """The module, its public classes and functions, and their public methods; not what stands inside functions."""
    module = str(path.relative_to(PACKAGE))
    tree = ast.parse(path.read_text())
    yield Public(module, tree)
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, Function)) and is_public(node.name) and "overload" not in decorators(node):
            yield Public(f"{module}: {node.name}", node)
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if (
                        isinstance(member, Function)
                        and is_public(member.name)
                        and not decorators(member) & {"overload", "setter", "deleter"}
                    ):
                        yield Public(f"{module}: {node.name}.{member.name}", member, method=True)


ALL = [item for path in FILES for item in walk(path)]
CLASSES = {node.name: node for item in ALL if isinstance(node := item.node, ast.ClassDef)}
BY_FILE = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))


def parameters(function: Function, *, method: bool) -> list[str]:
    arguments = function.args
    names = [argument.arg for argument in arguments.posonlyargs + arguments.args]
    if method and "staticmethod" not in decorators(function):
        names = names[1:]
    names += [f"*{arguments.vararg.arg}"] if arguments.vararg else []
    names += [argument.arg for argument in arguments.kwonlyargs]
    names += [f"**{arguments.kwarg.arg}"] if arguments.kwarg else []
    return [name for name in names if is_public(name)]


def constructor_parameters(node: ast.ClassDef) -> list[str] | None:
    """What a class is built with: its own `__init__`, its fields, or its base's; `None` for a base from elsewhere."""
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return parameters(member, method=True)
    fields = [
        member.target.id
        for member in node.body
        if isinstance(member, ast.AnnAssign)
        and isinstance(member.target, ast.Name)
        and "ClassVar" not in ast.unparse(member.annotation)
        and is_public(member.target.id)
    ]
    bases = [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]
    inherited = [constructor_parameters(CLASSES[base]) or [] for base in bases if base in CLASSES]
    if "dataclass" in decorators(node):
        return [name for names in inherited for name in names] + fields
    return next((names for names in inherited if names), None)


def section(doc: str, title: str) -> str | None:
    """The indented text under a heading."""
    found = re.search(rf"^{title}:\n((?:[ \t]+.*\n|\n)*)", doc + "\n", flags=re.MULTILINE)
    return found[1] if found else None


def documented(doc: str) -> list[str] | None:
    text = section(doc, "Args")
    return None if text is None else re.findall(r"^ {4}(\*{0,2}\w+):", text, flags=re.MULTILINE)


@BY_FILE
def test_it_says_what_it_is_in_a_sentence(path: Path) -> None:
    for item in walk(path):
        assert item.doc, f"{item.name} has no docstring"
        first = item.doc.splitlines()[0]
        assert first.endswith((".", "!", "?", ":")), f"the first line of {item.name} is no sentence: {first}"
        assert not first.endswith("..."), item.name
        assert first[0] == first[0].upper(), f"{item.name}: {first}"


@BY_FILE
def test_sections_are_those_of_google(path: Path) -> None:
    for item in walk(path):
        found = re.findall(r"^([A-Z][A-Za-z ]+):$", item.doc, flags=re.MULTILINE)
        assert set(found) <= set(SECTIONS), item.name
        assert len(found) == len(set(found)), item.name
        for heading in found:
            assert (section(item.doc, heading) or "").strip(), f"{item.name}: nothing under {heading}"


@BY_FILE
def test_arguments_are_those_of_the_signature(path: Path) -> None:
    for item in walk(path):
        names = documented(item.doc)
        if names is None or isinstance(item.node, ast.Module):
            continue
        if isinstance(item.node, ast.ClassDef):
            expected = constructor_parameters(item.node)
        else:
            expected = parameters(item.node, method=item.method)
        assert expected is None or names == expected, item.name


@BY_FILE
def test_errors_are_told(path: Path) -> None:
    for item in walk(path):
        if isinstance(item.node, Function):
            raised = {
                ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
                for node in ast.walk(item.node)
                if isinstance(node, ast.Raise) and node.exc is not None
            }
            told = section(item.doc, "Raises") or ""
            for name in raised & {"InputError", "OSError", "FloatingPointError", "SystemExit"}:
                assert f"    {name}: " in told, f"{item.name} raises {name} and does not say so"


def test_a_class_that_takes_something_says_what() -> None:
    for item in ALL:
        if isinstance(item.node, ast.ClassDef) and any(
            isinstance(member, ast.FunctionDef) and member.name == "__init__" for member in item.node.body
        ):
            taken = constructor_parameters(item.node)
            # A class that is made by one function alone may speak of it in prose.
            assert not taken or documented(item.doc) or section(item.doc, "Attributes") or len(taken) == 1, item.name


def test_types_stand_in_the_signature_only() -> None:
    for item in ALL:
        for line in (section(item.doc, "Args") or "").splitlines():
            assert not re.match(r"^ {4}\*{0,2}\w+ \([^)]*\):", line), f"{item.name}: {line.strip()}"


@BY_FILE
def test_nothing_is_left_for_later(path: Path) -> None:
    source = path.read_text()
    for word in ("TODO", "FIXME", "XXX", "HACK", "NotImplementedError"):
        assert word not in source, f"{path.name}: {word}"


@BY_FILE
def test_imports_say_where_a_name_lives(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} is relative"
            assert "*" not in {alias.name for alias in node.names}, f"{path.name}:{node.lineno} imports everything"


def test_the_walk_sees_the_package() -> None:
    names = {item.name for item in ALL}
    assert {"losses/linear.py: linear_cross_entropy", "objectives/base.py: Objective.losses", "errors.py"} <= names
    assert len(names) > 200
    assert documented("X.\n\nArgs:\n    a: One,\n        more.\n    *b: Two: three.\n\nReturns:\n    c: No.") == [
        "a",
        "*b",
    ]
