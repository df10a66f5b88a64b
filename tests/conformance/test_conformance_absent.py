"""A task without a label takes no part: the others go on as they would without it."""

import functools
from typing import Any, NamedTuple

import keras
import numpy as np
from conformance_support import (
    make_data,
    make_model,
    methods,
    values,
    without_any_label,
    without_labels,
)

# Three terms instead of two in each sum.
REORDERED = 1e-6
FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}
PAIR = ("size", "flag")


class _Course(NamedTuple):
    """What became of a model of three tasks, and of a model of two of them."""

    before: dict  # the numbers of the first at the start
    unlabelled: dict  # and after a batch without any label
    logs: dict  # of that batch
    absent: list  # weights and states of both, later, after epochs without one task's labels
    three: Any  # the first itself, free for more


@functools.lru_cache(maxsize=1)  # the tests of one method follow one another
def _course(case):
    """Trains a model whose one task has no label, and a model without that task."""
    x, y = make_data(16, missing=False)
    three, two = make_model(case), make_model(case, tasks=PAIR)
    for model in (three, two):
        model.get_layer("size_head").kernel.regularizer = keras.regularizers.L2(0.1)
    for layer in two.layers[1:]:
        layer.set_weights(three.get_layer(layer.name).get_weights())
    for mine, other in zip(_random_states(three), _random_states(two), strict=True):
        other.assign(mine)
    before = values(three)
    nothing = {task: labels[:8] for task, labels in without_any_label(y).items()}
    logs = three.fit(x[:8], nothing, **FIT).history
    unlabelled = values(three)
    two.fit(x[:8], {task: nothing[task] for task in PAIR}, **FIT)
    three.fit(x, without_labels(y, "kind"), epochs=3, **FIT)
    two.fit(x, {task: y[task] for task in PAIR}, epochs=3, **FIT)
    absent = [(_weights(model, two), _states(model)) for model in (three, two)]
    return _Course(before, unlabelled, logs, absent, three)


def _random_states(model):
    return [seed.state for method in methods(model) for seed in method._seed_generators]


def _weights(model, layers_of):
    layers = [model.get_layer(layer.name) for layer in layers_of.layers[1:]]
    return [array for layer in layers for array in layer.get_weights()]


def _states(model):
    return [np.asarray(v).copy() for method in methods(model) for v in method.task_variables]


def test_batches_without_any_label_are_moved_by_regularizers_only(case):
    course = _course(case)
    before, after = course.before, course.unlabelled
    moved = [name for name in before if np.any(before[name] != after[name])]
    moved = [name for name in moved if not name.startswith(("optimizer", "state"))]
    moved = [name for name in moved if "seed_generator" not in name]
    assert [name.rpartition("/")[0].rpartition("/")[2] for name in moved] == ["size_head"]
    # The gradient of 0.1 w^2 is 0.2 w: a step of 0.1 leaves 0.98 w.
    kernel = before[moved[0]]
    np.testing.assert_allclose(after[moved[0]], 0.98 * kernel, rtol=REORDERED)
    np.testing.assert_allclose(course.logs["loss"], 0.1 * np.sum(kernel**2), rtol=REORDERED)
    assert all(np.all(np.isfinite(array)) for array in after.values())


def test_absent_task_leaves_the_others_as_they_would_be_without_it(case):
    (weights, states), (expected, others) = _course(case).absent
    for mine, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=REORDERED, atol=REORDERED)
    for mine, other in zip(states, others, strict=True):
        np.testing.assert_allclose(mine[[0, 2]], other, rtol=REORDERED, atol=REORDERED)


def test_state_of_an_absent_or_stopped_task_does_not_move(case):
    x, y = make_data(16, missing=False)
    model = _course(case).three
    # What has momentum moves without a gradient too, unless it is put back.
    model.fit(x, y, epochs=2, **FIT)
    for method in methods(model):
        method.on_epoch_begin()
    before = [state[1] for state in _states(model)]
    model.fit(x, without_labels(y, "kind"), epochs=2, **FIT)
    np.testing.assert_equal([state[1] for state in _states(model)], before)
    assert model.task_weights["kind"] == 0.0
    head = model.get_layer("kind_head").get_weights()
    model.stop_task("kind")
    model.fit(x, y, epochs=2, **FIT)
    np.testing.assert_equal([state[1] for state in _states(model)], before)
    assert model.task_weights["kind"] == 0.0
    for mine, other in zip(model.get_layer("kind_head").get_weights(), head, strict=True):
        np.testing.assert_array_equal(mine, other)
