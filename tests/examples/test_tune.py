"""The search runs, tries what is exported, and measures its best trial once."""

import inspect

import keras
import pytest

import keras_mtl


@pytest.fixture(scope="session")
def tune(example):
    return example("tune")


@pytest.mark.parametrize("architecture", keras_mtl.architectures.names())
def test_an_architecture_is_searched_unless_it_refuses_the_tasks(tune, architecture):
    arguments = (keras.Input((8, 12, 1)), tune.make_stages(8), tune.TASKS)
    if architecture in tune.ARCHITECTURES:
        keras_mtl.build_model(architecture, *arguments)
    else:
        with pytest.raises(ValueError, match=f"Tasks of {architecture} must have"):
            keras_mtl.build_model(architecture, *arguments)


def test_the_search_lists_its_trials_and_measures_the_best(tune, tmp_path):
    table, results = tune.main(trials=3, epochs=1, quick=True, out=tmp_path, verbose=0)

    header, _, *rows = table.splitlines()
    tried = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert header.count("|") == 6
    assert len(tried) == 3
    assert {row[0] for row in tried} <= set(tune.ARCHITECTURES)
    assert {row[2] for row in tried} <= set(tune.WEIGHTINGS)
    sums = [float(row[3]) + float(row[4]) for row in tried]
    assert sums == sorted(sums, reverse=True)
    assert set(results) >= {"loss", "left_accuracy", "right_accuracy"}


def test_the_command_line_names_the_arguments_of_main(tune):
    options = vars(tune.parse(["--trials", "3", "--quick"]))
    inspect.signature(tune.main).bind(**options)
    assert (options["trials"], options["epochs"], options["quick"]) == (3, 6, True)


@pytest.mark.parametrize("argument", ["--trials", "--epochs"])
def test_a_search_of_nothing_is_refused(tune, capsys, argument):
    with pytest.raises(SystemExit):
        tune.parse([f"{argument}=0"])
    assert f"argument {argument}: must be an integer >= 1" in capsys.readouterr().err
