"""Cells are read, split, mirrored, measured and served as the example says."""

import io
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from matplotlib.figure import Figure

ROWS = ["single task", "equal weights", "multi-task", "training mean", "training median"]
# Pixels of 640 x 480: left, top, right, bottom.
RED, WHITE = ("RBC", 64, 48, 128, 96), ("WBC", 320, 240, 480, 360)
PLATELET, NO_AREA = ("Platelets", 0, 0, 32, 48), ("RBC", 100, 100, 100, 100)
OBJECTS = {
    "a": [RED, WHITE, PLATELET],
    "b": [RED, RED, WHITE, NO_AREA],
    "c": [WHITE],
    "d": [RED, PLATELET],
    "e": [RED],
    "f": [WHITE, RED, PLATELET],
}
LISTS = {"train": "a b c", "val": "d", "test": "e f"}


def annotation(objects):
    """Returns an annotation as BCCD writes it."""
    boxes = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for name, left, top, right, bottom in objects
    )
    size = "<size><width>640</width><height>480</height><depth>3</depth></size>"
    return f"<annotation>{size}{boxes}</annotation>".encode()


def photograph(objects):
    """Returns a JPEG file with a dark patch in each box."""
    pixels = np.full((480, 640, 3), 220, "uint8")
    for _, left, top, right, bottom in objects:
        pixels[top:bottom, left:right] = 60
    return tf.io.encode_jpeg(pixels).numpy()


def write(folder, changes=()):
    """Writes files like those of BCCD, changed or (None) left out, and returns their folder."""
    content = {f"ImageSets/Main/{split}.txt": stems.encode() for split, stems in LISTS.items()}
    for stem, objects in OBJECTS.items():
        content[f"Annotations/{stem}.xml"] = annotation(objects)
        content[f"JPEGImages/{stem}.jpg"] = photograph(objects)
    for name, data in {**content, **dict(changes)}.items():
        if data is not None:
            path = folder / "BCCD" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return folder / "BCCD"


@pytest.fixture(scope="module")
def cells(example):
    return example("cells")


@pytest.fixture(scope="module")
def result(quick, tmp_path_factory):
    return quick("cells", "--data", write(tmp_path_factory.mktemp("bccd")))


def test_table_has_a_row_for_every_method_and_a_column_for_every_measure(result):
    lines = [line.strip("| ").split(" | ") for line in result["table"].splitlines()]
    differences = [f"{method}, less single task" for method in ROWS[1:]]
    assert [line[0] for line in lines[2:]] == ROWS + differences
    assert lines[0] == [
        "method",
        "mAP at IoU 0.5 (%)",
        "RBC, error of count",
        "WBC, error of count",
        "Platelets, error of count",
        "minutes a seed",
    ]


def test_constants_are_those_of_the_training_photographs(result):
    # Training photographs have 1, 2 and 0 red cells, the test ones 1 and 1; and so on.
    expected = {
        "training mean": [0.0, 0.5, (1 / 3 + 2 / 3) / 2],
        "training median": [0.0, 0.5, 0.5],
    }
    for constant, errors in expected.items():
        row = result["rows"][constant]
        assert [row[name][0] for name in ("RBC", "WBC", "Platelets")] == pytest.approx(errors)
        assert "average_precision" not in row


def test_methods_differ_in_the_weight_of_counts(cells):
    weights = [cells.make_tasks(x)["counts"].loss_weight for x in cells.COUNT_WEIGHTS.values()]
    assert list(cells.COUNT_WEIGHTS) == ROWS[1:3]
    assert weights == [1.0, 0.03]


def test_everything_lies_in_one_folder_with_a_model_that_serves_boxes(result):
    names = {path.name for path in result["folder"].iterdir()}
    assert names == {"cells.png", "results.json", "served", "table.md"}
    served = tf.saved_model.load(str(result["folder"] / "served"))
    image = tf.zeros((2, 192, 256, 3), "uint8")
    answer = served.signatures["serving_default"](image=image)
    assert answer["counts"].shape == (2, 3)
    assert answer["cells_boxes"].shape == (2, 100, 4)
    parts = {"cells_boxes", "cells_labels", "cells_scores"}
    assert set(served.signatures["serve_cells"](image=image)) == parts


