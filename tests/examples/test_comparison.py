"""The examples' table and figure say what was measured, seed by seed."""

import json

import keras
import numpy as np
import pytest


@pytest.fixture
def comparison(example):
    return example("comparison")


def two_seeds(seed):
    return {
        "single task": {"score": 1.0 + seed, "error": 2.0, "minutes": 0.5},
        "multi-task": {"score": 4.0 + seed, "error": 1.0 - seed, "minutes": 1.5},
    }


@pytest.fixture
def measures(comparison):
    return [
        comparison.Measure("score", "score (%)"),
        comparison.Measure("error", "error", 1, higher_is_better=False),
    ]


def test_table_holds_means_deviations_and_paired_differences(comparison, measures, workplace):
    rows, _ = comparison.repeat("two", two_seeds, 2)
    assert comparison.make_table(rows, measures).splitlines() == [
        "| method | score (%) | error | minutes a seed |",
        "| --- | --- | --- | --- |",
        "| single task | 1.50 ± 0.71 | 2.0 ± 0.0 | 0.5 ± 0.0 |",
        "| multi-task | 4.50 ± 0.71 | 0.5 ± 0.7 | 1.5 ± 0.0 |",
        # The difference has no deviation in `score`, where both rise from seed to seed.
        "| multi-task, less single task | +3.00 ± 0.00 | -1.5 ± 0.7 |  |",
    ]


def test_results_are_written_after_each_seed(comparison, workplace):
    written = []

    def run_seed(seed):
        path = workplace / "keras_mtl_runs" / "two" / "results.json"
        written.append(len(json.loads(path.read_text())) if path.exists() else 0)
        return two_seeds(seed)

    comparison.repeat("two", run_seed, 3)
    assert written == [0, 1, 2]


def test_what_to_show_of_the_last_seed_is_kept(comparison, workplace):
    rows, folder, kept = comparison.repeat_and_keep("two", lambda s: (two_seeds(s), f"of {s}"), 2)
    known, _ = comparison.repeat("two", two_seeds, 2)
    np.testing.assert_equal(rows, known)
    assert (folder.name, kept) == ("two", "of 1")


def test_every_seed_begins_from_its_own_state(comparison, workplace):
    def run_seed(seed):
        return {"single task": {"draw": np.random.rand(), "minutes": 0.0}}

    first, _ = comparison.repeat("draws", run_seed, 2)
    second, _ = comparison.repeat("draws", run_seed, 2)
    np.testing.assert_array_equal(first["single task"]["draw"], second["single task"]["draw"])
    assert len(set(first["single task"]["draw"])) == 2


def test_report_draws_a_panel_a_measure_and_picture(comparison, measures, workplace):
    rows, folder = comparison.repeat("two", two_seeds, 2)
    drawn = []
    result = comparison.report("two", rows, measures, folder, [drawn.append])
    assert {path.name for path in folder.iterdir()} == {"results.json", "table.md", "two.png"}
    assert (folder / "table.md").read_text() == result["table"] + "\n"
    panels = drawn[0].figure.axes
    assert [axes.get_title() for axes in panels] == [
        "score (%)\nhigher is better",
        "error\nlower is better",
        "",
    ]
    assert panels[2] is drawn[0]


def test_epochs_are_those_asked_for(comparison):
    def epochs(*arguments):
        command = ["--data", "x", *arguments]
        return comparison.parse("", command, data="a folder", epochs=20).epochs

    assert [epochs(), epochs("--quick"), epochs("--quick", "--epochs", "3")] == [20, 1, 3]


@pytest.mark.parametrize("name", ["--epochs", "--seeds"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many"])
def test_epochs_and_seeds_are_integers_from_1_on(comparison, capsys, name, value):
    with pytest.raises(SystemExit):
        comparison.parse("", ["--data", "x", f"{name}={value}"], data="a folder", epochs=20)
    assert f"{name}: must be an integer >= 1, received '{value}'" in capsys.readouterr().err


@pytest.mark.parametrize(("scores", "kept"), [([0.9, 0.1, 0.5], 0), ([0.1, 0.9, 0.5], 1)])
def test_the_best_epoch_is_kept_and_none_is_left_out(comparison, scores, kept):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.stop_training = False
    best = comparison.keep_best("score", epochs=3)
    best.set_model(model)
    best.on_train_begin()
    for epoch, score in enumerate(scores):
        model.set_weights([np.full((1, 1), epoch)])
        best.on_epoch_end(epoch, {"score": score})
    best.on_train_end()
    assert not model.stop_training
    np.testing.assert_array_equal(model.get_weights(), [[[kept]]])


def test_an_example_adds_arguments_of_its_own(comparison):
    def add(parser):
        parser.add_argument("--hold-out", action="store_true")

    def hold_out(*arguments):
        command = ["--data", "x", *arguments]
        options = comparison.parse("", command, data="a file", epochs=1, add_arguments=add)
        return options.hold_out

    assert [hold_out(), hold_out("--hold-out")] == [False, True]


def test_a_measure_that_a_method_does_not_have_stays_empty(comparison, measures, workplace):
    values = {"score": np.array([1.0]), "error": np.array([2.0]), "minutes": np.array([0.5])}
    rows = {"single task": values, "constant": {key: values[key] for key in ("error", "minutes")}}
    lines = comparison.make_table(rows, measures).splitlines()
    assert lines[3:] == [
        "| constant |  | 2.0 | 0.5 |",
        "| constant, less single task |  | +0.0 |  |",
    ]
    comparison.draw(rows, measures, workplace / "figure.png")  # without a warning


def test_what_is_far_off_stands_in_the_table_only(comparison, measures, workplace):
    rows, folder = comparison.repeat("two", two_seeds, 2)
    rows["constant"] = rows["single task"]
    drawn = []
    result = comparison.report("two", rows, measures, folder, [drawn.append], ["constant"])
    assert "| constant |" in result["table"]
    names = [label.get_text() for label in drawn[0].figure.axes[0].get_xticklabels()]
    assert names == ["single task", "multi-task"]
