"""A trunk with a coarse and a fine map: a label an image, a class a pixel."""

import keras
import numpy as np

import keras_mtl
from keras_mtl import Task
from keras_mtl.heads import Classification

ROWS, SIZE = 8, 8
random = np.random.default_rng(0)
IMAGES = random.random((ROWS, SIZE, SIZE, 3)).astype("float32")
MASKS = (IMAGES[:, ::2, ::2, 0] * 3).astype("int32")
MASKS[0, :2] = 255  # the usual "void" of segmentation data
LABELS = {"label": np.array([0, 1, -1, 0, 1, 1, -1, 0]), "mask": MASKS}


def build():
    image = keras.Input((SIZE, SIZE, 3), name="image")
    s4 = keras.layers.Conv2D(6, 3, strides=2, padding="same", activation="relu")(image)
    s32 = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(s4)
    trunk = keras.Model(image, {"s4": s4, "s32": s32}, name="backbone")
    tasks = {
        "label": Task(Classification(2), features="s32"),
        "mask": Task(
            Classification(3, pooling=None, ignore_class=255),
            tower=keras.layers.Conv2D(8, 1, activation="relu"),
            features="s4",
        ),
    }
    model = keras_mtl.architectures.hard_sharing(image, trunk, tasks)
    model.compile(keras.optimizers.Adam(0.02))
    return model


def test_label_and_mask_are_learned_together():
    model = build()
    history = model.fit(IMAGES, LABELS, epochs=25, batch_size=4, verbose=0).history
    assert history["mask_accuracy"][-1] > 0.6 > history["mask_accuracy"][0]
    assert history["label_loss"][-1] < history["label_loss"][0]


def test_void_pixels_and_unlabelled_images_do_not_count():
    model = build()
    p = model.predict(IMAGES, verbose=0)
    assert p["mask"].shape == (ROWS, SIZE // 2, SIZE // 2, 3)
    logs = model.evaluate(IMAGES, LABELS, batch_size=3, return_dict=True, verbose=0)
    seen = MASKS != 255
    chosen = np.take_along_axis(p["mask"], np.where(seen, MASKS, 0)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(logs["mask_loss"], -np.log(chosen)[seen].mean(), rtol=1e-5)
    accuracy = (p["mask"].argmax(axis=-1) == MASKS)[seen].mean()
    np.testing.assert_allclose(logs["mask_accuracy"], accuracy, rtol=1e-6)
    labelled = LABELS["label"] >= 0
    losses = -np.log(p["label"][np.arange(ROWS), LABELS["label"]])[labelled]
    np.testing.assert_allclose(logs["label_loss"], losses.mean(), rtol=1e-5)


def test_class_weights_hold_for_pixels():
    model = build()
    model.optimizer.learning_rate = 0.0
    p = model.predict(IMAGES, verbose=0)["mask"]
    history = model.fit(IMAGES, LABELS, class_weight={"mask": {1: 3.0}}, verbose=0).history
    seen = MASKS != 255
    classes = np.where(seen, MASKS, 0)
    losses = -np.log(np.take_along_axis(p, classes[..., None], axis=-1)[..., 0])
    expected = (losses * np.array([1.0, 3.0, 1.0])[classes])[seen].sum() / seen.sum()
    np.testing.assert_allclose(history["mask_loss"], expected, rtol=1e-5)


def test_one_task_alone_is_a_plain_model_on_the_same_weights():
    model = build()
    alone = model.task_model("mask")
    model.fit(IMAGES, LABELS, verbose=0)
    left, right = alone.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0)["mask"]
    np.testing.assert_allclose(left, right, rtol=1e-6)
    assert "label" not in [layer.name for layer in alone.layers]
