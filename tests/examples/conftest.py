"""Examples are imported as they are run, with their own folder on the path."""

import functools
import importlib.util
import pathlib
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


def load(name):
    """Imports an example, under a name of its own: a benchmark can have the same."""
    spec = importlib.util.spec_from_file_location(f"examples.{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def example():
    """Returns a function that imports an example by name, once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield functools.cache(load)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder to run in, since examples write below the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
