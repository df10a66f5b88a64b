import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_mtl
from keras_mtl import Task
from keras_mtl.heads import Segmentation

random = np.random.default_rng(0)
X = random.normal(size=(6, 8, 4, 2)).astype("float32")
LABELS = random.integers(0, 3, size=(6, 8, 4)).astype("uint8")
LABELS[random.uniform(size=LABELS.shape) < 0.3] = 255
LABELS[4] = 255  # an image without labels
THERE = LABELS != 255


def build(head=None, stride=1, optimizer=None, **compile_arguments):
    trunk = keras.layers.Conv2D(4, 3, stride, padding="same", activation="tanh", name="trunk")
    tasks = {"mask": Segmentation(3, upsampling=stride) if head is None else head}
    inputs = keras.Input((8, 4, 2), name="image")
    model = keras_mtl.architectures.hard_sharing(inputs, trunk, tasks)
    model.compile(optimizer or keras.optimizers.SGD(0.0), **compile_arguments)
    return model


def mean_iou(labels, classes, num_classes=3):
    """By definition, over the pixels of all images; classes that nowhere occur do not count."""
    ratios = []
    for k in range(num_classes):
        union = ((labels == k) | (classes == k)).sum()
        if union:
            ratios.append(((labels == k) & (classes == k)).sum() / union)
    return np.mean(ratios)


def class_errors(labels, probabilities):
    chosen = np.where(labels == 255, 0, labels).astype(int)
    return -np.log(np.take_along_axis(probabilities, chosen[..., None], axis=-1))[..., 0]


def test_predictions_are_probabilities_at_the_resolution_of_the_labels():
    head = Segmentation(2, upsampling=2, kernel_initializer="identity")
    logits = np.array([[[[0.0, 0.0], [4.0, 0.0]]]])
    predictions = head(logits)
    assert predictions.shape == (1, 2, 4, 2)
    np.testing.assert_allclose(
        predictions[0, 1, :, 0], 1 / (1 + np.exp([-0.0, -1.0, -3.0, -4.0])), rtol=1e-6
    )


def test_projection_and_interpolation_commute():
    head = Segmentation(3, upsampling=3, activation=None)
    features = X[:1]
    predictions = head(features)
    projected = head.dense(tf.image.resize(features, (24, 12), "bilinear"))
    # Sums of two products of float32 numbers of size 1, in another order.
    np.testing.assert_allclose(predictions, projected, atol=1e-6)


@pytest.mark.parametrize(("stride", "axis"), [(1, ()), (2, (None,))])
def test_missing_pixels_reach_neither_loss_nor_metric(stride, axis):
    model = build(stride=stride)
    labels = LABELS[(..., *axis)]

    logs = model.fit(X, {"mask": labels}, batch_size=4, shuffle=False, verbose=0).history
    logs = {key: values[0] for key, values in logs.items()}

    probabilities = model.predict(X, verbose=0)["mask"]
    classes = probabilities.argmax(axis=-1)
    expected = {
        "mask_loss": class_errors(LABELS, probabilities)[THERE].mean(),
        "mask_accuracy": (classes == LABELS)[THERE].mean(),
        # Over the epoch, of which the second batch is smaller.
        "mask_mean_iou": mean_iou(LABELS[THERE], classes[THERE]),
    }
    np.testing.assert_allclose([logs[k] for k in expected], list(expected.values()), rtol=1e-5)
    batches = [mean_iou(LABELS[s][THERE[s]], classes[s][THERE[s]]) for s in (slice(4), slice(4, 6))]
    assert abs(np.mean(batches) - logs["mask_mean_iou"]) > 1e-3


def test_missing_pixels_reach_no_gradient():
    model = build(optimizer=keras.optimizers.SGD(1.0))
    before = model.get_layer("mask").dense.kernel.numpy()
    features = keras.Model(model.input, model.get_layer("trunk").output)(X).numpy()
    slopes = model.predict(X, verbose=0)["mask"] - np.eye(3)[np.where(THERE, LABELS, 0)]

    model.train_on_batch(X, {"mask": LABELS})

    moved = before - features[THERE].T @ slopes[THERE] / THERE.sum()
    np.testing.assert_allclose(model.get_layer("mask").dense.kernel, moved, atol=1e-6)


