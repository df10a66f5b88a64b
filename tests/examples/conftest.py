"""Examples are imported as they are run: from their own folder, by name."""

import importlib
import pathlib

import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def example():
    """Returns a function that imports an example by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder to run in, since examples write below the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