def test_photographs_are_read_by_split_with_boxes_and_counts(cells, tmp_path, capsys):
    splits = cells.read(write(tmp_path))
    assert {split: images.shape for split, (images, _) in splits.items()} == {
        "train": (3, 192, 256, 3),
        "validation": (1, 192, 256, 3),
        "test": (2, 192, 256, 3),
    }
    images, labels = splits["train"]
    assert capsys.readouterr().out.startswith("train: 3 photographs, 7 boxes, dropped: 1\n")
    np.testing.assert_array_equal(labels["counts"], [[1, 1, 1], [2, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(labels["cells"]["labels"][0], [0, 1, 2, -1])
    expected = [[0.1, 0.1, 0.2, 0.2], [0.5, 0.5, 0.75, 0.75], [0, 0, 0.05, 0.1], [-1] * 4]
    np.testing.assert_allclose(labels["cells"]["boxes"][0], expected, atol=1e-7)
    # The white cell is dark where its box is, after resizing: JPEG changes values a little.
    assert np.all(np.abs(images[0, 96:144, 128:192].astype(int) - 60) < 20)
    assert np.all(images[0, 150:, 200:] > 200)


def test_a_tar_file_is_read_as_its_folder_is(cells, tmp_path):
    folder = write(tmp_path)
    with tarfile.open(tmp_path / "bccd.tar", "w") as archive:
        archive.add(folder, "BCCD")
        archive.addfile(tarfile.TarInfo("LICENSE"), io.BytesIO())
    from_tar, from_folder = cells.read(tmp_path / "bccd.tar"), cells.read(folder)
    for split, (images, labels) in from_tar.items():
        np.testing.assert_array_equal(images, from_folder[split][0])
        np.testing.assert_array_equal(labels["counts"], from_folder[split][1]["counts"])


BAD_SIDE = annotation([("RBC", "left", 0, 1, 1)])
NO_SIZE = annotation([RED]).replace(b"<width>640</width>", b"")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"JPEGImages/d.jpg": b"GIF89a"}, r"JPEGImages/d\.jpg is no JPEG image"),
        ({"JPEGImages/d.jpg": None}, r"JPEGImages/d\.jpg is missing, which Annotations/d\.xml"),
        ({"Annotations/d.xml": None}, r"Annotations/d\.xml is missing, which its split"),
        ({"Annotations/d.xml": b"<annotation>"}, r"Annotations/d\.xml is no annotation"),
        ({"Annotations/d.xml": BAD_SIDE}, r"d\.xml is no annotation .* 'left'"),
        ({"Annotations/d.xml": NO_SIZE}, r"d\.xml is no annotation that can be read"),
        (
            {"Annotations/d.xml": annotation([("rbc", 0, 0, 1, 1)])},
            r"Annotations/d\.xml names the classes \['rbc'\], expected \('RBC', 'WBC', 'Plat",
        ),
        ({"ImageSets/Main/val.txt": None}, r"Main/val\.txt is missing"),
        ({"ImageSets/Main/val.txt": b""}, r"Main/val\.txt lists no photographs"),
        ({"ImageSets/Main/test.txt": b"e a"}, "a is in two splits, 'train' and 'test'"),
    ],
)
def test_bad_files_are_refused_by_name(cells, tmp_path, changes, message):
    folder = write(tmp_path, changes)
    with pytest.raises(ValueError, match=message):
        cells.read(folder)


def test_what_is_neither_folder_nor_tar_file_is_refused(cells, tmp_path):
    (tmp_path / "notes").write_text("no archive")
    with pytest.raises(ValueError, match="notes is neither a folder nor a tar file"):
        cells.read(tmp_path / "notes")


def test_rows_by_name_have_the_same_form(cells):
    import tensorflow_datasets as tfds

    def examples(self, **arguments):
        del self, arguments
        boxes = [[[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 0.5]]]  # top, left, bottom, right
        return tf.data.Dataset.from_tensor_slices(
            {
                "image": np.full((1, 480, 640, 3), 7, "uint8"),
                "objects": {"bbox": np.array(boxes, "float32"), "label": [[0, 2]]},
            }
        )

    with tfds.testing.mock_data(as_dataset_fn=examples):
        images, labels = cells.read(None)["validation"]
    assert images.shape == (1, 192, 256, 3)
    assert np.all(images == 7)
    np.testing.assert_allclose(
        labels["cells"]["boxes"], [[[0.2, 0.1, 0.4, 0.3], [0.0, 0.0, 0.5, 1.0]]], rtol=1e-6
    )
    np.testing.assert_array_equal(labels["counts"], [[1, 0, 1]])


