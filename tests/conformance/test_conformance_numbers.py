"""Every method stays finite at the edges, and does not care which task comes first."""

import keras
import numpy as np
import pytest
from conformance_support import (
    TASKS,
    is_random,
    make_data,
    make_model,
    method_of,
    methods,
    values,
)

from keras_mtl.core.roles import TaskRole

EDGES = [
    pytest.param([0.0, 0.0, 0.0], id="all zero"),
    pytest.param([0.0, 1.0, 1e8], id="zero and huge"),
    pytest.param([1e-8, 1.0, 1e8], id="tiny and huge"),
    pytest.param([1e8, 1e8, 1e8], id="all huge"),
]
ROWS = {
    "zero": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
    "one zero": [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [1.0, -1.0, 1.0]],
    "duplicate": [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]],
    "opposite": [[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0], [1.0, 0.0, 0.0]],
    "tiny and huge": [[1e-8, 0.0, 1e-8], [1.0, 1.0, -1.0], [1e8, -1e8, 1e8]],
}


@pytest.mark.parametrize("losses", EDGES)
def test_weights_and_total_are_finite(weighting_case, losses):
    weighting = method_of(weighting_case())
    for _ in range(3):
        assert np.all(np.isfinite(weighting.compute_weights(losses)))
        assert np.isfinite(weighting(losses))
        weighting.update_state(losses, active=[1.0, 1.0, 1.0])
        weighting.on_epoch_begin()


def _direction(balancing, rows, active=None):
    """Returns the direction; where the method reads losses, they belong to the rows."""
    losses = 1.0 + np.abs(np.asarray(rows, "float32")[:, 0])
    return balancing(rows, active, losses=losses if balancing.needs_losses else None)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_direction_is_finite(balancing_case, rows):
    balancing = method_of(balancing_case())
    for _ in range(3):
        direction = _direction(balancing, rows)
        assert direction.shape == (3,)
        assert np.all(np.isfinite(direction))
        balancing.on_epoch_begin()


