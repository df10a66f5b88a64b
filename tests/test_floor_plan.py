"""The floor plan: imports point down only, and methods are known only where they live."""

import ast
import pathlib

import pytest

import keras_mtl

PACKAGE = pathlib.Path(keras_mtl.__file__).parent
FLOORS = {
    "core": 0,
    "task": 1,
    "heads": 2,
    "weighting": 2,
    "balancing": 2,
    "metrics": 2,
    "hypergradients": 2.5,  # beside the model, which makes them
    "model": 3,
    "architectures": 4,
    "callbacks": 4,
    "data": 4,
    "tuning": 5,
    "analysis": 5,
    "plots": 5,
}
OPTIONAL = {
    "matplotlib",
    "keras_tuner",
    "tensorflow_datasets",
    "sklearn",
    "pandas",
    "scipy",
    "pycocotools",
}
TENSORFLOW_MODULES = {"core", "hypergradients", "model", "data"}


def sources():
    """Yields the parts of each module's path below the package, and the path."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):  # the package's own exports reach every floor
            yield parts, path


MODULES = [pytest.param(parts, path, id=".".join(parts)) for parts, path in sources()]


def imported(node, parts):
    """Returns the full names that an import statement of module `parts` names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        above = ("keras_mtl", *parts)[: -node.level]
        base = ".".join([*above, base] if base else above)
    if base == "keras_mtl":  # `from keras_mtl import heads` is an import of keras_mtl.heads
        return [f"{base}.{alias.name}" for alias in node.names]
    return [base]


def imports(tree, parts):
    return [name for node in ast.walk(tree) for name in imported(node, parts)]


def imports_outside_functions(node, parts):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return []
    below = [imports_outside_functions(child, parts) for child in ast.iter_child_nodes(node)]
    return imported(node, parts) + [name for names in below for name in names]


def docstring_nodes(tree):
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            yield body[0].value


def default_nodes(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.arguments):
            yield from (value for value in [*node.defaults, *node.kw_defaults] if value)


def floor_errors(tree, parts):
    errors = []
    for name in imports(tree, parts):
        if name != "keras_mtl" and not name.startswith("keras_mtl."):
            continue
        other = name.split(".")[1] if "." in name else "keras_mtl"
        if other != parts[0] and FLOORS.get(other, 99) >= FLOORS[parts[0]]:
            errors.append(name)
    return errors


def method_literals(tree):
    methods = {*keras_mtl.weighting.names(), *keras_mtl.balancing.names()}
    skipped = {id(node) for node in docstring_nodes(tree)}
    # `compile(loss_weighting="fixed")` states its default in its signature, where a user reads
    # it; no code decides on it.
    skipped |= {id(node) for node in default_nodes(tree)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and id(node) not in skipped and node.value in methods
    ]


@pytest.mark.parametrize(("parts", "path"), MODULES)
def test_module_has_a_floor(parts, path):
    assert parts[0] in FLOORS, f"{path} stands on no floor"


@pytest.mark.parametrize(("parts", "path"), MODULES)
def test_imports_point_down(parts, path):
    assert floor_errors(ast.parse(path.read_text()), parts) == []


@pytest.mark.parametrize(("parts", "path"), MODULES)
def test_tensorflow_is_imported_only_where_the_step_lives(parts, path):
    names = {name.split(".")[0] for name in imports(ast.parse(path.read_text()), parts)}
    assert "tensorflow" not in names or parts[0] in TENSORFLOW_MODULES


@pytest.mark.parametrize(("parts", "path"), MODULES)
def test_optional_packages_are_imported_inside_functions(parts, path):
    names = imports_outside_functions(ast.parse(path.read_text()), parts)
    assert not OPTIONAL & {name.split(".")[0] for name in names}


@pytest.mark.parametrize(
    ("parts", "path"), [case for case in MODULES if FLOORS.get(case.values[0][0], 0) > 2]
)
def test_no_method_is_named_above_its_floor(parts, path):
    assert method_literals(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(("parts", "path"), MODULES)
def test_no_print_assert_eval_or_bare_except(parts, path):
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        called = getattr(node.func, "id", None) if isinstance(node, ast.Call) else None
        if called in {"print", "eval", "exec", "breakpoint"} or isinstance(node, ast.Assert):
            found.append(node.lineno)
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(node.lineno)
    assert found == []


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        (("core", "step"), "from keras_mtl.task import Task"),
        (("weighting", "fixed"), "from keras_mtl.balancing.base import GramianBalancing"),
        (("heads", "base"), "def f():\n    from keras_mtl import model"),
        (("weighting", "base"), "from ..model import MultiTaskModel"),
        (("model",), "import keras_mtl"),
    ],
)
def test_an_import_that_points_up_is_found(parts, code):
    assert len(floor_errors(ast.parse(code), parts)) == 1


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        (("weighting", "fixed"), "from keras_mtl.weighting.base import LossWeighting"),
        (("weighting", "__init__"), "from .fixed import Fixed"),
        (("model",), "from keras_mtl import weighting\nimport keras"),
    ],
)
def test_an_import_that_points_down_passes(parts, code):
    assert floor_errors(ast.parse(code), parts) == []


def test_a_decision_on_a_method_name_is_found():
    assert method_literals(ast.parse("if method == 'fixed':\n    pass")) == ["fixed"]
    assert method_literals(ast.parse("def f(x='fixed'):\n    'fixed'")) == []
