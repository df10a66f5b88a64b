"""Executes what the documentation shows: README blocks and docstring examples."""

import ast
import contextlib
import doctest
import importlib
import io
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping

import keras
import numpy as np
import pytest

import keras_mtl

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "keras_mtl"
TOLERANCE = 1e-4  # examples print four digits
NOT_LITERAL = object()


def modules():
    return sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def docstrings(tree):
    """Yields the place and text of every docstring in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", "module"), text


def literal(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return NOT_LITERAL


def matches(got, want):
    """Whether a value is the literal `want`; numbers and tensors are compared as numbers."""
    if isinstance(want, Mapping):
        return set(got) == set(want) and all(matches(got[key], want[key]) for key in want)
    if want is None or isinstance(want, str | bool | bytes):
        return type(got) is type(want) and got == want
    expected = np.asarray(want)
    if expected.dtype.kind not in "fiub":
        return got == want
    received = np.asarray(got)
    if received.dtype.kind not in "fiub" or received.shape != expected.shape:
        return False
    return np.allclose(received, expected, rtol=TOLERANCE, atol=1e-6, equal_nan=True)


def text_matches(got, want):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(want, got + "\n", flags)


def execute(source, namespace):
    """Returns the value of an expression; None for statements."""
    try:
        code = compile(source.strip(), "<example>", "eval")
    except SyntaxError:
        return exec(compile(source, "<example>", "exec"), namespace)
    return eval(code, namespace)


def failure_of(example, namespace):
    """Runs one `>>>` example and returns what is wrong with it, or None."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            value = execute(example.source, namespace)
    except Exception as error:
        received = f"{type(error).__name__}: {error}"
        expected = example.exc_msg
        return None if expected and text_matches(received, expected) else f"raised {received}"
    if example.exc_msg is not None:
        return "raised nothing"
    if printed.getvalue():
        matched = text_matches(printed.getvalue().rstrip("\n"), example.want)
        return None if matched else f"printed {printed.getvalue()!r}"
    return None if shows(example.want, value) else f"returned {value!r}"


def shows(want, value):
    """Whether the expected text stands for `value`; as in doctest, no text stands for None."""
    if not want:
        return value is None
    expected = literal(want)
    if expected is NOT_LITERAL:
        return text_matches(repr(value), want)
    return matches(value, expected)


def run_docstring(text):
    """Runs the examples of one docstring in one namespace and returns the failures."""
    namespace = {"keras": keras, "keras_mtl": keras_mtl, "np": np}
    failures = []
    for example in doctest.DocTestParser().get_examples(text):
        if failure := failure_of(example, namespace):
            failures.append(f">>> {example.source}expected: {example.want!r}\n{failure}")
    return failures


@pytest.mark.parametrize("module", modules())
def test_docstring_examples_hold(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = ast.parse((PACKAGE / module).read_text())
    failures = [
        f"{place}: {failure}" for place, text in docstrings(tree) for failure in run_docstring(text)
    ]
    assert not failures, "\n\n".join(failures)


@pytest.mark.parametrize(
    "example",
    [
        ">>> np.array([0.5, 0.25])\n[0.5, 0.3]",
        ">>> np.array([0.5, 0.5])\n[0.5]",
        ">>> 'a'\n'b'",
        ">>> {'a': np.float32(1)}\n{'a': 2.0}",
        ">>> 1 + 1",
        ">>> print(1)\n2",
        ">>> missing\n1",
        ">>> int('a')\nTraceback (most recent call last):\nTypeError: ...",
    ],
)
def test_a_wrong_example_is_found(example):
    assert len(run_docstring(example)) == 1


@pytest.mark.parametrize(
    "example",
    [
        ">>> np.array([1 / 3, 0.5])\n[0.33333, 0.5]",
        ">>> {'a': np.float32(1), 'b': 'c'}\n{'a': 1.0, 'b': 'c'}",
        ">>> x = 1\n>>> x\n1",
        ">>> print('one')\none",
        ">>> ['a', 'b']\n['a', 'b']",
        ">>> np.ones(2).dtype\ndtype('float64')",
        ">>> int('a')\nTraceback (most recent call last):\nValueError: invalid literal ...",
    ],
)
def test_a_right_example_passes(example):
    assert run_docstring(example) == []


def readme_script():
    """Returns the README's Python blocks as one script, each line in its place."""
    readme = (ROOT / "README.md").read_text()
    lines = [""] * (readme.count("\n") + 1)
    for block in re.finditer(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL):
        first = readme.count("\n", 0, block.start(1))
        code = block.group(1).splitlines()
        lines[first : first + len(code)] = code
    return "\n".join(lines)


def test_readme_blocks_run_in_sequence(tmp_path):
    script = tmp_path / "README.py"
    script.write_text(readme_script())
    assert "fit(" in script.read_text()
    # A process of its own, as a reader has: it holds no strategy and no other models.
    command = [sys.executable, "-W", "error::UserWarning", str(script)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


def test_readme_begins_with_the_two_set_up_commands():
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^(?:python3|pip|\.venv/|bash|\./).*$", readme, re.MULTILINE)
    assert commands[0].endswith("examples/quickstart.py")
    assert commands[1].endswith("-m pytest")


def test_modules_are_importable_by_themselves():
    for module in modules():
        name = f"keras_mtl/{module}".removesuffix(".py").removesuffix("/__init__")
        importlib.import_module(name.replace("/", "."))