def test_direction_without_any_active_task_is_zero(balancing_case):
    direction = _direction(method_of(balancing_case()), ROWS["opposite"], [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(direction, np.zeros(3))


def _drawing_alike(case, num_tasks):
    """Returns a built method; if it draws, it draws what all others made here draw."""
    keras.utils.set_random_seed(0)
    method = method_of(case())
    method.build_for(num_tasks)
    return method


def test_absent_task_has_weight_zero_and_leaves_the_others(weighting_case):
    both, alone = (_drawing_alike(weighting_case, num_tasks) for num_tasks in (3, 2))
    for losses in ([2.0, 5.0, 1.0], [1.0, 7.0, 0.9]):
        both.update_state(losses, active=[1.0, 0.0, 1.0])
        alone.update_state([losses[0], losses[2]], active=[1.0, 1.0])
        both.on_epoch_begin()
        alone.on_epoch_begin()
    weights = np.asarray(both.compute_weights([1.0, 7.0, 0.9], active=[1.0, 0.0, 1.0]))
    assert weights[1] == 0.0
    np.testing.assert_allclose(weights[[0, 2]], alone.compute_weights([1.0, 0.9]), rtol=1e-6)


def test_absent_task_leaves_the_direction_of_the_others(balancing_case):
    rows = np.asarray([[1.0, 2.0, 0.0], [50.0, -9.0, 3.0], [-1.0, 1.0, 1.0]], "float32")
    both, alone = (_drawing_alike(balancing_case, num_tasks) for num_tasks in (3, 2))
    expected = _direction(alone, rows[[0, 2]])
    found = _direction(both, rows, active=[1.0, 0.0, 1.0])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_one_task_alone_has_a_finite_weight(weighting_case):
    weighting = method_of(weighting_case())
    for loss in (2.0, 1.0, 0.5):
        assert np.all(np.isfinite(weighting.compute_weights([loss])))
        weighting.update_state([loss], active=[1.0])
        weighting.on_epoch_begin()


def test_permuting_the_tasks_permutes_the_weights(weighting_case):
    plain, permuted = (_drawing_alike(weighting_case, num_tasks=3) for _ in range(2))
    order = [2, 0, 1]
    for given in ([2.0, 5.0, 1.0], [1.0, 4.0, 0.9], [0.5, 3.0, 0.8]):
        losses = np.asarray(given)
        weights = np.asarray(plain.compute_weights(losses))
        # Equal draws that do not look at the losses give equal weights in any order.
        expected = weights if plain.draws_blindly else weights[order]
        np.testing.assert_allclose(permuted.compute_weights(losses[order]), expected, rtol=1e-6)
        for method, shown in ((plain, losses), (permuted, losses[order])):
            method.update_state(shown, active=np.ones(3))
            method.on_epoch_begin()


def test_permuting_the_tasks_with_their_roles_leaves_the_training(weighting_case):
    # Draws are for the first task, the second and so on: any order of one task is the same.
    tasks = TASKS[:1] if is_random(method_of(weighting_case())) else TASKS
    order = [2, 0, 1] if len(tasks) == 3 else [0]
    permuted = tuple(tasks[index] for index in order)
    models = [make_model(weighting_case, t, auxiliary=tasks[1:2]) for t in (tasks, permuted)]
    for layer in models[0].layers[1:]:
        models[1].get_layer(layer.name).set_weights(layer.get_weights())
    for model in models:
        x, y = make_data(16, tuple(model.output))
        model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    for layer in models[0].layers[1:]:
        found = models[1].get_layer(layer.name).get_weights()
        for mine, other in zip(found, layer.get_weights(), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
    plain, other = (methods(model)[0].task_variables for model in models)
    for mine, moved in zip(plain, other, strict=True):
        np.testing.assert_allclose(moved, np.asarray(mine)[order], rtol=1e-4, atol=1e-6)


def test_permuting_the_tasks_leaves_the_direction(balancing_case):
    # Draws are for the first task, the second and so on: with two tasks no order is left to draw.
    order = [1, 0] if is_random(method_of(balancing_case())) else [2, 0, 1]
    plain, permuted = (_drawing_alike(balancing_case, len(order)) for _ in range(2))
    # Of plain arrays the first is the main task's: the roles move along with the rows.
    roles = [TaskRole("size"), TaskRole("kind", auxiliary=True), TaskRole("flag")]
    plain.bind(roles[: len(order)])
    permuted.bind([roles[index] for index in order])
    rows = np.asarray([[1.0, 2.0, 0.0], [2.0, -9.0, 3.0], [-1.0, 1.0, 1.0]], "float32")
    for scale in (1.0, 0.5, 0.25):
        given = scale * rows[: len(order)]
        # Where equal draws do not look at the gradients, they give equal weights in any order.
        expected = _direction(plain, given[order] if plain.draws_blindly else given)
        # Other orders of the same sums.
        np.testing.assert_allclose(
            _direction(permuted, given[order]), expected, rtol=1e-5, atol=1e-6
        )


def test_training_stays_finite_for_losses_of_zero_and_of_1e8(case):
    x, y = make_data(16, ("size", "flag"), missing=False)
    y["size"][:] = 1e4  # a squared error of 1e8
    model = make_model(case, tasks=("size", "flag"), optimizer=keras.optimizers.SGD(1e-12))
    zero = {"flag": np.where(model.predict(x, verbose=0)["flag"] > 0, 1.0, 0.0)}
    model.get_layer("flag_head").kernel.assign(1e4 * model.get_layer("flag_head").kernel)
    history = model.fit(x, {**y, **zero}, batch_size=8, epochs=3, verbose=0).history
    assert history["flag_loss"][0] < 1e-6
    assert history["size_loss"][0] > 1e7
    assert all(np.all(np.isfinite(numbers)) for numbers in history.values())
    assert all(np.all(np.isfinite(array)) for array in values(model).values())
