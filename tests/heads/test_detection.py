"""Objects of images: who finds what, the loss by hand, suppression, precision, learning."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_mtl
from keras_mtl.core import boxes as box_functions
from keras_mtl.core.average_precision import average_precision
from keras_mtl.core.detection_loss import DetectionLoss
from keras_mtl.core.locations import assign, locations
from keras_mtl.heads import Classification, Detection

random = np.random.default_rng(0)


def batch_of_one(boxes, labels):
    return np.array([boxes], "float32"), np.array([labels], "int32")


def test_each_location_finds_the_smallest_object_around_it():
    boxes, labels = batch_of_one([[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0, 0, 0.4, 0.4]], [1, 0, -1])
    found = assign(boxes, labels, locations([(2, 2)]))
    np.testing.assert_array_equal(found.labels, [[0, 1, 1, 1]])
    np.testing.assert_array_equal(found.boxes[0, 0], boxes[0, 1])
    # sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) with the sides 1/4 and 3/4
    np.testing.assert_allclose(found.centerness, [[1, 1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


def test_only_locations_within_1_5_cells_of_the_middle_find_it():
    boxes, labels = batch_of_one([[0, 0, 0.9, 1]], [0])  # the middle is 3.6 cells from the left
    found = assign(boxes, labels, locations([(1, 8)]))
    np.testing.assert_array_equal(found.labels, [[-1, -1, 0, 0, 0, -1, -1, -1]])
    np.testing.assert_array_equal(found.centerness[0, :2], 0)


def test_fine_maps_find_small_objects_and_coarse_ones_large():
    at = locations([(16, 16), (8, 8)])
    for box, fine in ([0, 0, 1, 1], False), ([0.25, 0.25, 0.75, 0.75], True):
        labels = assign(*batch_of_one([box], [0]), at).labels[0]
        assert np.any(labels[:256] == 0) == fine
        assert np.any(labels[256:] == 0) != fine


def test_no_boxes_at_all_are_no_objects():
    found = assign(np.zeros((2, 0, 4), "float32"), np.zeros((2, 0), "int32"), locations([(2, 2)]))
    np.testing.assert_array_equal(found.labels, -np.ones((2, 4)))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([0.0, 0.0, 0.5, 0.5], 1.0),
        ([0.0, 0.0, 0.25, 0.5], 0.5),
        ([0.5, 0.5, 1.0, 1.0], -0.5),  # they touch: half of the hull is empty
        ([0.3, 0.3, 0.3, 0.3], 0.0),  # no area
    ],
)
def test_generalized_iou(other, expected):
    value = box_functions.generalized_iou(other, [0.0, 0.0, 0.5, 0.5])
    assert float(value) == pytest.approx(expected, abs=1e-6)


def two_cells(class_logits=(0.0, 0.0), centerness_logits=(0.0, 0.0)):
    """Predictions of one class by two cells side by side, the left box half as high as its cell."""
    return {
        "boxes": np.array([[[0, 0, 0.5, 0.5], [0.9, 0.9, 0.1, 0.1]]], "float32"),
        "classes": keras.activations.sigmoid(np.reshape(class_logits, (1, 2, 1)).astype("float32")),
        "centerness": keras.activations.sigmoid(np.array([centerness_logits], "float32")),
    }


LEFT = {"boxes": np.array([[[0, 0, 0.5, 1]]], "float32"), "labels": np.array([[0]])}
LN2 = np.log(2)


def test_loss_by_hand():
    loss = DetectionLoss(1, [(1, 2)])
    # focal of p = 1/2: 1/4 * 1/4 ln 2 right, 3/4 * 1/4 ln 2 wrong; the IoU is 1/2; centerness 1.
    expected = (0.0625 + 0.1875) * LN2 + 0.5 + LN2
    assert float(loss(LEFT, two_cells())) == pytest.approx(expected, rel=1e-5)
    nothing = {**LEFT, "labels": np.array([[-1]])}
    assert float(loss(nothing, two_cells())) == pytest.approx(2 * 0.1875 * LN2, rel=1e-5)


def test_loss_is_divided_by_the_locations_that_find_an_object():
    both = {"boxes": np.array([[[0, 0, 1, 1]]], "float32"), "labels": np.array([[0]])}
    predictions = two_cells()
    predictions["boxes"] = np.array([[[0, 0, 1, 0.5], [0, 0, 1, 1]]], "float32")
    # centerness of both: sqrt(1/3); its crossentropy at p = 1/2 is ln 2 whatever it is
    expected = (2 * 0.0625 * LN2 + 0.5 + 0.0 + 2 * LN2) / 2
    assert float(DetectionLoss(1, [(1, 2)])(both, predictions)) == pytest.approx(expected, rel=1e-5)


def test_loss_is_stable_where_probabilities_are_not():
    wrong = two_cells((-1e8, 1e8), (-1e8, 1e8))
    # focal: 1/4 * 1e8 + 3/4 * 1e8; centerness: 1e8
    value = DetectionLoss(1, [(1, 2)])(LEFT, wrong)
    assert float(value) == pytest.approx(2e8, rel=1e-5)
    right = two_cells((1e8, -1e8), (1e8, -1e8))
    assert float(DetectionLoss(1, [(1, 2)])(LEFT, right)) == pytest.approx(0.5, rel=1e-5)


def test_loss_compiles_and_has_the_same_gradient():
    loss, logits = DetectionLoss(1, [(1, 2)]), tf.constant([0.5, -1.0])

    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(logits)
            classes = keras.activations.sigmoid(tf.reshape(logits, (1, 2, 1)))
            value = loss(LEFT, {**two_cells(), "classes": classes})
        return value, tape.gradient(value, logits)

    compiled = tf.function(gradient, jit_compile=True)()
    for one, other in zip(gradient(), compiled, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_loss_reads_probabilities_that_carry_no_logits():
    plain = {key: np.asarray(value) for key, value in two_cells((1.0, -2.0), (0.5, 0.0)).items()}
    loss = DetectionLoss(1, [(1, 2)])
    expected = float(loss(LEFT, two_cells((1.0, -2.0), (0.5, 0.0))))
    assert float(loss(LEFT, plain)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", box_functions.FORMATS)
def test_loss_and_answers_are_the_same_in_every_format(name):
    head = Detection(1, name, image_size=(20, 40), score_threshold=0.0)
    head.build((None, 1, 2, 3))
    labels = {**LEFT, "boxes": head.format.from_relative(LEFT["boxes"])}
    predictions = two_cells()
    plain = DetectionLoss(1, [(1, 2)])(LEFT, predictions)
    predictions["boxes"] = head.format.from_relative(predictions["boxes"])
    assert float(head.default_loss()(labels, predictions)) == pytest.approx(float(plain), rel=1e-5)
    served = head.decode(predictions)["boxes"][0, :1]
    np.testing.assert_allclose(head.format.to_relative(served), [[0, 0, 0.5, 0.5]], atol=1e-6)


@pytest.mark.parametrize("on_bad_box", ["error", "drop", "clip"])
def test_bad_boxes_are_found_dropped_or_clipped(on_bad_box):
    boxes = [[0.2, 0.2, 0.6, 0.6], [0.5, 0.5, 0.5, 0.9], [0.5, 0.5, 1.5, 1.0], [1.1, 0, 1.2, 1]]
    labels = dict(zip(("boxes", "labels"), batch_of_one(boxes, [0] * 4), strict=True))
    head = Detection(1, on_bad_box=on_bad_box)
    np.testing.assert_array_equal(head.bad_boxes(labels), [[False, True, True, True]])
    repaired, ids = box_functions.repair(labels["boxes"], labels["labels"], on_bad_box)
    kept = {"error": [0, -1, 0, 0], "drop": [0, -1, -1, -1], "clip": [0, -1, 0, -1]}[on_bad_box]
    np.testing.assert_array_equal(ids, [kept])
    if on_bad_box == "clip":
        np.testing.assert_array_equal(repaired[0, 2], [0.5, 0.5, 1, 1])


def test_decode_keeps_the_best_of_boxes_that_overlap():
    head = Detection(2, max_detections=4, score_threshold=0.3, iou_threshold=0.5)
    predictions = {
        "boxes": np.array(
            [[[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.4], [0, 0, 0.5, 0.5], [0.6, 0.6, 1.2, 1], [0] * 4]],
            "float32",
        ),
        "classes": np.array([[[0.81, 0], [0.9, 0], [0, 0.64], [0.36, 0], [0.04, 0]]], "float32"),
        "centerness": np.array([[1, 0.4, 1, 1, 1]], "float32"),
    }
    served = head.decode(predictions)
    # sqrt(class * centerness): 0.9; 0.6, which has an IoU of 0.8 with the first; 0.8; 0.6; 0.2
    np.testing.assert_allclose(served["scores"], [[0.9, 0.8, 0.6, 0]], rtol=1e-5)
    np.testing.assert_array_equal(served["labels"], [[0, 1, 0, -1]])
    best = [[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5], [0.6, 0.6, 1, 1], [-1] * 4]
    np.testing.assert_allclose(served["boxes"][0], best, atol=1e-6)


def test_average_precision_by_hand():
    head = Detection(3)
    box, elsewhere = [0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]
    one = {"boxes": [box], "labels": [0]}
    labels = head.encode([one, one, None])
    two = {"boxes": [box, elsewhere], "labels": [0, 0]}
    # The last counts for nothing: its row has no label.
    found = head.encode([two, {"boxes": [box, box], "labels": [0, 1]}, one])
    found["scores"] = np.array([[0.9, 0.8], [0.7, 0.7], [1.0, 0.0]])
    # Precision is 1 up to recall 0.5, then 2/3, at the recalls 0, 0.01, ..., 1.
    expected = [(51 + 50 * 2 / 3) / 101, np.nan, np.nan]
    np.testing.assert_allclose(head.average_precision(labels, found), expected, rtol=1e-6)
    none = {**found, "labels": -np.ones_like(found["labels"])}
    np.testing.assert_array_equal(head.average_precision(labels, none), [0, np.nan, np.nan])


def test_without_pycocotools_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ImportError, match=r'pip install "keras_mtl\[detection\]"'):
        average_precision(LEFT, LEFT, 1, 0.5)


def test_encode_pads_and_marks_rows_without_a_label():
    labels = Detection(3).encode(
        [
            {"boxes": [[0, 0, 1, 1], [0, 0, 1, 2]], "labels": [2, 1]},
            None,
            {"boxes": [], "labels": []},
        ]
    )
    np.testing.assert_array_equal(labels["labels"], [[2, 1], [-1, -1], [-1, -1]])
    np.testing.assert_array_equal(labels["boxes"][0], [[0, 0, 1, 1], [0, 0, 1, 2]])
    assert np.isnan(labels["boxes"][1]).all()
    np.testing.assert_array_equal(labels["boxes"][2], -1)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (
            [{"boxes": [[0, 0, 1, 1]], "labels": [1, 2]}],
            ValueError,
            "Row 0 of `rows` must have a label for each box",
        ),
        (
            [None, {"box": [[0, 0, 1, 1]], "labels": [1]}],
            ValueError,
            r"Row 1 of `rows` must be a dict .* received the keys \['box', 'labels'\]",
        ),
        (
            {"boxes": [[0, 0, 1, 1]], "labels": [1]},
            TypeError,
            r"`rows` must be a list of .* received one dict with the keys \['boxes', 'labels'\]",
        ),
        ([np.nan], TypeError, "or None for a row without a label, received nan of type float"),
    ],
)
def test_rows_that_cannot_be_encoded_are_refused(rows, error, message):
    with pytest.raises(error, match=message):
        Detection(3).encode(rows)


def test_average_precision_of_whole_dicts_asks_for_the_task():
    found = {"squares": {"boxes": np.zeros((8, 1, 4))}, "any": np.zeros((8, 2))}
    with pytest.raises(ValueError, match=r"received the keys .* Give the .* `labels\['squares'\]`"):
        HEAD.average_precision(Y, found)
    with pytest.raises(ValueError, match=r"received the keys .* `predictions\['squares'\]`"):
        HEAD.average_precision(Y["squares"], found)
    with pytest.raises(ValueError, match=r"`labels` must be those of one .* received array\("):
        HEAD.average_precision(np.zeros(3), found["squares"])


# Filled squares are of class 1, their outlines of class 0.
SIZE = 32


def squares(rows, seed):
    random = np.random.default_rng(seed)
    images = random.normal(0, 0.1, size=(rows, SIZE, SIZE, 1)).astype("float32")
    found = []
    for image in images:
        boxes, labels = [], []
        for _ in range(random.integers(0, 4)):
            side = random.integers(6, 14)
            left, top = random.integers(0, SIZE + 1 - side, 2)
            right, bottom = left + side, top + side
            if any(left < b[2] and b[0] < right and top < b[3] and b[1] < bottom for b in boxes):
                continue
            label = int(random.integers(2))
            image[top:bottom, left:right] += 1
            if label == 0:
                image[top + 2 : bottom - 2, left + 2 : right - 2] -= 1
            boxes.append([left, top, right, bottom])
            labels.append(label)
        found.append({"boxes": boxes, "labels": labels})
    return images, found


HEAD = Detection(2, "xyxy", (SIZE, SIZE))
IMAGES, OBJECTS = squares(8, seed=2)
OBJECTS[2] = None
COUNTS = [-1 if row is None else min(len(row["labels"]), 1) for row in OBJECTS]
Y = {"squares": HEAD.encode(OBJECTS), "any": np.array(COUNTS)}
Y["squares"]["labels"][2] = 1  # of a row without a label: never read


def build(layers, head=HEAD, optimizer=None, dtype="float32"):
    keras.utils.set_random_seed(0)
    convolutions = [
        keras.layers.Conv2D(f, 3, s, padding="same", activation="relu", dtype=dtype)
        for f, s in layers
    ]
    inputs = keras.Input((SIZE, SIZE, 1), name="image")
    tasks = {"squares": head, "any": Classification(2, dtype=dtype)}
    model = keras_mtl.architectures.hard_sharing(inputs, keras.Sequential(convolutions), tasks)
    model.compile(optimizer or keras.optimizers.SGD(0.1))
    return model


DEEP, SHALLOW = ((16, 2), (32, 2), (32, 1), (32, 1)), ((8, 4),)


@pytest.fixture(scope="module")
def trained():
    images, objects = squares(400, seed=0)
    y = {"squares": HEAD.encode(objects), "any": np.array([len(o["labels"]) > 0 for o in objects])}
    model = build(DEEP, optimizer=keras.optimizers.Adam(0.006))
    model.fit(images, y, batch_size=16, epochs=5, verbose=0)
    return model


def test_learns_to_find_squares(trained):
    images, objects = squares(100, seed=1)
    predictions = trained.predict(images, verbose=0)["squares"]
    assert predictions["boxes"].shape == (100, 64, 4)
    precision = HEAD.average_precision(HEAD.encode(objects), predictions)
    assert precision.shape == (2,)
    assert precision.mean() > 0.8  # 0.95 as measured


def test_a_saved_model_predicts_and_measures_the_same(trained, tmp_path):
    trained.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    one, other = (m.evaluate(IMAGES, Y, return_dict=True, verbose=0) for m in (trained, again))
    assert one == other
    assert one["squares_loss"] > 0


def test_a_clone_has_the_same_head(trained):
    clone = trained.clone()
    clone.set_weights(trained.get_weights())
    expected = trained.predict(IMAGES, verbose=0)["squares"]
    for key, value in clone.predict(IMAGES, verbose=0)["squares"].items():
        np.testing.assert_array_equal(value, expected[key])


def test_an_exported_model_serves_the_objects(trained, tmp_path):
    trained.export(tmp_path / "served", verbose=False)
    serve = tf.saved_model.load(tmp_path / "served").signatures["serving_default"]
    served = serve(image=tf.constant(IMAGES))
    expected = HEAD.decode(trained.predict(IMAGES, verbose=0)["squares"])
    assert served["squares_boxes"].shape == (8, 100, 4)
    np.testing.assert_array_equal(served["squares_labels"], expected["labels"])
    for key in ("boxes", "scores"):
        np.testing.assert_allclose(served[f"squares_{key}"], expected[key], rtol=1e-3, atol=1e-4)


def test_evaluation_is_that_of_the_rows_with_a_label(trained):
    logs = trained.evaluate(IMAGES, Y, batch_size=3, return_dict=True, verbose=0)
    rows = [0, 1, 3, 4, 5, 6, 7]
    predictions = trained(IMAGES[rows])["squares"]
    labels = {key: value[rows] for key, value in Y["squares"].items()}
    loss = DetectionLoss(2, [(8, 8)], "xyxy", (SIZE, SIZE))
    assert logs["squares_loss"] == pytest.approx(float(loss(labels, predictions)), rel=1e-5)


def weights_after_a_step(images, y, strategy=None):
    with strategy.scope() if strategy else keras.name_scope("one"):
        model = build(SHALLOW)
    model.fit(images, y, batch_size=len(images), verbose=0)
    return model.get_weights()


@pytest.fixture(scope="module")
def stepped():
    return weights_after_a_step(IMAGES, Y)


def test_a_row_without_a_label_moves_no_weight(stepped):
    rows = np.arange(8) != 2
    alone = {"squares": {k: v[rows] for k, v in Y["squares"].items()}, "any": Y["any"][rows]}
    kept = weights_after_a_step(IMAGES[rows], alone)
    for one, other in zip(stepped, kept, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)  # float32 sums in another order


def test_two_replicas_take_the_step_of_one_device(stepped, strategy):
    spread = weights_after_a_step(IMAGES, Y, strategy)
    for one, other in zip(stepped, spread, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)  # float32 sums in another order


def test_mixed_precision_predicts_in_float32():
    head = Detection(2, "xyxy", (SIZE, SIZE), dtype="mixed_float16")
    model = build(SHALLOW, head, "adam", dtype="mixed_float16")
    losses = model.fit(IMAGES, Y, epochs=2, verbose=0).history["squares_loss"]
    predictions = model.predict(IMAGES, verbose=0)["squares"]
    assert {value.dtype.name for value in predictions.values()} == {"float32"}
    assert np.isfinite(losses).all()


def test_several_maps_share_the_convolutions_whatever_their_order():
    head = Detection(3)
    maps = {"a": random.normal(size=(2, 2, 2, 5)), "b": random.normal(size=(2, 4, 4, 5))}
    predictions = head(maps)
    assert head.grids == [(4, 4), (2, 2)]
    assert head.count_params() == (9 * 5 + 1) * (3 + 5)
    assert {key: tuple(x.shape) for key, x in predictions.items()} == head.compute_output_shape(
        {"a": (2, 2, 2, 5), "b": (2, 4, 4, 5)}
    )
    alone = Detection(3)
    alone.build((2, 2, 2, 5))
    alone.set_weights(head.get_weights())
    for key, value in alone(maps["a"]).items():
        np.testing.assert_allclose(value, predictions[key][:, 16:], rtol=1e-5)


def test_a_model_of_several_maps_drops_bad_boxes_and_can_be_saved(tmp_path):
    inputs = keras.Input((SIZE, SIZE, 1))
    fine = keras.layers.Conv2D(4, 3, 4, padding="same", activation="relu")(inputs)
    coarse = keras.layers.Conv2D(4, 3, 2, padding="same", activation="relu")(fine)
    trunk = keras.Model(inputs, {"coarse": coarse, "fine": fine})
    head = Detection(2, "xyxy", (SIZE, SIZE), on_bad_box="drop")
    tasks = {"squares": keras_mtl.Task(head, features=["coarse", "fine"])}
    model = keras_mtl.architectures.hard_sharing(keras.Input((SIZE, SIZE, 1)), trunk, tasks)
    model.compile("adam")
    bad = {"squares": with_bad_row({"boxes": (4, 2, 1.0)})["squares"]}  # of no area
    without = {"squares": with_bad_row({"labels": (4, -1)})["squares"]}
    losses = [model.evaluate(IMAGES, y, verbose=0) for y in (bad, without)]
    assert losses[0] == losses[1]
    model.fit(IMAGES, bad, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.evaluate(IMAGES, bad, verbose=0) == model.evaluate(IMAGES, bad, verbose=0)


def test_huge_features_give_finite_boxes_and_gradients():
    head = Detection(1)
    features = tf.Variable(1e8 * random.normal(size=(1, 2, 2, 3)).astype("float32"))
    with tf.GradientTape() as tape:
        head(features)
        labels = {"boxes": np.array([[[0, 0, 1, 1]]]), "labels": np.array([[0]])}
        loss = head.default_loss()(labels, head(features))
    assert np.isfinite(float(loss))
    assert np.isfinite(tape.gradient(loss, features)).all()


def with_bad_row(change):
    bad = {key: value.copy() for key, value in Y["squares"].items()}
    bad["boxes"][4, 0], bad["labels"][4, 0] = [1, 1, 9, 9], 1
    for key, (row, *place, value) in change.items():
        bad[key][(row, 0, *place)] = value
    return {**Y, "squares": bad}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": (4, 0, np.nan)}, r"\['boxes'\]` must be NaN in whole rows.*First in row 4"),
        ({"boxes": (4, 2, np.inf)}, r"\['boxes'\]` must be finite.*First in row 4"),
        ({"boxes": (4, 0, 99.0)}, r"must have an area, in the format 'xyxy'.*First in row 4"),
        (
            {"boxes": (4, 2, 99.0)},
            r"must lie within the image.*Received \[1 1 99 9\]. First in row 4",
        ),
        ({"labels": (4, 2)}, r"\['labels'\]` must hold class ids from 0 to 1.*Received 2.*row 4"),
        ({"labels": (4, -2)}, r"or -1 where boxes are padded.*Received -2.*row 4"),
    ],
)
def test_bad_labels_are_refused_with_their_row(change, message):
    with pytest.raises(ValueError, match=message):
        build(SHALLOW).fit(IMAGES, with_bad_row(change), verbose=0)


def test_bad_labels_in_a_data_set_are_refused_before_the_step():
    model = build(SHALLOW)
    before = model.get_weights()
    y = with_bad_row({"boxes": (4, 2, 99.0)})
    data = tf.data.Dataset.from_tensor_slices((IMAGES, y)).batch(8)
    with pytest.raises(
        ValueError, match=r"within the image.*Received \[1 1 99 9\]. First in row 4"
    ):
        model.fit(data, verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.ones((8, 1, 4)),
            r"a dict, with the keys \['boxes', 'labels'\], received ndarray of shape \(8, 1, 4\)",
        ),
        (
            OBJECTS,
            r"received \[{'boxes'.* of type list. `encode` of the head Detection makes it",
        ),
        ({"boxes": Y["squares"]["boxes"]}, r"with the keys \['boxes', 'labels'\]"),
        ({**Y["squares"], "boxes": np.zeros((8, 4))}, r"must have shape \(batch, max_boxes, 4\)"),
        ({**Y["squares"], "labels": np.zeros((8, 2))}, r"must be integers \(batch, max_boxes\)"),
        ({**Y["squares"], "labels": np.zeros((8, 99), int)}, "must have a class for each of the"),
        ({**Y["squares"], "labels": [[0], [0, 1]]}, "must be an array of numbers"),
        (
            {**Y["squares"], "labels": tf.ragged.constant([[0], [0, 1]])},
            r"must be dense.*to_tensor\(-1\)",
        ),
    ],
)
def test_labels_of_another_form_are_refused(trained, labels, message):
    with pytest.raises(ValueError, match=message):
        trained.evaluate(IMAGES, {**Y, "squares": labels}, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "`num_classes` must be an integer >= 1"),
        ({"bounding_box_format": "xyzw"}, ValueError, "`bounding_box_format` must be one of"),
        ({"bounding_box_format": "xyxy"}, ValueError, "needs `image_size`"),
        ({"image_size": (0, 3)}, ValueError, r"`image_size\[0\]` must be an integer >= 1"),
        ({"image_size": 64}, TypeError, r"must be two integers, \(height, width\), received 64"),
        ({"image_size": (64, 64, 3)}, ValueError, r"received \(64, 64, 3\).* Leave the channels"),
        ({"on_bad_box": "ignore"}, ValueError, "`on_bad_box` must be one of"),
        ({"max_detections": 1.5}, TypeError, "`max_detections` must be an integer >= 1"),
        ({"score_threshold": 2.0}, ValueError, "`score_threshold` must be a finite number"),
        ({"iou_threshold": -0.1}, ValueError, "`iou_threshold` must be a finite number"),
    ],
)
def test_impossible_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Detection(**{"num_classes": 2, **arguments})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((None, 8), "with height and width known"),
        ((None, None, 8, 3), "with height and width known"),
        ({"a": (None, 8, 8, 3), "b": (None, 4, 4, 2)}, "equally many channels"),
    ],
)
def test_features_that_are_no_maps_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        Detection(2).build(shape)


def test_a_head_without_features_has_no_loss():
    with pytest.raises(RuntimeError, match="must be built before it has a loss"):
        Detection(2).default_loss()


def test_config_round_trip():
    head = Detection(2, "yxyx", [8, 16], on_bad_box="clip", max_detections=7, score_threshold=0.2)
    assert Detection.from_config(head.get_config()).get_config() == head.get_config()
