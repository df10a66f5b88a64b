"""The MultiMNIST benchmark makes the canvases it says, and chooses by validation alone."""

import csv
import dataclasses
import importlib
import pathlib

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
LABELS = np.arange(600) % 10


@pytest.fixture(scope="module")
def multimnist():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("multimnist")


@pytest.fixture(scope="module")
def recipes(multimnist):
    return multimnist.recipes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A file of MNIST's form, with noise that the classes brighten."""
    random = np.random.default_rng(0)
    parts = {}
    for split, rows in {"train": 600, "test": 60}.items():
        noise = random.integers(0, 100, (rows, 28, 28), "uint8")
        parts[f"x_{split}"] = noise + 15 * LABELS[:rows, None, None].astype("uint8")
        parts[f"y_{split}"] = LABELS[:rows]
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    np.savez(path, **parts)
    return str(path)


def plain_digits(rows=600):
    """Digits of one brightness each, which says the class: 10 for 0, 20 for 1, ..."""
    labels = LABELS[:rows]
    return np.ones((rows, 28, 28), "uint8") * brightness(labels)[:, None, None], labels


def brightness(labels):
    return (10 * (labels + 1)).astype("uint8")


def test_sener_canvas_is_the_maximum_of_both_digits_at_offset_six(recipes):
    recipe = dataclasses.replace(recipes.RECIPES["sener"], size=36)
    images, labels = recipes.make_canvases(plain_digits(), recipe)
    left, right = brightness(labels["left"]), brightness(labels["right"])
    expected = np.zeros((600, 36, 36), "uint8")
    expected[:, :28, :28] = left[:, None, None]
    expected[:, 6:34, 6:34] = right[:, None, None]
    expected[:, 6:28, 6:28] = np.maximum(left, right)[:, None, None]
    np.testing.assert_array_equal(images, expected)


def test_every_digit_is_once_the_left_one(recipes):
    _, labels = recipes.make_canvases(plain_digits(), recipes.RECIPES["sener"])
    np.testing.assert_array_equal(labels["left"], LABELS)
    assert 0.05 < np.mean(labels["right"] == LABELS) < 0.15  # partners are drawn at random


def test_resizing_is_that_of_pillow(recipes):
    canvases = np.random.default_rng(0).integers(0, 256, (3, 36, 36), "uint8")
    expected = [Image.fromarray(canvas).resize((28, 28), Image.NEAREST) for canvas in canvases]
    np.testing.assert_array_equal(recipes.resize(canvases, 28), np.stack(expected))


def test_pareto_digits_move_up_to_four_pixels_apart(recipes):
    images, labels = recipes.make_canvases(plain_digits(), recipes.RECIPES["pareto"])
    assert images.shape == (1200, 36, 36)
    np.testing.assert_array_equal(labels["left"], np.repeat(LABELS, 2))
    corners = {}
    for task, other in (("left", "right"), ("right", "left")):
        on_top = np.flatnonzero(labels[task] > labels[other])  # the brighter one is seen whole
        shown = images[on_top] == brightness(labels[task][on_top])[:, None, None]
        assert (shown.sum(axis=(1, 2)) == 28 * 28).all()
        top, start = shown.any(axis=2).argmax(axis=1), shown.any(axis=1).argmax(axis=1)
        corners[task] = set(zip(top.tolist(), start.tolist(), strict=True))
    assert corners["left"] == {(top, start) for top in range(5) for start in range(5)}
    assert corners["right"] == {(top, start) for top in range(4, 9) for start in range(4, 9)}


def test_splits_share_no_digit(recipes, data):
    digits = recipes.load_digits(data)
    assert {split: len(images) for split, (images, _) in digits.items()} == {
        "train": 500,
        "validation": 100,
        "test": 60,
    }
    everything = np.concatenate([images.reshape(-1, 28 * 28) for images, _ in digits.values()])
    assert len(np.unique(everything, axis=0)) == 660


@pytest.mark.parametrize(
    ("name", "sizes"), [("sener", [500, 100, 60]), ("pareto", [1000, 200, 120])]
)
def test_splits_have_one_or_two_canvases_a_digit(recipes, data, name, sizes):
    splits = recipes.load_splits(data, recipes.RECIPES[name])
    assert [len(split) for split in splits.values()] == sizes


def test_batches_are_standardised_and_keep_rows_together(recipes):
    images, labels = recipes.make_canvases(plain_digits(), recipes.RECIPES["sener"])
    split = recipes.Split(images, labels, recipes.RECIPES["sener"].standard)
    batches = [(x.numpy(), y["left"].numpy()) for x, y in split.batches(["left"], seed=1)]
    pixels, left = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    np.testing.assert_allclose(
        pixels[:, 0, 0, 0], (brightness(left) / 255 - 0.1307) / 0.3081, rtol=1e-5
    )
    assert [len(x) for x, _ in batches] == [256, 256, 88]
    assert (left != LABELS).any()
    np.testing.assert_array_equal(np.sort(left), np.sort(LABELS))


# Counted on the official networks, layer by layer.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("sener", [260, 5020, 16_050, 2 * (2550 + 510)]),
        ("pareto", [820, 5020, 25_050, 2 * 510]),
    ],
)
def test_networks_have_the_parameters_of_the_originals(recipes, name, parameters):
    model = recipes.build(recipes.RECIPES[name], ("left", "right"))
    assert model.count_params() == sum(parameters)


