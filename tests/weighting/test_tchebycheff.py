import keras
import numpy as np
import pytest
from keras import ops

import keras_mtl
from keras_mtl.core.derivatives import value_and_gradient
from keras_mtl.core.roles import TaskRole
from keras_mtl.weighting import Tchebycheff

ROLES = [TaskRole("age"), TaskRole("sex")]


def derivatives(losses, active=None, **kwargs):
    """The total and the weights, as arrays."""
    weighting = Tchebycheff(**kwargs)
    losses = ops.convert_to_tensor(losses, dtype="float32")
    total, weights, _ = value_and_gradient(lambda point: weighting(point, active), losses)
    return np.asarray(total), np.asarray(weights)


def test_the_worst_task_has_all_the_weight():
    total, weights = derivatives([1.0, 4.0, 2.0])
    assert total == 4.0
    np.testing.assert_array_equal(weights, [0.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([4.0, 4.0], [0.5, 0.5]),
        ([4.0, 1.0, 4.0], [0.5, 0.0, 0.5]),
        ([4.0, 4.0, 4.0, 4.0], [0.25, 0.25, 0.25, 0.25]),
        ([0.0, 0.0], [0.5, 0.5]),
    ],
)
def test_ties_split_evenly_and_exactly(losses, expected):
    total, weights = derivatives(losses)
    assert total == losses[0]
    np.testing.assert_array_equal(weights, expected)


def test_three_tied_tasks_share_the_weight():
    total, weights = derivatives([4.0, 4.0, 4.0])
    assert total == pytest.approx(4.0, rel=1e-6)
    np.testing.assert_allclose(weights, [1 / 3, 1 / 3, 1 / 3], rtol=1e-6)


def test_absent_tasks_do_not_share_a_tie():
    total, weights = derivatives([4.0, 4.0, 4.0], [True, False, True])
    assert total == 4.0
    np.testing.assert_array_equal(weights, [0.5, 0.0, 0.5])


def test_preferences_scale_the_losses_before_they_are_compared():
    total, weights = derivatives([1.0, 2.0], preferences=[3.0, 1.0])
    assert total == 3.0
    np.testing.assert_array_equal(weights, [3.0, 0.0])
    # A tie of preferred losses: each is the worst for one half.
    np.testing.assert_array_equal(derivatives([1.0, 3.0], preferences=[3.0, 1.0])[1], [1.5, 0.5])


def test_ideal_losses_are_taken_off_before_losses_are_compared():
    total, weights = derivatives([3.0, 2.5], ideal=[2.0, 0.5])
    assert total == 2.0
    np.testing.assert_array_equal(weights, [0.0, 1.0])
    total, weights = derivatives([1.0, 0.25], ideal=[2.0, 0.5])  # both are better than ideal
    assert total == -0.25
    np.testing.assert_array_equal(weights, [0.0, 1.0])


def test_negative_losses_are_compared_as_they_are():
    total, weights = derivatives([-3.0, -2.0])
    assert total == -2.0
    np.testing.assert_array_equal(weights, [0.0, 1.0])


def test_weights_equal_the_numerical_derivative():
    kwargs = {"preferences": [3.0, 1.0, 1.0], "ideal": [0.5, 0.0, 1.0]}
    losses, steps = np.float32([2.0, 4.0, 5.0]), 0.125 * np.eye(3)  # piecewise linear
    slopes = [
        4 * (derivatives(losses + step, **kwargs)[0] - derivatives(losses - step, **kwargs)[0])
        for step in steps
    ]
    np.testing.assert_array_equal(derivatives(losses, **kwargs)[1], slopes)


@pytest.mark.parametrize("loss", [np.nan, np.inf, 1e8])
def test_absent_tasks_leave_the_others_as_without_them(loss):
    total, weights = derivatives([1.0, loss, 4.0], [True, False, True])
    assert total == 4.0
    np.testing.assert_array_equal(weights, [0.0, 0.0, 1.0])


