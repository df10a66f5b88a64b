"""The MultiMNIST example makes the canvases of its recipes and compares on test digits."""

import numpy as np
import pytest

ROWS = ["single task", "multi-task", "multi-task, pcgrad"]


def save(path, rows, offset=0):
    """Stores images in MNIST's form, each of one brightness that tells its number."""
    images = np.broadcast_to(np.arange(rows, dtype="uint8")[:, None, None], (rows, 28, 28))
    labels = (np.arange(rows) + offset) % 10
    np.savez(path, x_train=images, y_train=labels, x_test=images[:20], y_test=labels[:20])
    return str(path)


@pytest.fixture(scope="module")
def multimnist(example):
    return example("multimnist")


@pytest.fixture(scope="module")
def result(quick, tmp_path_factory):
    return quick("multimnist", "--data", save(tmp_path_factory.mktemp("mnist") / "a.npz", 120))


def test_each_method_has_a_row_and_is_compared_with_single_tasks(result):
    assert list(result["rows"]) == ROWS
    heads = [line.split(" | ")[0].strip("| ") for line in result["table"].splitlines()]
    assert heads == ["method", "---", *ROWS, *(f"{row}, less single task" for row in ROWS[1:])]
    for row in result["rows"].values():
        assert set(row) == {"left", "right", "minutes"}
        assert 0 <= row["left"][0] <= 100


def test_figure_and_table_lie_below_the_runs(result):
    names = {path.name for path in result["folder"].iterdir()}
    assert {"multimnist.png", "table.md", "results.json"} <= names


def test_validation_digits_are_the_last_sixth_of_training(multimnist, tmp_path):
    items = multimnist.load_items(save(tmp_path / "mnist.npz", 120))
    brightness = {split: images[:, 0, 0].tolist() for split, (images, _) in items.items()}
    assert brightness["train"] == list(range(100))
    assert brightness["validation"] == list(range(100, 120))


@pytest.mark.parametrize(("recipe", "side", "rows"), [("sener", 28, 100), ("pareto", 36, 200)])
def test_recipes_differ_in_canvases(multimnist, workplace, recipe, side, rows):
    path = save(workplace / "mnist.npz", 120)
    options = multimnist.comparison.parse(
        "",
        ["--data", path, "--recipe", recipe],
        data="",
        epochs=1,
        add_arguments=multimnist.add_arguments,
    )
    train = multimnist.load_splits(options, workplace)["train"]
    assert train.element_spec[0].shape == (side, side, 1)
    assert len(list(train)) == rows


def test_right_images_may_be_of_another_kind(multimnist, workplace):
    left, right = save(workplace / "a.npz", 120), save(workplace / "b.npz", 120, offset=5)
    options = multimnist.comparison.parse(
        "",
        ["--data", left, "--right", right, "--quick"],
        data="",
        epochs=1,
        add_arguments=multimnist.add_arguments,
    )
    image, labels = next(iter(multimnist.load_splits(options, workplace)["test"]))
    brightest = int(image[-3, -3, 0])  # where only the right image reaches
    assert labels["right"] == (brightest + 5) % 10


def test_learning_rate_falls_with_parts_of_the_training(multimnist):
    schedule = multimnist.make_optimizer(multimnist.RECIPES["sener"], steps=100)._learning_rate
    rates = [float(schedule(step)) for step in (0, 9, 10, 20)]
    np.testing.assert_allclose(rates, [0.03, 0.03, 0.03 * 0.85, 0.03 * 0.85**2], rtol=1e-6)


def test_a_file_without_its_arrays_is_refused(multimnist, tmp_path):
    np.savez(tmp_path / "other.npz", x_train=np.zeros(3))
    with pytest.raises(
        ValueError, match=r"other.npz has no arrays \['x_test', 'y_test', 'y_train'\]"
    ):
        multimnist.load_items(str(tmp_path / "other.npz"))
