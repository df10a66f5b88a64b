"""Fits, evaluates and predicts; `test_multi_worker.py` runs it alone and as one of two workers.

Usage: `multi_worker_program.py RESULT`, with `TF_CONFIG` in the environment.
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_mtl

CASES = {
    "plain": dict,
    "balanced parameters": lambda: {"gradient_balancing": keras_mtl.balancing.MGDA()},
    "balanced features": lambda: {"gradient_balancing": keras_mtl.balancing.MGDA(scope="features")},
    "epochs": lambda: {"loss_weighting": "dynamic_weight_average"},
    "skip": lambda: {"loss_weighting": "uncertainty", "on_nonfinite": "skip"},
}


def make_model(case):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,), name="x")
    hidden = keras.layers.Dense(8, "tanh", kernel_regularizer="l2")(inputs)
    outputs = {task: keras.layers.Dense(2, name=task)(hidden) for task in ("size", "place")}
    model = keras_mtl.MultiTaskModel(inputs, outputs)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.5, global_clipnorm=0.5)
    model.compile(optimizer, loss="mse", metrics="mae", **CASES[case]())
    return model


def make_data(case):
    """Returns data whose labels are missing in every second group of 4 rows: on one worker."""
    random = np.random.default_rng(0)
    x = random.normal(size=(22, 5)).astype("float32")
    y = {task: random.normal(size=(22, 2)).astype("float32") for task in ("size", "place")}
    y["place"][np.arange(22) % 8 < 4] = np.nan
    if case == "skip":
        y["size"][3] = np.inf
    return x, y


def run(case, strategy):
    """Returns, as plain numbers, all that a user sees of one case."""
    x, y = make_data(case)
    with strategy.scope():
        model = make_model(case)
    validation = (x[:13], {task: labels[:13] for task, labels in make_data("plain")[1].items()})
    fit = {"batch_size": 8, "verbose": 0, "shuffle": False, "validation_data": validation}
    history = model.fit(x, y, epochs=4, **fit).history
    measured = model.evaluate(*validation, batch_size=8, verbose=0, return_dict=True)
    predicted = model.predict(x, batch_size=8, verbose=0)
    return {
        **{f"history {name}": numbers for name, numbers in history.items()},
        **{f"measured {name}": float(number) for name, number in measured.items()},
        **{f"predicted {task}": rows.tolist() for task, rows in predicted.items()},
        **{f"weight of {task}": weight for task, weight in model.task_weights.items()},
        **{weight.path: np.asarray(weight).tolist() for weight in model.weights},
    }


def main(path):
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with open(path, "w") as file:
        json.dump({case: run(case, strategy) for case in CASES}, file)


if __name__ == "__main__":
    main(sys.argv[1])