def test_a_preferred_absent_task_is_not_the_worst():
    kwargs = {"preferences": [1.0, 9.0], "ideal": [0.0, -9.0]}
    total, weights = derivatives([1.0, np.nan], [True, False], **kwargs)
    assert total == 1.0
    np.testing.assert_array_equal(weights, [1.0, 0.0])


def test_with_all_tasks_absent_everything_is_zero():
    total, weights = derivatives([1.0, np.nan], [False, False])
    assert total == 0.0
    np.testing.assert_array_equal(weights, [0.0, 0.0])


def test_permuting_tasks_permutes_weights():
    order, losses = np.array([2, 0, 1]), np.float32([1.0, 4.0, 4.0])
    weights = derivatives(losses)[1]
    np.testing.assert_array_equal(derivatives(losses[order])[1], weights[order])


@pytest.mark.parametrize("losses", [[0.0, 1e-8, 1e8], [0.0, 1e-8, 0.0], [1e8, 1e8, 1e8]])
def test_finite_at_extreme_losses(losses):
    total, weights = derivatives(losses)
    assert total == pytest.approx(max(losses), rel=1e-6)
    assert np.sum(weights) == pytest.approx(1.0, rel=1e-6)


def test_names_give_the_numbers_to_their_tasks():
    weighting = Tchebycheff(preferences={"sex": 3.0}, ideal={"age": 0.5}).bind(ROLES)
    np.testing.assert_array_equal(weighting.compute_weights([4.0, 1.0]), [1.0, 0.0])
    assert float(weighting([4.0, 2.0])) == 6.0


def test_unknown_names_are_refused_before_training():
    with pytest.raises(ValueError, match=r"`preferences` must have only task names.*to 'sex'"):
        Tchebycheff(preferences={"sec": 3.0}).bind(ROLES)
    with pytest.raises(ValueError, match=r"`ideal` must have one number a task. Expected 2"):
        Tchebycheff(ideal=[0.5]).bind(ROLES)


def test_names_and_plain_losses_do_not_go_together():
    with pytest.raises(ValueError, match=r"`ideal` is keyed by the task names \['age'\], but"):
        Tchebycheff(ideal={"age": 0.5})([1.0, 2.0])


def test_negative_or_infinite_numbers_are_refused():
    with pytest.raises(ValueError, match=r"`preferences\[1\]` must be a finite number >= 0, rec"):
        Tchebycheff(preferences=[1.0, -1.0])
    with pytest.raises(ValueError, match=r"`ideal\['age'\]` must be a finite number, received inf"):
        Tchebycheff(ideal={"age": np.inf})


@pytest.mark.parametrize("argument", ["preferences", "ideal"])
def test_numbers_of_another_type_are_refused(argument):
    with pytest.raises(TypeError, match=f"`{argument}` must be a dict from task name to number"):
        Tchebycheff(**{argument: 1.0})


@pytest.mark.parametrize("values", [None, [1.0, 2.0], {"age": 2.0}])
def test_config_round_trip(values):
    restored = Tchebycheff.from_config(
        Tchebycheff(preferences=values, ideal=values, name="mine").get_config()
    )
    assert (restored.preferences, restored.ideal, restored.name) == (values, values, "mine")


def test_a_model_keeps_its_preferences_in_a_file(tmp_path):
    inputs = keras.Input((2,))
    outputs = {task: keras.layers.Dense(1, name=task)(inputs) for task in ("age", "sex")}
    model = keras_mtl.MultiTaskModel(inputs, outputs)
    model.compile("sgd", loss="mse", loss_weighting=Tchebycheff(preferences={"sex": 3.0}))
    x, y = np.ones((4, 2)), {"age": np.full(4, 9.0), "sex": np.full(4, 9.0)}
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.fit(x, y, verbose=0)
    assert loaded.task_weights == {"age": 0.0, "sex": 3.0}
