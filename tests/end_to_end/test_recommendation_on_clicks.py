"""Dict inputs, embeddings as a stem, and a conversion that is known only after a click."""

import keras
import numpy as np

import keras_mtl
from keras_mtl.heads import BinaryClassification

ROWS, BATCH = 20, 8
random = np.random.default_rng(0)
X = {
    "user": random.integers(0, 9, size=ROWS),
    "item": random.integers(0, 7, size=ROWS),
    "price": random.random((ROWS, 1)).astype("float32"),
}
CLICKED = random.integers(0, 2, size=ROWS)
CLICKED[[3, 4]] = -1
BOUGHT = np.where(CLICKED > 0, random.integers(0, 2, size=ROWS), 0)


def build(optimizer, **compile_arguments):
    keras.utils.set_random_seed(5)
    inputs = {
        "user": keras.Input((), dtype="int32", name="user"),
        "item": keras.Input((), dtype="int32", name="item"),
        "price": keras.Input((1,), name="price"),
    }
    user = keras.layers.Embedding(9, 4, name="users")(inputs["user"])
    item = keras.layers.Embedding(7, 3, name="items")(inputs["item"])
    stem = keras.layers.Concatenate(name="stem")([user, item, inputs["price"]])
    tasks = {
        "clicked": BinaryClassification(),
        "bought": keras_mtl.Task(BinaryClassification(), where="clicked"),
    }
    trunk = keras.layers.Dense(6, activation="relu", name="trunk")
    model = keras_mtl.architectures.hard_sharing(stem, trunk, tasks)
    model.compile(optimizer, **compile_arguments)
    return model


def cross_entropy(y, p):
    return -(y * np.log(p[:, 0]) + (1 - y) * np.log(1 - p[:, 0]))


def test_conversion_is_measured_on_clicked_rows_only():
    model = build(keras.optimizers.SGD(0.0), metrics={"bought": [keras.metrics.AUC(name="auc")]})
    y = {"clicked": CLICKED, "bought": BOUGHT}
    logs = model.fit(X, y, batch_size=BATCH, shuffle=False, verbose=0).history
    p = model.predict(X, verbose=0)
    seen, rows = CLICKED >= 0, CLICKED > 0
    clicked = cross_entropy(CLICKED, p["clicked"])[seen]
    bought = cross_entropy(BOUGHT, p["bought"])[rows]
    np.testing.assert_allclose(logs["clicked_loss"], clicked.mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["bought_loss"], bought.mean(), rtol=1e-5)
    auc = keras.metrics.AUC()
    auc.update_state(BOUGHT[rows], p["bought"][rows, 0])
    np.testing.assert_allclose(logs["bought_auc"], float(auc.result()), rtol=1e-6)


def test_labels_of_rows_without_a_click_move_nothing():
    model, twin = build("sgd"), build("sgd")
    changed = np.where(CLICKED > 0, BOUGHT, 1 - BOUGHT)
    model.fit(X, {"clicked": CLICKED, "bought": BOUGHT}, shuffle=False, verbose=0)
    twin.fit(X, {"clicked": CLICKED, "bought": changed}, shuffle=False, verbose=0)
    for left, right in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_embeddings_train_under_balancing_with_a_frozen_item_table():
    model = build("sgd")
    model.get_layer("items").trainable = False
    model.compile(keras.optimizers.SGD(0.5), gradient_balancing="pcgrad")
    items, users = (model.get_layer(name).embeddings.numpy() for name in ("items", "users"))
    model.fit(X, {"clicked": CLICKED, "bought": BOUGHT}, verbose=0)
    np.testing.assert_array_equal(model.get_layer("items").embeddings.numpy(), items)
    moved = np.any(model.get_layer("users").embeddings.numpy() != users, axis=1)
    assert moved.any()
    assert not moved[np.setdiff1d(np.arange(9), X["user"])].any()


def test_where_survives_saving(tmp_path):
    model = build("sgd")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    y = {"clicked": CLICKED, "bought": BOUGHT}
    assert loaded.tasks["bought"].where == "clicked"
    left, right = (one.evaluate(X, y, return_dict=True, verbose=0) for one in (model, loaded))
    assert left == right
