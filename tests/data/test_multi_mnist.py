"""MultiMNIST: canvases worked by hand, labels that fit them, splits that share no image."""

import contextlib
import importlib
import io
import pathlib
import tracemalloc

import keras
import numpy as np
import pytest

import keras_mtl
from keras_mtl.data import from_tfds, multi_mnist

TARGETS = {"left": "left", "right": "right"}


def plain(labels, side=2, first=1):
    """Images of one brightness each: `first` plus ten times the label."""
    labels = np.asarray(labels)
    images = np.broadcast_to((first + 10 * labels)[:, None, None], (len(labels), side, side))
    return images.astype("uint8"), labels


def read(builder, split="train"):
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        rows = from_tfds(builder, split, inputs="image", targets=TARGETS)
    x, y = next(iter(rows.batch(10_000)))
    return x.numpy()[..., 0], y["left"].numpy(), y["right"].numpy()


def small(tmp_path, left, right=None, **arguments):
    usual = {"canvas": 3, "size": 3, "right_offset": (1, 1), "data_dir": tmp_path}
    return multi_mnist(left, right, **{**usual, **arguments})


def test_canvases_by_hand(tmp_path):
    builder = small(tmp_path, {"train": plain([2])}, {"train": plain([5], first=7)})
    images, left, right = read(builder)
    expected = [[21, 21, 0], [21, 57, 57], [0, 57, 57]]  # the brighter one wins
    np.testing.assert_array_equal(images, [expected])
    assert (left.tolist(), right.tolist()) == ([2], [5])


def test_the_left_image_may_be_the_brighter_one(tmp_path):
    images, _, _ = read(small(tmp_path, {"train": plain([9])}, {"train": plain([1])}))
    np.testing.assert_array_equal(images, [[[91, 91, 0], [91, 91, 11], [0, 11, 11]]])


def test_resizing_takes_the_pixel_in_the_middle(tmp_path):
    ramp = np.arange(36, dtype="uint8").reshape(1, 6, 6), np.array([0])
    dark = np.zeros((1, 6, 6), "uint8"), np.array([0])
    layout = {"canvas": 6, "right_offset": (0, 0)}
    images, _, _ = read(small(tmp_path, {"train": ramp}, {"train": dark}, size=2, **layout))
    np.testing.assert_array_equal(images, [[[7, 10], [25, 28]]])  # rows 1 and 4, columns 1 and 4


def test_labels_tell_the_corners_of_every_canvas(tmp_path):
    builder = small(tmp_path, {"train": plain(np.arange(10))}, copies=3)
    images, left, right = read(builder)
    np.testing.assert_array_equal(images[:, 0, 0], 1 + 10 * left)
    np.testing.assert_array_equal(images[:, 2, 2], 1 + 10 * right)
    np.testing.assert_array_equal(left, np.repeat(np.arange(10), 3))
    assert len(set(right.tolist())) > 5


def test_canvases_are_those_of_the_recipe_that_the_benchmark_states(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[2] / "benchmarks")
    recipes = importlib.import_module("multimnist_recipes")
    digits = np.random.default_rng(0).integers(0, 256, (6, 28, 28)).astype("uint8")
    builder = multi_mnist({"train": (digits, np.arange(6))}, data_dir=tmp_path)
    images, left, right = read(builder)
    canvases = np.zeros((6, 36, 36), "uint8")
    recipes.place(canvases, digits[left], np.zeros((6, 2), int))
    recipes.place(canvases, digits[right], np.full((6, 2), 6))
    np.testing.assert_array_equal(images, recipes.resize(canvases, 28))


def test_no_image_is_in_two_splits(tmp_path):
    splits = {"train": plain([0, 1, 2] * 4), "test": plain([3, 4] * 4)}
    builder = small(tmp_path, splits)
    _, left, right = read(builder, "train")
    assert {*left.tolist(), *right.tolist()} == {0, 1, 2}
    _, left, right = read(builder, "test")
    assert {*left.tolist(), *right.tolist()} == {3, 4}
    assert builder.info.features["left"].num_classes == 5


def test_offsets_are_drawn_up_to_both_ends(tmp_path):
    left = {"train": plain([0] * 200, side=1)}
    right = {"train": (np.zeros((1, 1, 1), "uint8"), np.array([0]))}
    images, _, _ = read(small(tmp_path, left, right, canvas=4, size=4, left_offset=(1, 2)))
    assert {tuple(place) for _, *place in np.argwhere(images)} == {(1, 1), (1, 2), (2, 1), (2, 2)}


