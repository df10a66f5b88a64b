"""A task without a label takes no part: the others go on as they would without it."""

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
FIT = {"batch_size": 8, "shuffle": False, "verbose": 0, "epochs": 3}


def test_absent_task_leaves_the_others_as_they_would_be_without_it(case):
    x, y = make_data(16, missing=False)
    three = make_model(case)
    two = make_model(case, tasks=("size", "flag"))
    for layer in two.layers[1:]:
        layer.set_weights(three.get_layer(layer.name).get_weights())
    for mine, other in zip(_random_states(three), _random_states(two), strict=True):
        other.assign(mine)
    three.fit(x, without_labels(y, "kind"), **FIT)
    two.fit(x, {task: y[task] for task in ("size", "flag")}, **FIT)
    for layer in two.layers[1:]:
        found = three.get_layer(layer.name).get_weights()
        for mine, other in zip(found, layer.get_weights(), strict=True):
            np.testing.assert_allclose(mine, other, rtol=REORDERED, atol=REORDERED)
    for mine, other in zip(_states(three), _states(two), strict=True):
        np.testing.assert_allclose(mine[[0, 2]], other, rtol=REORDERED, atol=REORDERED)


def _random_states(model):
    return [seed.state for method in methods(model) for seed in method._seed_generators]


def _states(model):
    return [np.asarray(v).copy() for method in methods(model) for v in method.task_variables]


def test_state_of_an_absent_or_stopped_task_does_not_move(case):
    x, y = make_data(16, missing=False)
    # What has momentum moves without a gradient too, unless it is put back.
    model = make_model(case, optimizer=keras.optimizers.Adam(0.1))
    model.fit(x, y, **FIT)
    for method in methods(model):
        method.on_epoch_begin()
    before = [state[1] for state in _states(model)]
    model.fit(x, without_labels(y, "kind"), **FIT)
    assert [state[1] for state in _states(model)] == before
    assert model.task_weights["kind"] == 0.0
    head = model.get_layer("kind_head").get_weights()
    model.stop_task("kind")
    model.fit(x, y, **FIT)
    assert [state[1] for state in _states(model)] == before
    assert model.task_weights["kind"] == 0.0
    for mine, other in zip(model.get_layer("kind_head").get_weights(), head, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_batches_without_any_label_are_moved_by_regularizers_only(case):
    x, y = make_data(8)
    model = make_model(case, optimizer=keras.optimizers.SGD(0.5))
    head = model.get_layer("size_head")
    head.kernel.regularizer = keras.regularizers.L2(0.1)
    before = {name: v for name, v in values(model).items() if "seed_generator" not in name}
    kernel = head.kernel.numpy()
    logs = model.train_on_batch(x, without_any_label(y), return_dict=True)
    after = values(model)
    moved = [name for name in before if np.any(before[name] != after[name])]
    moved = [name for name in moved if not name.startswith(("optimizer", "state"))]
    assert [name.rpartition("/")[0].rpartition("/")[2] for name in moved] == ["size_head"]
    # The gradient of 0.1 w^2 is 0.2 w: a step of 0.5 leaves 0.9 w.
    np.testing.assert_allclose(head.kernel, 0.9 * kernel, rtol=REORDERED)
    np.testing.assert_allclose(logs["loss"], 0.1 * np.sum(kernel**2), rtol=REORDERED)
    assert all(np.all(np.isfinite(array)) for array in after.values())
