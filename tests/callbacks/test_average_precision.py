"""Average precision is logged by epoch, as the head measures it, and can be monitored."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl import architectures
from keras_mtl.callbacks import AveragePrecision
from keras_mtl.heads import Detection, Regression

ROWS, SIZE = 5, 16
NAME = "val_cells_average_precision"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, SIZE, SIZE, 3)).astype("float32")


def scenes(rows=ROWS):
    """Returns labels of 1 to 3 boxes a row."""
    objects = []
    for row in range(rows):
        low = RNG.uniform(0, 0.5, (1 + row % 3, 2))
        boxes = np.concatenate([low, low + 0.4], axis=1)
        objects.append({"boxes": boxes, "labels": RNG.integers(0, 2, len(boxes))})
    return Detection(2).encode(objects)


Y = {"cells": scenes(), "size": np.ones((ROWS, 1), "float32")}


def build(**tasks):
    trunk = keras.layers.Conv2D(4, 4, strides=4)
    tasks = tasks or {"cells": Detection(2, score_threshold=0.0), "size": Regression()}
    model = architectures.hard_sharing(keras.Input((SIZE, SIZE, 3), name="image"), trunk, tasks)
    model.compile(keras.optimizers.SGD(0.01))
    return model


def fit(model, *callbacks, epochs=1):
    y = {task: Y[task] for task in model.output if task in Y}
    return model.fit(X, y, epochs=epochs, verbose=0, callbacks=list(callbacks)).history


@pytest.mark.parametrize("batch_size", [2, 100])
def test_it_is_what_the_head_measures_over_all_rows_at_once(batch_size):
    model = build()
    logged = fit(model, AveragePrecision(X, Y, batch_size=batch_size))[NAME]
    predictions = model.predict(X, verbose=0)["cells"]
    precisions = model.get_layer("cells").average_precision(Y["cells"], predictions)
    assert logged == [pytest.approx(np.nanmean(precisions), abs=1e-6)]
    assert logged[0] > 0


def test_several_thresholds_are_averaged():
    model = build()
    both = fit(model, AveragePrecision(X, Y, iou=[0.1, 0.3]))[NAME][0]
    predictions = model.predict(X, verbose=0)["cells"]
    head = model.get_layer("cells")
    one, other = (
        np.nanmean(head.average_precision(Y["cells"], predictions, iou)) for iou in (0.1, 0.3)
    )
    assert one > other
    assert both == pytest.approx((one + other) / 2, abs=1e-6)


def test_a_threshold_may_be_any_number_or_array_of_numbers():
    for iou in (0.5, np.float32(0.5), np.array(0.5), np.array([0.5]), (0.5,)):
        assert AveragePrecision(X, Y, iou=iou).iou == [0.5]
    assert len(AveragePrecision(X, Y, iou=np.arange(0.5, 1, 0.05)).iou) == 10


def test_it_is_measured_every_few_epochs():
    assert len(fit(build(), AveragePrecision(X, Y, update_freq=2), epochs=3)[NAME]) == 2


def test_a_callback_behind_it_monitors_it():
    stop = keras.callbacks.EarlyStopping(NAME, mode="max", min_delta=2.0, patience=1)
    history = fit(build(), AveragePrecision(X, Y), stop, epochs=5)
    assert len(history[NAME]) == 2  # the second is never better by so much


def test_the_task_must_be_told_where_several_detect():
    model = build(cells=Detection(2), nuclei=Detection(2))
    y = {"cells": Y["cells"], "nuclei": Y["cells"]}
    with pytest.raises(ValueError, match=r"needs `task`, .*\['cells', 'nuclei'\]"):
        model.fit(X, y, verbose=0, callbacks=[AveragePrecision(X, y)])
    logs = model.fit(X, y, verbose=0, callbacks=[AveragePrecision(X, y, "nuclei")]).history
    assert "val_nuclei_average_precision" in logs
    assert NAME not in logs


def test_a_callback_that_monitors_it_does_not_count_epochs_without_a_value():
    stop = keras.callbacks.EarlyStopping(NAME, mode="max", min_delta=2.0, patience=1)
    with pytest.warns(UserWarning, match="which is not available"):
        history = fit(build(), AveragePrecision(X, Y, update_freq=3), stop, epochs=9)
    assert len(history["loss"]) == 4  # the fourth is the second with a value


def changed(**parts):
    """Labels with other parts, each a function of those there are."""
    labels = {key: array.copy() for key, array in Y["cells"].items()}
    return {"y": {"cells": {**labels, **{key: of(labels[key]) for key, of in parts.items()}}}}


def with_class(number):
    """Returns a function that gives the first object of the third row this class."""

    def change(labels):
        labels[2, 0] = number
        return labels

    return change


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"y": {"size": Y["size"]}}, ValueError, r"`y\['cells'\]` must be a dict with 'boxes'"),
        ({"y": {"cells": scenes(3)}}, ValueError, r"`x` has 5 rows, and `y\['cells'\]` has 3"),
        (
            changed(boxes=lambda boxes: boxes[..., :3]),
            ValueError,
            r"`y\['cells'\]\['boxes'\]` must have shape \(batch, max_boxes, 4\).* \(5, 3, 3\)",
        ),
        (
            changed(labels=lambda labels: labels[..., None]),
            ValueError,
            r"`y\['cells'\]\['labels'\]` must be integers \(batch, max_boxes\).* \(5, 3, 1\)",
        ),
        (
            changed(labels=lambda labels: labels[:, :2]),
            ValueError,
            r"must have a class for each of the 3 boxes of a row\..* \(5, 2\)",
        ),
        (
            changed(labels=with_class(2)),
            ValueError,
            r"must hold class ids from 0 to 1, or -1 .* Received 2\. First in row 2",
        ),
        (changed(labels=with_class(-2)), ValueError, "must hold class ids from 0 to 1.*-2"),
        (
            changed(boxes=lambda boxes: boxes * 9),
            ValueError,
            r"`y\['cells'\]\['boxes'\]` must lie within the image",
        ),
        (
            changed(labels=lambda labels: np.full_like(labels, -1)),
            ValueError,
            r"`y\['cells'\]` must have at least one labelled object .*received 5 rows without",
        ),
        (
            changed(boxes=lambda boxes: np.full_like(boxes, np.nan)),
            ValueError,
            "must have at least one labelled object",
        ),
        (
            {"x": X[:, :7]},
            ValueError,
            r"`x` of AveragePrecision must be what the model takes, of shape \(None, 16, 16, 3\), "
            r"received \(5, 7, 16, 3\)",
        ),
        ({"x": {"photo": X}}, ValueError, "`x` of AveragePrecision must be what the model takes"),
        ({"task": "size"}, TypeError, "Task 'size' has no head that detects"),
        ({"task": "cell"}, ValueError, r"`task` must be .*cells"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_the_first_step(arguments, error, message):
    model = build()
    with pytest.raises(error, match=message):
        fit(model, AveragePrecision(**{"x": X, "y": Y, **arguments}))
    assert int(model.optimizer.iterations.numpy()) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"y": Y["cells"]["boxes"]}, TypeError, "`y` must be a dict from task to labels"),
        ({"x": tf.constant(1.0)}, TypeError, "`x` must be an array of rows"),
        ({"x": np.float32(1.0)}, TypeError, "`x` must be an array of rows"),
        ({"x": X[:0]}, ValueError, "equally many rows, at least 1"),
        ({"iou": 1.5}, ValueError, "`iou`"),
        ({"iou": [0.5, "high"]}, TypeError, "`iou`"),
        ({"iou": []}, TypeError, "`iou`"),
        ({"iou": np.array(1.5)}, ValueError, "`iou`"),
        ({"iou": np.array([[0.5]])}, TypeError, "`iou`"),
        ({"batch_size": 0}, ValueError, "`batch_size`"),
        ({"update_freq": 0}, ValueError, "`update_freq`"),
    ],
)
def test_arguments_out_of_range_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        AveragePrecision(**{"x": X, "y": Y, **arguments})
