"""What the tests of architectures share: trunks and inputs of several kinds, tasks, data."""

import keras
import numpy as np
import pytest

from keras_mtl import Task, architectures
from keras_mtl.heads import BinaryClassification

BUILDERS = architectures.names()
# One that shares the trunk as it is, one that copies it.
REPRESENTATIVES = ("hard_sharing", "mmoe")
DEEP = [
    pytest.param(name, marks=[] if name in REPRESENTATIVES else [pytest.mark.slow])
    for name in BUILDERS
]
SHAPES = {"dense": (6,), "convolutional": (8, 8, 2), "transformer": (5, 8)}


def dense_stages(activation="relu"):
    """Three dense stages with seeds, which copies must not share."""
    first = keras.initializers.GlorotUniform(seed=1)
    return [
        keras.layers.Dense(8, activation=activation, kernel_initializer=first, name="stage1"),
        keras.layers.Dense(7, activation=activation, name="stage2"),
        keras.layers.Dense(6, activation=activation, name="stage3"),
    ]


def convolution(units, name):
    """A stage that halves both sides, with batch statistics."""
    layers = [
        keras.layers.Conv2D(units, 3, padding="same"),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.MaxPooling2D(),
    ]
    return keras.Sequential(layers, name=name)


def block(channels, name):
    """A stage of a small transformer, a functional model."""
    inputs = keras.Input((None, channels))
    attention = keras.layers.MultiHeadAttention(2, channels // 2)
    x = keras.layers.LayerNormalization()(inputs + attention(inputs, inputs))
    x = x + keras.layers.Dense(channels, activation="relu")(x)
    return keras.Model(inputs, keras.layers.LayerNormalization()(x), name=name)


def stages(kind):
    """A trunk of that kind as a list of stages."""
    if kind == "dense":
        return dense_stages()
    if kind == "convolutional":
        return [convolution(4, "stage1"), convolution(6, "stage2")]
    return [block(8, "stage1"), block(8, "stage2")]


def joined(kind):
    """A stage that joins two inputs, "left" and "right", to one of the kind's shape."""
    inputs = {name: keras.Input(SHAPES[kind], name=name) for name in ("left", "right")}
    return keras.Model(inputs, inputs["left"] + 2.0 * inputs["right"], name="joined")


def inputs_and_trunk(kind, given):
    """Inputs given as one tensor, as a dict of two, or as a stem, and a trunk for them."""
    if given == "several":
        inputs = {name: keras.Input(SHAPES[kind], name=name) for name in ("left", "right")}
        return inputs, [joined(kind), *stages(kind)]
    source = keras.Input(SHAPES[kind], name="x")
    if given == "one":
        return source, stages(kind)
    units = SHAPES[kind][-1]
    return keras.layers.Dense(units, activation="tanh", name="stem")(source), stages(kind)


def tasks():
    """Two binary tasks, such as every architecture takes, the first with a tower."""
    tower = keras.layers.Dense(5, activation="tanh")
    return {"first": Task(BinaryClassification(), tower=tower), "second": BinaryClassification()}


def build(architecture, kind="dense", given="one", **options):
    """Builds the architecture of that name."""
    inputs, trunk = inputs_and_trunk(kind, given)
    return architectures.build_model(architecture, inputs, trunk, tasks(), **options)


def data(model, rows=16):
    """Random numbers for the inputs of `model`, and labels for its tasks."""
    random = np.random.default_rng(0)

    def draw(tensor):
        return random.normal(size=(rows, *tensor.shape[1:])).astype("float32")

    x = keras.tree.map_structure(draw, model.input)
    return x, {task: random.integers(0, 2, rows) for task in model.output}


def predictions(model, x):
    """What `model` predicts, task by task."""
    return {task: np.asarray(value) for task, value in model(x, training=False).items()}
