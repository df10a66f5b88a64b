"""The quickstart runs, and what it claims of itself holds."""

import numpy as np
import pytest

ROWS = ["single task", "fixed, no auxiliary", "fixed", "uncertainty", "pcgrad"]


@pytest.fixture(scope="module")
def quickstart(example):
    return example("quickstart")


@pytest.fixture(scope="module")
def result(quick):
    return quick("quickstart")


def test_table_has_a_row_for_every_method(result):
    rows = [line.split(" | ")[0].strip("| ") for line in result["table"].splitlines()[2:]]
    assert rows == ROWS
    assert list(result["rows"]) == ROWS


def test_gain_is_the_mean_over_tasks_in_points(result):
    rows = result["rows"]
    expected = [
        np.mean([row[task][0] - rows["single task"][task][0] for task in ("left", "right")])
        for row in rows.values()
    ]
    assert [row["gain"][0] for row in rows.values()] == pytest.approx(expected)


def test_everything_lies_in_one_folder(result):
    names = {path.name for path in result["folder"].iterdir()}
    assert names == {"quickstart.png", "served", "table.md"}
    assert (result["folder"] / "table.md").read_text() == result["table"] + "\n"
    assert result["folder"].parent.name == "keras_mtl_runs"


def test_served_predictions_equal_predict(result):
    assert set(result["differences"]) == {"left", "right"}
    assert max(result["differences"].values()) < 1e-6  # float32 rounding of probabilities


def test_splits_share_no_source_image(quickstart):
    sources = quickstart.load_sources(None, seed=0)
    sizes = [len(images) for images, _ in sources.values()]
    everything = np.concatenate([images.reshape(len(images), -1) for images, _ in sources.values()])
    assert sum(sizes) == 1797
    assert len(np.unique(everything, axis=0)) == 1797


def test_canvas_is_the_maximum_of_both_digits(quickstart):
    images = np.stack([np.full((28, 28), 0.25), np.full((28, 28), 0.75)]).astype("float32")
    canvas, targets = quickstart.overlay((images, np.array([3, 7])), 8, np.random.default_rng(0))
    assert canvas.shape == (8, 36, 36, 1)
    np.testing.assert_array_equal(canvas[:, 0, 0, 0] == 0.25, targets["left"] == 3)
    np.testing.assert_array_equal(canvas[:, -1, -1, 0] == 0.25, targets["right"] == 3)
    np.testing.assert_array_equal(canvas.max((1, 2, 3)), targets["pixels"].max(1))


def test_data_of_mnist_form_is_read(quickstart, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (60, 28, 28), dtype="uint8"),
        "y_train": np.arange(60) % 10,
        "x_test": rng.integers(0, 256, (10, 28, 28), dtype="uint8"),
        "y_test": np.arange(10),
    }
    np.savez(tmp_path / "mnist.npz", **arrays)
    splits = quickstart.load_splits(tmp_path / "mnist.npz", quickstart.QUICK, seed=0)
    assert splits["train"][0].shape == (256, 36, 36, 1)
    assert splits["test"][0].max() <= 1.0
    assert quickstart.load_sources(tmp_path / "mnist.npz", 0)["validation"][0].shape[0] == 10


def test_several_seeds_show_their_deviation(quickstart):
    assert quickstart.show(np.array([1.0, 3.0]), "+") == "+2.00 ± 1.41"
    assert quickstart.show(np.array([1.0]), "+") == "+1.00"


@pytest.mark.parametrize("argument", ["--seeds", "--epochs"])
@pytest.mark.parametrize("number", ["0", "-1", "x"])
def test_a_command_line_that_trains_nothing_is_refused(quickstart, capsys, argument, number):
    with pytest.raises(SystemExit):
        quickstart.parse([f"{argument}={number}"])
    expected = f"argument {argument}: must be an integer >= 1, received '{number}'"
    assert expected in capsys.readouterr().err
