"""The search runs, tries what is exported, and measures its best trial once."""

import importlib
import pathlib

import keras_mtl

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


def test_the_search_lists_its_trials_and_measures_the_best(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    tune = importlib.import_module("tune")

    table, results = tune.main(trials=3, epochs=1, quick=True, out=tmp_path, verbose=0)

    header, _, *rows = table.splitlines()
    tried = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert header.count("|") == 6
    assert len(tried) == 3
    assert {row[0] for row in tried} <= set(keras_mtl.architectures.names())
    assert {row[2] for row in tried} <= set(keras_mtl.weighting.names())
    sums = [float(row[3]) + float(row[4]) for row in tried]
    assert sums == sorted(sums, reverse=True)
    assert set(results) >= {"loss", "left_accuracy", "right_accuracy"}
