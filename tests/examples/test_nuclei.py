"""The nuclei example reads its file, splits by kind of image and measures image by image."""

import json

import keras
import numpy as np
import pytest

ROWS = ["single task", "multi-task", "mean count"]
MEASURES = {"nuclei", "boundary", "count", "minutes"}


@pytest.fixture(scope="module")
def nuclei(example):
    return example("nuclei")


def make_file(path, rows=30, size=16):
    """Writes dark, bright and coloured images, a third of each, with one or two square nuclei."""
    images = np.zeros((rows, size, size, 3), "uint8")
    labels = np.zeros((rows, size, size), "uint16")
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        label[2:6, 2:7] = 5
        label[9:13, 9 : 9 + 4 * (row % 2)] = 9  # numbers need not follow each other
        background = ([10, 10, 10], [220, 220, 220], [200, 120, 180])[row % 3]
        image[:] = background
        image[label > 0] = ([90, 90, 90], [150, 150, 150], [120, 40, 150])[row % 3]
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture(scope="module")
def result(quick, tmp_path_factory):
    path = make_file(tmp_path_factory.mktemp("dsb2018") / "cells.npz")
    # The same network with fewer levels, to trace less.
    return quick("nuclei", "--data", path, WIDTHS=(4, 8))


def test_table_has_every_method_and_measure(result):
    assert list(result["rows"]) == ROWS
    *models, mean = (set(row) for row in result["rows"].values())
    assert all(measured == MEASURES for measured in models)
    assert mean == {"count", "minutes"}
    head = result["table"].splitlines()[0]
    assert head == "| method | nuclei IoU | boundary F1 | count MAE | minutes a seed |"


def test_models_are_measured_and_the_mean_only_for_its_count(result):
    *models, mean = result["rows"].values()
    for row in models:
        assert 0 <= row["nuclei"][0] <= 1
        assert 0 <= row["boundary"][0] <= 1
        assert row["minutes"][0] > 0
    # The counts are 1 and 2, about as often.
    assert mean["count"][0] == pytest.approx(0.5, abs=0.1)
    assert result["table"].splitlines()[4].startswith("| mean count |  |  | 0.")


def test_guess_is_the_mean_of_training_counts(nuclei):
    counts = {"train": [1.0, 5.0], "validation": [100.0], "test": [2.0, 7.0]}
    splits = {part: (None, {"count": np.array(values)}) for part, values in counts.items()}
    assert nuclei.guess(splits)["count"] == 2.5  # 3 misses by 1 and 4


def test_everything_lies_in_one_folder(result):
    folder = result["folder"]
    assert {path.name for path in folder.iterdir()} == {"results.json", "table.md", "nuclei.png"}
    assert folder.parent.name == "keras_mtl_runs"
    assert list(json.loads((folder / "results.json").read_text())[0]) == ROWS


def test_kinds_go_by_colour_and_brightness(nuclei):
    images = np.zeros((3, 8, 8, 3), "uint8")
    images[0] = [10, 11, 12]  # nearly grey
    images[1] = [200, 200, 200]
    images[2] = [200, 120, 180]
    assert nuclei.kinds_of(images).tolist() == ["fluorescence", "bright-field", "stained"]


def test_split_holds_each_kind_in_proportion_and_each_image_once(nuclei):
    kinds = np.array(["stained"] * 10 + ["fluorescence"] * 50)
    rows = nuclei.split_rows(kinds, seed=3)
    assert sorted(np.concatenate(list(rows.values()))) == list(range(60))
    stained = {split: int(np.sum(part < 10)) for split, part in rows.items()}
    assert stained == {"train": 6, "validation": 2, "test": 2}
    assert {split: len(part) for split, part in rows.items()} == {
        "train": 36,
        "validation": 12,
        "test": 12,
    }


def test_seeds_share_their_test_images_and_nothing_else(nuclei):
    kinds = np.array(["stained"] * 10 + ["fluorescence"] * 50)
    one, other = (nuclei.split_rows(kinds, seed=seed) for seed in (3, 4))
    assert set(one["test"]) == set(other["test"])
    assert set(one["validation"]) != set(other["validation"])


def test_kind_with_too_few_images_is_named_with_its_rows(nuclei):
    kinds = np.array(["fluorescence"] * 8 + ["stained"] * 4)
    with pytest.raises(ValueError, match=r"there are 4 of stained, in the rows \[8, 9, 10, 11\]"):
        nuclei.split_rows(kinds, seed=0)


