# SPDX-License-Identifier: Apache-2.0
"""The house plan, measured on the code: who imports whom, how large, how documented."""

import ast
import inspect
import pathlib
import sys

import pytest

import orthoptax

PACKAGE = pathlib.Path(orthoptax.__file__).parent
FLOORS = ["matrix", "layout", "transforms", "optimizers", "train"]
COMMON = {"_axes", "_check", "_dtypes", "_types"}
ALLOWED = {  # what each room may import: itself, the common modules, and these
    **{floor: set(FLOORS[:i]) for i, floor in enumerate(FLOORS)},
    "diagnostics": {"matrix"},
    "sharding": {"matrix", "layout"},
    "curvature": set(),
    "surgery": set(),
    "__init__": {*FLOORS[:4], "curvature", "diagnostics"},
    "__main__": {"train"},
    **{name: set() for name in COMMON},
}
ALLOWED["transforms"] |= {"curvature"}
ALLOWED["optimizers"] |= {"sharding", "curvature"}
ALLOWED["train"] |= {"sharding", "curvature", "diagnostics", "__init__"}
RUN_TIME = {"jax", "optax", "numpy", "typing_extensions"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Every module a file imports, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            if node.module == "orthoptax":
                yield from (f"orthoptax.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down_the_house(path):
    here = room(path)
    for module in imports(path):
        top, *rest = module.split(".")
        if top != "orthoptax":
            continue
        target = rest[0] if rest and (PACKAGE / rest[0]).is_dir() else None
        target = target or (rest[0] if rest and rest[0] in COMMON else "__init__")
        assert target in ALLOWED[here] | COMMON | {here}, f"{here} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_run_time_dependencies_below_train_and_no_private_modules(path):
    for module in imports(path):
        assert "._src" not in module
        top = module.split(".")[0]
        if room(path) not in ("train", "__main__") and top != "orthoptax":
            assert top in RUN_TIME | sys.stdlib_module_names, f"{path}: {module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_measures_and_docstrings(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "module without a docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            doc = ast.get_docstring(node, clean=False)
            lines = node.end_lineno - node.lineno + 1
            lines -= 0 if doc is None else doc.count("\n") + 1
            assert lines <= 60, f"{node.name} has {lines} lines"
            a = node.args
            count = len(a.posonlyargs) + len(a.args) + len(a.kwonlyargs)
            wall = 13 if room(path) == "optimizers" else 10
            assert count <= wall, f"{node.name} has {count} arguments"
    for node in tree.body:
        public = isinstance(node, ast.FunctionDef | ast.ClassDef)
        if public and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} without a docstring"


def public():
    """(name, object) of everything the floors export that has code of its own."""
    for floor in (*FLOORS[:4], "curvature", "diagnostics"):
        module = getattr(orthoptax, floor)
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing):
                yield pytest.param(thing, id=f"{floor}.{name}")


@pytest.mark.parametrize("thing", list(public()))
def test_public_constructors_say_what_they_take_return_and_come_from(thing):
    doc = thing.__doc__ or ""
    first = doc.strip().splitlines()[0]
    assert first.endswith((".", ":")), f"first line: {first!r}"
    if (
        thing.__module__.endswith("scale_by_shape")
        and thing.__name__ != "scale_by_shape"
    ):
        assert "Source:" in doc or thing.__name__ == "unscaled"
        return  # rules are two lines of arithmetic, their arguments those of ShapeRule
    if inspect.signature(thing).parameters:
        assert "Args:" in doc
    assert "Example:" in doc
