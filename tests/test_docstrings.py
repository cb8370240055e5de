"""Every public thing says what it is; what is exported names its parameters; what refuses says when."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import unimoe

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "unimoe").rglob("*.py"))
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES]
NEED_LMMS_EVAL = ("unimoe.integrations.lmms_eval_chat", "unimoe.integrations.lmms_eval_simple")
Documented = ast.FunctionDef | ast.ClassDef


def describe(path: Path) -> str:
    return str(path.relative_to(ROOT))


def public(node: ast.AST, owner: str = "") -> Iterator[tuple[str, Documented]]:
    """Public functions, classes and methods under a node, with their dotted names."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            yield owner + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{owner}{child.name}.")


def parameters(function: ast.FunctionDef) -> list[str]:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]


def unnamed(names: list[str], text: str) -> list[str]:
    return [name for name in names if not re.search(rf"\b{name}\b", text)]


def refuses(function: ast.FunctionDef) -> bool:
    """Whether the function itself raises ValueError."""
    raised = (node.exc for node in ast.walk(function) if isinstance(node, ast.Raise))
    return any(isinstance(error, ast.Call) and ast.unparse(error.func) == "ValueError" for error in raised)


def test_public_things_are_documented() -> None:
    assert not [f"{describe(path)}: {fault}" for path in FILES for fault in undocumented(path)]


def undocumented(path: Path) -> Iterator[str]:
    """What the docstrings of a file do not say."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not ast.get_docstring(tree):
        yield "the module has no docstring"
    for name, node in public(tree):
        text = ast.get_docstring(node) or ""
        if not text:
            yield f"{name} has no docstring"
        if isinstance(node, ast.FunctionDef):
            is_listed = "Args:" in text and "The others are" not in text
            if is_listed and (missing := unnamed(parameters(node), text)):
                yield f"{name} does not say what {missing} are"
            if "Raises:" not in text and refuses(node):
                yield f"{name} raises ValueError, and does not say when"


def exported() -> dict[str, object]:
    """Everything in the `__all__` of a module, under the name of where it is defined."""
    modules = [importlib.import_module(name) for name in MODULES if name not in NEED_LMMS_EVAL]
    named = [(module, name) for module in modules for name in getattr(module, "__all__", ())]
    things = [getattr(module, name) for module, name in named]
    return {f"{thing.__module__}.{thing.__qualname__}": thing for thing in things if hasattr(thing, "__qualname__")}


def test_what_the_package_exports_is_documented() -> None:
    for name in unimoe.__all__:
        thing = getattr(unimoe, name)
        assert not (inspect.isclass(thing) or inspect.isfunction(thing)) or inspect.getdoc(thing), name


def test_exported_functions_name_their_parameters() -> None:
    """One parameter alone may be what the sentence is about; a docstring may refer to that of another function."""
    functions = {name: thing for name, thing in exported().items() if inspect.isfunction(thing)}
    assert len(functions) > 100
    names = {name: list(inspect.signature(function).parameters) for name, function in functions.items()}
    texts = {name: inspect.getdoc(thing) or "" for name, thing in functions.items()}
    missing = {
        name: unnamed(names[name], text)
        for name, text in texts.items()
        if not re.search(r"^Args.*: as in `", text, re.M)
    }
    assert not {name: found for name, found in missing.items() if found and len(names[name]) > 1}