def test_padding_of_images_counts_nowhere():
    rows = keras.Input((8,), name="rows")
    inputs = keras.Input((8, 4, 2), name="image")
    tasks = {"mask": Task(Segmentation(3), mask="rows")}
    trunk = keras.layers.Conv2D(4, 1, name="trunk")
    model = keras_mtl.architectures.hard_sharing({"image": inputs, "rows": rows}, trunk, tasks)
    model.compile(keras.optimizers.SGD(0.0))
    there = THERE & (np.arange(8) < 5)[None, :, None]
    x = {"image": X, "rows": np.tile(np.arange(8) < 5, (6, 1))}

    logs = model.evaluate(x, {"mask": LABELS}, return_dict=True, verbose=0)

    probabilities = model.predict(x, verbose=0)["mask"]
    errors = class_errors(LABELS, probabilities)[there]
    np.testing.assert_allclose(logs["mask_loss"], errors.mean(), rtol=1e-5)
    expected = mean_iou(LABELS[there], probabilities.argmax(axis=-1)[there])
    np.testing.assert_allclose(logs["mask_mean_iou"], expected, rtol=1e-6)


def test_mean_iou_by_hand():
    # Class 0: 1 of 2 pixels in its union, class 1: 1 of 2; class 2 occurs nowhere.
    metric = Segmentation(3).default_metrics()[0]
    predictions = np.eye(3)[[[[0, 1, 1, 0]]]]
    metric.update_state(np.array([[[0, 0, 1, 255]]]), predictions)
    assert float(metric.result()) == pytest.approx(0.5, rel=1e-6)
    assert metric._direction == "up"


@pytest.mark.parametrize("pixels", [2**24, 2**31])
def test_pixels_are_counted_one_by_one_however_many_there_are(pixels):
    metric = Segmentation(2).default_metrics()[0]
    metric.total_cm.assign([[pixels, 0], [0, 1]])
    metric.update_state(np.array([[[0]]]), np.array([[[[0.9, 0.1]]]]))
    assert int(metric.total_cm[0, 0]) == pixels + 1


@pytest.mark.parametrize("activation", ["softmax", None])
def test_extreme_logits_give_the_exact_loss_and_a_gradient(activation):
    head = Segmentation(2, activation=activation, upsampling=2, kernel_initializer="identity")
    loss = head.default_loss()

    @tf.function
    def step(features):
        with tf.GradientTape() as tape:
            value = loss(tf.constant([[[1, 1], [1, 1]]]), head(features))
        return value, tape.gradient(value, head.dense.kernel.value)

    value, gradient = step(tf.constant([[[[200.0, -200.0]]]]))
    assert float(value) == 400.0
    np.testing.assert_allclose(gradient, [[200.0, -200.0], [-200.0, 200.0]])


def test_volumes_have_voxels_for_pixels():
    head = Segmentation(4, upsampling=2)
    assert head(np.zeros((2, 3, 4, 5, 1))).shape == (2, 6, 8, 10, 4)


def test_config_round_trip_keeps_every_argument():
    head = Segmentation(4, None, None, upsampling=2, kernel_initializer="zeros", name="mask")
    again = Segmentation.from_config(head.get_config())
    assert again.get_config() == head.get_config()
    found = (again.num_classes, again.ignore_class, again.activation, again.upsampling)
    assert found == (4, None, None, 2)


@pytest.mark.parametrize("value", [7, 3])
def test_unknown_classes_are_named_with_their_row(value):
    labels = LABELS.copy()
    labels[3, 5, 1] = value
    message = rf"`y\['mask'\]` must hold class ids from 0 to 2, or 255 .*{value}\. First in row 3"
    with pytest.raises(ValueError, match=message):
        build().fit(X, {"mask": labels}, verbose=0)


def test_labels_finer_than_the_predictions_ask_for_upsampling():
    model = build(Segmentation(3), stride=2)
    with pytest.raises(ValueError, match=r"2 times as fine as the predictions: .*`upsampling=2`"):
        model.fit(X, {"mask": LABELS}, verbose=0)


def test_features_without_pixels_are_refused():
    with pytest.raises(ValueError, match=r"received \(None, 7\): they have no pixels left"):
        Segmentation(3)(keras.Input((7,)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "`num_classes` must be an integer >= 2, .*BinaryClassification"),
        ({"num_classes": 3, "pooling": "avg"}, r"`pooling` must be one of \[None\]"),
        ({"num_classes": 3, "activation": "sigmoid"}, r"`activation` must be one of"),
    ],
)
def test_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        Segmentation(**arguments)