def test_mirrored_boxes_stay_on_their_cells(cells):
    image = np.zeros((10, 10, 3), "uint8")
    image[2:5, 1:3] = 255
    boxes = np.array([[0.1, 0.2, 0.3, 0.5], [-1, -1, -1, -1]], "float32")
    labels = {"cells": {"boxes": boxes, "labels": np.array([1, -1])}, "counts": np.ones(3)}
    tf.random.set_seed(0)
    rows = tf.data.Dataset.from_tensors((image, labels)).repeat(32).map(cells.flip)
    seen = set()
    for mirrored, answer in rows.as_numpy_iterator():
        left, top, right, bottom = np.rint(10 * answer["cells"]["boxes"][0]).astype(int)
        assert np.all(mirrored[top:bottom, left:right] == 255)
        assert np.sum(mirrored) == np.sum(image.astype(int))
        np.testing.assert_array_equal(answer["cells"]["boxes"][1], boxes[1])
        np.testing.assert_array_equal(answer["cells"]["labels"], [1, -1])
        seen.add((left, top))
    assert seen == {(1, 2), (7, 2), (1, 5), (7, 5)}


def test_batches_hold_the_labels_of_their_tasks(cells):
    split = np.zeros((3, 192, 256, 3), "uint8"), {"counts": np.arange(9.0).reshape(3, 3)}
    images, labels = next(cells.make_batches(split, ["counts"]).as_numpy_iterator())
    assert images.shape == (3, 192, 256, 3)
    assert sorted(labels["counts"][:, 0]) == [0, 3, 6]


def test_errors_of_counts_are_means_of_absolute_differences(cells):
    counts, predicted = np.array([[1.0, 2, 0], [3, 0, 0]]), np.array([[2.0, 2, 0.5], [1, 1, 0]])
    expected = {"RBC": 1.5, "WBC": 0.5, "Platelets": 0.25}
    assert cells.count_errors(counts, predicted) == expected


def test_counts_are_rounded_to_whole_cells(cells, tmp_path):
    images, labels = cells.read(write(tmp_path))["test"]

    class Rates:
        def predict(self, images, **arguments):
            return {"counts": labels["counts"] + np.array([0.4, -0.4, 0.6], "float32")}

    errors = cells.measure(Rates(), (images, labels))
    assert errors == {"RBC": 0.0, "WBC": 0.0, "Platelets": 1.0}


class Found:
    """A model that finds the right box of the first photograph and the wrong ones of others."""

    def predict(self, images, **arguments):
        del arguments
        boxes = np.tile([[[0.1, 0.1, 0.2, 0.2]]], (len(images), 1, 1))
        return {
            "cells": {
                "boxes": boxes,
                "labels": np.zeros((len(images), 1), int),
                "scores": np.linspace(0.9, 0.1, len(images))[:, None],
            }
        }


def test_boxes_are_drawn_in_the_colours_of_the_legend(cells):
    answer = {
        "cells_boxes": np.array([[0, 0, 1, 1], [0, 0, 0.5, 0.5]]),
        "cells_labels": np.array([2, 1]),
        "cells_scores": np.array([0.9, 0.8]),
        "counts": np.zeros(3),
    }
    axes = Figure().subplots()
    cells.draw_answer(axes, np.zeros((*cells.SIZE, 3), "uint8"), answer, np.zeros(3))
    legend = axes.get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    colours = [line.get_color() for line in legend.legend_handles]
    assert names == ["RBC", "WBC", "Platelets"]
    drawn = {line.get_xdata()[1]: line.get_color() for line in axes.lines if len(line.get_xdata())}
    assert drawn == {256: colours[2], 128: colours[1]}


def test_average_precision_is_the_mean_over_classes_that_occur(cells, tmp_path):
    # The red cell of `e` is found, and that of `f`; the white cell and the platelet are not.
    measured = cells.measure(Found(), cells.read(write(tmp_path))["test"])
    assert measured == {"average_precision": pytest.approx(100 / 3)}