def test_boundary_lies_on_both_sides_of_a_change_of_label(nuclei):
    labels = np.array(
        [
            [1, 1, 1, 2],
            [1, 1, 1, 2],
            [1, 1, 1, 1],
            [1, 1, 1, 1],
        ]
    )
    expected = [
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [0, 0, 0, 1],
        [0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(nuclei.boundaries_of(labels[None])[0], expected)


def test_examples_hold_counts_of_labels_and_standardised_images(nuclei):
    images = np.zeros((2, 2, 4, 3), "uint8")
    images[0, 0] = 100  # mean 50, deviation 50, to which 1 is added
    labels = np.array([[[7, 7, 0, 3], [7, 7, 0, 0]], [[0] * 4, [0] * 4]])
    values, targets = nuclei.make_examples(images, labels)
    np.testing.assert_allclose(values[0, :, 0, 0], [50 / 51, -50 / 51], rtol=1e-6)
    assert np.all(values[1] == 0)
    np.testing.assert_array_equal(targets["count"], [[2.0], [0.0]])
    np.testing.assert_array_equal(targets["nuclei"][0, ..., 0], [[1, 1, 0, 1], [1, 1, 0, 0]])
    np.testing.assert_array_equal(targets["boundary"][0, ..., 0], [[0, 1, 1, 1], [0, 1, 1, 1]])
    assert not targets["boundary"][1].any()


def test_image_and_maps_are_flipped_alike_across_the_diagonal(nuclei):
    keras.utils.set_random_seed(0)
    pixels = np.arange(16, dtype="float32").reshape(4, 4, 1)
    targets = {"nuclei": pixels.astype("int32"), "count": np.array([3.0], "float32")}
    seen = set()
    for _ in range(20):
        image, flipped = nuclei.flip(pixels, targets)
        np.testing.assert_array_equal(image, flipped["nuclei"])
        assert flipped["count"][0] == 3.0
        seen.add(tuple(np.array(image).ravel()))
    assert seen == {tuple(pixels.ravel()), tuple(pixels[..., 0].T.ravel())}


class Fixed:
    """Predicts what it is given."""

    def __init__(self, **found):
        self.found = found

    def predict(self, images, **_):
        return self.found


def test_measures_are_means_over_images(nuclei):
    answers = {
        "nuclei": np.array([[[1, 1], [0, 0]], [[1, 1], [1, 1]]])[..., None],
        "boundary": np.array([[[1, 1], [0, 0]], [[0, 0], [0, 0]]])[..., None],
        "count": np.array([[2.0], [6.0]]),
    }
    inside = np.array([[[0.9, 0.2], [0.6, 0.1]], [[0.9, 0.9], [0.9, 0.9]]])
    model = Fixed(
        nuclei=np.stack([1 - inside, inside], axis=-1),  # IoU 1/3 and 1
        boundary=np.array([[[0.9, 0.2], [0.1, 0.1]], [[0.1, 0.1], [0.1, 0.1]]])[..., None],
        count=np.array([[3.0], [6.5]]),
    )
    values = nuclei.measure(model, (np.zeros((2, 2, 2, 3)), answers))
    assert values == pytest.approx(
        {
            "nuclei": (1 / 3 + 1) / 2,
            "boundary": (2 / 3 + 1) / 2,  # nothing to find and nothing found is right
            "count": 0.75,
        }
    )


def test_a_model_that_only_counts_has_no_way_up(nuclei):
    down = nuclei.make_trunk((16, 16, 3), ["image"])
    both = nuclei.make_trunk((16, 16, 3), ["image", "pixels"])
    assert not any("transpose" in layer.name for layer in down.layers)
    assert down.output["image"].shape == both.output["image"].shape == (None, 2, 2, 64)
    assert both.output["pixels"].shape == (None, 16, 16, 8)


WRONG = {
    "no labels": (
        {"images": np.zeros((2, 8, 8, 3), "uint8"), "masks": np.zeros(1)},
        r"cells.npz lacks the arrays \['labels'\], it has \['images', 'masks'\]",
    ),
    "images without channels": (
        {"images": np.zeros((2, 8, 8), "uint8"), "labels": np.zeros((2, 8, 8), int)},
        r"`images` in .*cells.npz must be uint8 of shape \(n, .*received uint8 of .*\(2, 8, 8\)",
    ),
    "images scaled already": (
        {"images": np.zeros((2, 8, 8, 3), "float32"), "labels": np.zeros((2, 8, 8), int)},
        r"`images` in .* must be uint8 .*received float32 of shape",
    ),
    "labels of other images": (
        {"images": np.zeros((2, 8, 8, 3), "uint8"), "labels": np.zeros((3, 8, 8), int)},
        r"`labels` in .* integers >= 0 of shape \(2, 8, 8\), received int64 of shape \(3, 8, 8\)",
    ),
    "labels that are probabilities": (
        {"images": np.zeros((2, 8, 8, 3), "uint8"), "labels": np.zeros((2, 8, 8))},
        r"`labels` in .* must be integers .*received float64",
    ),
    "labels below 0": (
        {"images": np.zeros((2, 8, 8, 3), "uint8"), "labels": np.full((2, 8, 8), -1)},
        r"`labels` in .* must be integers >= 0",
    ),
    "sizes that do not halve": (
        {"images": np.zeros((2, 12, 12, 3), "uint8"), "labels": np.zeros((2, 12, 12), int)},
        r"`images` in .* square, their size a multiple of 8, received .* \(2, 12, 12, 3\)",
    ),
    "no square": (
        {"images": np.zeros((2, 8, 16, 3), "uint8"), "labels": np.zeros((2, 8, 16), int)},
        r"`images` in .* square, their size a multiple of 8, received .* \(2, 8, 16, 3\)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_refused_with_what_was_expected(nuclei, tmp_path, case):
    arrays, message = WRONG[case]
    np.savez(tmp_path / "cells.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        nuclei.load(tmp_path / "cells.npz")