def fake_training(trained):
    """Returns a trainer by formula: 0.1 is best on validation, 0.01 on test."""

    def train(cell, splits, recipe, epochs):
        trained.append(cell)
        validation = {0.01: 0.5, 0.1: 0.7, 1.0: 0.6}[cell.learning_rate]
        validation -= abs(cell.candidate.left_weight - 0.4)
        test = (
            0.9 - cell.learning_rate + 0.01 * cell.seed + 0.02 * (cell.candidate.tasks == ("left",))
        )
        tasks = cell.candidate.tasks
        return {
            "validation": {task: [0.1, validation] for task in tasks},
            "test": dict.fromkeys(tasks, test),
            "seconds": 1.0,
        }

    return train


@pytest.fixture
def run(multimnist, data, tmp_path, monkeypatch):
    """Runs the benchmark without training, in a folder of its own; also returns the cells."""
    monkeypatch.chdir(tmp_path)

    def run(*more):
        trained = []
        monkeypatch.setattr(multimnist, "train", fake_training(trained))
        rates = ["--learning-rates", "0.01", "0.1", "1"]
        return multimnist.main(["--data", data, "--seeds", "2", *rates, *more]), trained

    return run


def test_validation_chooses_rate_and_weight(run):
    outcome, _ = run("--left-weights", "0.3", "0.4", "0.5")
    chosen = {name: row["chosen"] for name, row in outcome["rows"].items()}
    assert {cell.learning_rate for cells in chosen.values() for cell in cells} == {0.1}
    assert chosen["fixed, tuned"][0].candidate.left_weight == 0.4
    assert "| fixed, tuned: left 0.4 |" in outcome["table"]


def test_every_method_gets_the_same_budget(run):
    _, trained = run("--weighting", "uncertainty", "--balancing", "mgda:features")
    for field, name in (("weighting", "uncertainty"), ("balancing", "mgda:features")):
        cells = [cell for cell in trained if getattr(cell.candidate, field) == name]
        assert [(cell.learning_rate, cell.seed) for cell in cells] == [
            (0.01, 0),
            (0.1, 0),
            (1.0, 0),
            (0.1, 1),
        ]


def test_balancing_is_named_with_scope_and_refresh_every(multimnist):
    def method(text):
        found = multimnist.Candidate(balancing=text).methods()["gradient_balancing"]
        return type(found).__name__, found.scope, found.refresh_every

    assert method("random") == ("Random", "parameters", 1)
    assert method("mgda:features") == ("MGDA", "features", 1)
    assert method("mgda:parameters:4") == ("MGDA", "parameters", 4)
    with pytest.raises(ValueError, match="received 'mgda:features:4:2'"):
        method("mgda:features:4:2")
    assert multimnist.Candidate().methods()["gradient_balancing"] is None


def test_gain_is_the_mean_relative_gain_over_the_same_seed(run, multimnist):
    outcome, _ = run()
    gains = multimnist.gains(outcome["rows"]["fixed"], outcome["rows"]["single task"])
    # `left` loses 0.02 against its baseline of 0.82 and 0.83, `right` nothing.
    np.testing.assert_allclose(gains, [-100 / 82, -100 / 83])
    with (outcome["folder"] / "table.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "fixed"]
    np.testing.assert_allclose([float(row["delta_m"]) for row in rows], gains)


def test_finished_trainings_are_not_run_again(run):
    outcome, trained = run()
    again, missing = run()
    assert len(trained) > 0
    assert missing == []
    assert again["table"] == outcome["table"]
    cells = outcome["folder"] / "cells.jsonl"
    cells.write_text(cells.read_text()[:-20])  # killed while it wrote the last line
    assert run()[1] == trained[-1:]
    assert run()[1] == []


def test_other_epochs_and_recipes_are_other_trainings(run):
    _, trained = run()
    assert run("--epochs", "3")[1] == trained
    assert run("--recipe", "pareto")[1] == trained


def test_unknown_method_is_refused_before_anything_is_trained(run, tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'uncertainty'"):
        run("--weighting", "uncertanty")
    assert not list(tmp_path.rglob("cells.jsonl"))


def test_all_stands_for_every_exported_method(multimnist, run):
    outcome, _ = run("--weighting", "all", "--balancing", "all")
    names = multimnist.keras_mtl.weighting.names() + multimnist.keras_mtl.balancing.names()
    assert set(outcome["rows"]) <= {"single task", "fixed, tuned", *names}
    assert {"fixed", "uncertainty", "mgda", "pcgrad"} <= set(outcome["rows"])


def test_all_leaves_out_what_cannot_be_had_and_says_why(multimnist, run, monkeypatch, capsys):
    monkeypatch.setattr(multimnist.keras_mtl.weighting, "names", lambda: ["fixed", "absent"])
    outcome, _ = run("--weighting", "all")
    assert list(outcome["rows"]) == ["single task", "fixed", "fixed, tuned"]
    assert "absent is left out: `loss_weighting` has no method" in capsys.readouterr().out


def test_quick_run_trains_and_prints_every_row(multimnist, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = ["--seeds", "1", "--learning-rates", "0.03", "--left-weights", "0.5"]
    outcome = multimnist.main(["--data", data, "--quick", *few, "--balancing", "mgda"])
    names = [line.split(" | ")[0].strip("| ") for line in outcome["table"].splitlines()[2:]]
    assert names == ["single task", "fixed", "fixed, tuned: left 0.5", "mgda"]
    cells = multimnist.read_cells(outcome["folder"] / "cells.jsonl")
    assert len(cells) == 4  # left, right, equal weights, MGDA; the tuned weights are equal ones
    assert all(cell["epochs"] == [1] for cell in cells.values())
    assert outcome["table"] in capsys.readouterr().out
    assert (outcome["folder"] / "table.md").read_text() == outcome["table"] + "\n"
