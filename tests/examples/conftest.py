"""Examples are imported as they are run, with their own folder on the path."""

import functools
import importlib.util
import pathlib
import sys

import pytest

SNIPS = (
    ("play jazz on spotify", "O B-genre O B-service", "PlayMusic"),
    ("play some hard rock", "O O B-genre I-genre", "PlayMusic"),
    ("rain in paris", "O O B-city", "GetWeather"),
    ("rain in new york", "O O B-city I-city", "GetWeather"),
)
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


@pytest.fixture(scope="session")
def quick(example, tmp_path_factory):
    """Returns a function that runs an example with `--quick`, once, in a folder of its own.

    It takes the name, the arguments, and constants of the example that are to be others.
    """

    def run(name, *arguments, **constants):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp(name))
            for constant, value in constants.items():
                patch.setattr(example(name), constant, value)
            outcome = example(name).main([*map(str, arguments), "--quick"])
            return {**outcome, "folder": outcome["folder"].resolve()}

    return run


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder to run in, since examples write below the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def write_snips():
    """Returns a function that writes sentences, tags and intents as a split of SNIPS."""

    def write(folder, sentences=SNIPS):
        folder.mkdir(parents=True)
        files = ("seq.in", "seq.out", "label")
        for file, column in zip(files, zip(*sentences, strict=True), strict=True):
            # Some lines of the real files end with a space.
            (folder / file).write_text("".join(f"{line} \n" for line in column), encoding="utf-8")
        return folder

    return write


@pytest.fixture(scope="session")
def snips(write_snips, tmp_path_factory):
    """A folder with the splits of SNIPS, small."""
    folder = tmp_path_factory.mktemp("snips")
    write_snips(folder / "train", SNIPS * 4)
    write_snips(folder / "valid")
    # `tokyo` and its letters k and z are in no training sentence.
    write_snips(folder / "test", [*SNIPS, ("rain in tokyoz", "O O B-city", "GetWeather")])
    return folder


@pytest.fixture(scope="module")
def small_trunk(example):
    """Makes the trunk of sentences small, for the tests of one file."""
    example("intent_and_slots")  # with whose folder on the path the next line finds it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sentences.LSTM_UNITS", 8)
        yield