def test_what_is_stored_is_found_again_and_other_arguments_are_stored_elsewhere(tmp_path):
    left = {"train": plain(np.arange(10))}
    first = small(tmp_path, left)
    images = read(first)
    again = small(tmp_path, left)
    assert again.is_prepared()
    np.testing.assert_array_equal(read(again)[0], images[0])
    for other in (small(tmp_path, left, seed=1), small(tmp_path, {"train": plain(range(9))})):
        assert not other.is_prepared()
    assert (read(small(tmp_path, left, seed=1))[2] != images[2]).any()


@pytest.mark.parametrize("names", [("test", "val"), ("val", "new")])
def test_splits_of_other_names_are_stored_elsewhere(names, tmp_path):
    zeros, ones = plain([0, 0]), plain([1, 1])
    read(small(tmp_path, {"val": zeros, "test": ones}), "val")
    renamed = small(tmp_path, dict(zip(names, (zeros, ones), strict=True)))
    for split, label in zip(names, (0, 1), strict=True):
        assert read(renamed, split)[1].tolist() == [label, label]


def test_making_the_builder_copies_no_array(tmp_path):
    images = np.zeros((20_000, 28, 28), "uint8"), np.zeros(20_000, int)
    tracemalloc.start()
    multi_mnist({"train": images}, data_dir=tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < images[0].nbytes / 2


def test_every_second_row_is_stored_as_its_copy(tmp_path):
    images, labels = plain(np.arange(10))
    first = small(tmp_path, {"train": (images[::2], labels[::2])})
    second = small(tmp_path, {"train": (images[::2].copy(), labels[::2].copy())})
    assert first.data_dir == second.data_dir


def test_a_model_learns_both_tasks(tmp_path):
    builder = small(tmp_path, {"train": plain([0, 9] * 40)}, {"train": plain([0, 9] * 40)})
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        rows = from_tfds(
            builder, "train", inputs=lambda row: row["image"] / 91, targets=TARGETS
        ).cache()
    tasks = dict.fromkeys(TARGETS, keras_mtl.heads.Classification(10))
    trunk = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(16, activation="relu")])
    model = keras_mtl.architectures.hard_sharing(keras.Input((3, 3, 1)), trunk, tasks)
    model.compile(keras.optimizers.Adam(0.03))
    logs = model.fit(rows.batch(20), epochs=8, verbose=0).history
    assert logs["left_accuracy"][-1] > 0.95
    assert logs["right_accuracy"][-1] > 0.95


DIGITS = {"train": plain([0, 1])}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"left": {"train": (np.zeros((2, 2, 2)), np.arange(2))}}, r"`left\['train'\]`.*float64"),
        ({"left": {"train": (*plain([0])[:1], np.arange(2))}}, r"class id for each of its images"),
        ({"left": {"train": (plain([0, 1])[0], np.ones(2))}}, "dtype float64 for 2 images"),
        ({"right": {"test": plain([0])}}, r"`right` must have the splits of `left`, \['train'\]"),
        ({"left_offset": (0, 2)}, "`left_offset` must be .* from 0 to 1 .* images of 2 pixels"),
        ({"right_offset": (1, 0)}, "`right_offset` must be the lowest and the highest offset"),
        ({"left_offset": (0, 0.5)}, r"highest offset, integers .* received \(0, 0\.5\)"),
        ({"right_offset": "01"}, "`right_offset` must be the lowest and the highest offset"),
        ({"left": {"train": (*plain([0]), 3)}}, r"`left\['train'\]` must be a pair of images and"),
        ({"right_offset": 1}, "`right_offset` must be the lowest and the highest offset"),
        ({"canvas": 1}, "`left_offset` must be"),
        ({"size": 0}, "`size` must be an integer >= 1"),
        ({"left": {}}, "`left` must be a dict from split .*, with one split at least"),
        ({"seed": -1}, "`seed` must be an integer >= 0"),
        ({"copies": 0}, "`copies` must be an integer >= 1"),
    ],
)
def test_values_that_do_not_fit_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        small(tmp_path, **{"left": DIGITS, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"left": plain([0])}, "`left` must be a dict from split"),
        ({"left": {"train": plain([0, 1])[0]}}, r"(?s)must be a pair .*Write `\(images, labels\)`"),
        ({"canvas": "36"}, "`canvas` must be an integer >= 1, received '36' of type str"),
    ],
)
def test_types_that_do_not_fit_are_refused(tmp_path, arguments, message):
    with pytest.raises(TypeError, match=message):
        small(tmp_path, **{"left": DIGITS, **arguments})


def test_offsets_of_any_integer_type_find_what_is_stored(tmp_path):
    first = small(tmp_path, DIGITS, left_offset=(0, 1))
    assert small(tmp_path, DIGITS, left_offset=[np.int64(0), 1]).data_dir == first.data_dir
