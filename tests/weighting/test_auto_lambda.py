import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_mtl
from keras_mtl.core.roles import TaskRole
from keras_mtl.weighting import AutoLambda

ROWS = 8
random = np.random.default_rng(0)
X = random.normal(size=(ROWS, 3)).astype("float32")
MAIN = (X @ [[1.0], [-0.5], [0.3]]).astype("float32")
Y = {
    "main": MAIN,
    "helper": MAIN + random.normal(scale=0.1, size=MAIN.shape).astype("float32"),
    "rival": -MAIN,
}
ROLES = [TaskRole("main"), TaskRole("helper", auxiliary=True), TaskRole("rival", auxiliary=True)]


def auto_lambda(**kwargs):
    weighting = AutoLambda(**kwargs)
    weighting.build_for(3)
    return weighting


def weights_of(weighting):
    return np.asarray(weighting.task_weights).copy()


def model_of(weighting, auxiliary=("helper", "rival"), tasks=tuple(Y), rate=0.05, **arguments):
    """A tanh trunk with one linear head a task, all of them alike."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,), name="x")
    hidden = keras.layers.Dense(4, "tanh", name="trunk")(inputs)
    head = keras.initializers.RandomNormal(stddev=0.5, seed=3)
    outputs = {
        task: keras.layers.Dense(1, kernel_initializer=head, name=task)(hidden) for task in tasks
    }
    specs = {task: keras_mtl.Task(auxiliary=True) for task in auxiliary}
    model = keras_mtl.MultiTaskModel(inputs, outputs, tasks=specs)
    optimizer = keras.optimizers.SGD(rate)
    model.compile(optimizer, loss="mse", loss_weighting=weighting, **arguments)
    return model


def fit(model, epochs=1, **changed):
    y = {task: changed.get(task, Y[task]) for task in model.output}
    return model.fit(X, y, batch_size=ROWS, epochs=epochs, shuffle=False, verbose=0).history


def learned(model):
    return weights_of(model._training_state.loss_weighting)


def none_of(task):
    return np.full_like(Y[task], np.nan)


def test_all_weights_start_at_a_tenth():
    np.testing.assert_allclose(AutoLambda().compute_weights([4.0, 1.0]), [0.1, 0.1], rtol=1e-6)


def test_total_is_the_weighted_sum_and_its_derivative_the_weights():
    weighting, losses = auto_lambda(), np.float32([1.0, 2.0, 4.0])
    weighting.task_weights.assign([0.5, -0.25, 2.0])
    assert float(weighting(losses)) == pytest.approx(8.0, rel=1e-6)
    np.testing.assert_allclose(weighting.compute_weights(losses), [0.5, -0.25, 2.0], rtol=1e-6)
    steps = 0.5 * np.eye(3, dtype="float32")
    slopes = [float(weighting(losses + step) - weighting(losses - step)) for step in steps]
    np.testing.assert_allclose(slopes, [0.5, -0.25, 2.0], rtol=1e-5)


def test_weights_are_moved_by_adam():
    weighting, adam = auto_lambda(), keras.optimizers.Adam(1e-4, epsilon=1e-8)
    variable = keras.Variable([0.1, 0.1, 0.1])
    for gradient in np.random.default_rng(1).normal(size=(10, 3)).astype("float32"):
        weighting.update_from_hypergradient(gradient, np.ones(3))
        adam.apply([tf.constant(gradient)], [variable])
    np.testing.assert_allclose(weighting.task_weights, variable, rtol=1e-6)


def main_loss_ahead(kernels, weights, rate=0.05):
    """The main loss on the odd rows, after a step on the even ones with these weights."""
    model = model_of("fixed", rate=rate, loss_weights=dict(zip(Y, weights, strict=True)))
    model.set_weights(kernels)
    model.train_on_batch(X[::2], {task: part[::2] for task, part in Y.items()})
    rest = {task: part[1::2] for task, part in Y.items()}
    return model.evaluate(X[1::2], rest, verbose=0, return_dict=True)["main_loss"]


def test_fit_moves_the_weights_against_the_derivative_of_the_main_loss_ahead():
    model, by_hand = model_of(AutoLambda(learning_rate=0.01)), auto_lambda(learning_rate=0.01)
    for _ in range(2):
        kernels, weights = model.get_weights()[:8], weights_of(by_hand)
        slopes = [
            (main_loss_ahead(kernels, weights + step) - main_loss_ahead(kernels, weights - step))
            for step in 0.09 * np.eye(3)
        ]
        by_hand.update_from_hypergradient(np.float32(slopes) / 0.18, np.ones(3))
        fit(model)
    # Both ways are finite differences in float32.
    np.testing.assert_allclose(learned(model), weights_of(by_hand), atol=2e-4)
    assert np.min(np.abs(learned(model) - 0.1)) > 0.015


def test_task_that_helps_gains_weight_and_one_that_stands_against_loses_it():
    model = model_of(AutoLambda(learning_rate=0.01))
    fit(model, epochs=5)
    main, helper, rival = learned(model)
    assert min(main, helper) > 0.13
    assert rival < 0.07


def test_equal_tasks_get_equal_weights():
    model = model_of(AutoLambda(learning_rate=0.01), auxiliary=(), tasks=("main", "helper"))
    fit(model, epochs=3, helper=Y["main"])
    assert learned(model)[0] > 0.12
    assert learned(model)[1] == pytest.approx(learned(model)[0], rel=1e-4)


def test_all_tasks_may_be_main_ones():
    model = model_of(AutoLambda(learning_rate=0.01), auxiliary=())
    fit(model, epochs=3)
    np.testing.assert_array_less(0.005, np.abs(learned(model) - 0.1))


def test_weights_stay_where_the_main_task_is_absent_or_stopped():
    model = model_of("auto_lambda")
    history = fit(model, main=none_of("main"))
    np.testing.assert_array_equal(learned(model), np.float32([0.1, 0.1, 0.1]))
    assert history["helper_weight"] == pytest.approx([0.1])
    model.stop_task("main")
    fit(model)
    np.testing.assert_array_equal(learned(model), np.float32([0.1, 0.1, 0.1]))
    model.resume_task("main")
    fit(model)
    np.testing.assert_allclose(np.abs(learned(model) - 0.1), 1e-4, rtol=1e-2)


def test_weights_stay_where_the_main_task_is_absent_from_the_second_half_only():
    half = Y["main"].copy()
    half[1::2] = np.nan
    model = model_of("auto_lambda")
    fit(model, main=half)
    np.testing.assert_array_equal(learned(model), np.float32([0.1, 0.1, 0.1]))


def test_weight_of_an_absent_task_stays_and_the_others_do_not_see_it():
    model = model_of("auto_lambda")
    twin = model_of("auto_lambda", auxiliary=("rival",), tasks=("main", "rival"))
    for layer in twin.layers[1:]:
        layer.set_weights(model.get_layer(layer.name).get_weights())
    fit(model, epochs=3, helper=none_of("helper"))
    fit(twin, epochs=3)
    assert learned(model)[1] == np.float32(0.1)
    np.testing.assert_allclose(learned(model)[[0, 2]], learned(twin), rtol=1e-6)
    assert np.min(np.abs(learned(twin) - 0.1)) > 1e-4


def test_batch_of_one_row_has_no_second_half_and_moves_no_weight():
    model = model_of("auto_lambda")
    trunk = model.get_layer("trunk").kernel.numpy()
    model.train_on_batch(X[:1], {task: part[:1] for task, part in Y.items()})
    np.testing.assert_array_equal(learned(model), np.float32([0.1, 0.1, 0.1]))
    assert np.all(np.isfinite(model.get_layer("trunk").kernel))
    assert np.any(model.get_layer("trunk").kernel.numpy() != trunk)


def test_order_of_tasks_with_their_roles_makes_no_difference():
    order = ("rival", "main", "helper")
    model, other = model_of("auto_lambda"), model_of("auto_lambda", tasks=order)
    for layer in other.layers[1:]:
        layer.set_weights(model.get_layer(layer.name).get_weights())
    for one in (model, other):
        fit(one, epochs=3)
    np.testing.assert_allclose(learned(other), learned(model)[[2, 0, 1]], rtol=1e-6)


def test_users_constants_multiply_the_weights_and_are_undone_in_the_long_run():
    # A weight moves by the learning rate whatever its constant, so c w catches up.
    model = model_of(AutoLambda(learning_rate=0.01), loss_weights={"helper": 0.5})
    history = fit(model)
    assert history["helper_weight"][0] == pytest.approx(0.5 * learned(model)[1], rel=1e-6)
    gains = learned(model) - 0.1
    assert gains[1] == pytest.approx(gains[0], rel=1e-3)


def test_weights_may_fall_below_0_unless_told_not_to():
    free, bounded = auto_lambda(), auto_lambda(nonnegative=True)
    for weighting in (free, bounded):
        weighting.task_weights.assign([5e-5, 5e-5, 0.1])
        weighting.update_from_hypergradient([1.0, -1.0, 1.0], np.ones(3))
    np.testing.assert_allclose(free.task_weights, [-5e-5, 1.5e-4, 0.0999], rtol=1e-3)
    np.testing.assert_allclose(bounded.task_weights, [0.0, 1.5e-4, 0.0999], rtol=1e-3)
    bounded.update_from_hypergradient([-1.0, -1.0, 1.0], np.ones(3))
    assert np.asarray(bounded.task_weights)[0] >= 0.0


def test_absent_tasks_leave_the_others_as_without_them():
    weighting, active = auto_lambda(), [True, False, True]
    weighting.task_weights.assign([0.5, 9.0, 2.0])
    weights = weighting.compute_weights([1.0, np.nan, 4.0], active)
    np.testing.assert_allclose(weights, [0.5, 0.0, 2.0], rtol=1e-6)
    assert float(weighting([1.0, np.nan, 4.0], active)) == pytest.approx(8.5)
    weighting.update_from_hypergradient([1.0, np.nan, 1.0], np.float32(active))
    np.testing.assert_allclose(weighting.task_weights, [0.4999, 9.0, 1.9999], rtol=1e-6)


def test_with_all_tasks_absent_everything_is_zero_and_stays():
    weighting = auto_lambda()
    assert float(weighting([np.nan] * 3, [False] * 3)) == 0.0
    np.testing.assert_array_equal(weighting.compute_weights([1.0] * 3, [False] * 3), [0.0] * 3)
    weighting.update_from_hypergradient([1.0, 1.0, 1.0], np.zeros(3))
    assert all(np.all(np.asarray(v)[:] == np.asarray(v)[0]) for v in weighting.task_variables)
    np.testing.assert_array_equal(weights_of(weighting), np.float32([0.1] * 3))


@pytest.mark.parametrize("losses", [[0.0, 1e-8, 1e8], [0.0] * 3, [1e8] * 3, [-1e8, 0.0, 1.0]])
def test_finite_at_extreme_losses_and_gradients(losses):
    weighting = auto_lambda()
    weighting.update_from_hypergradient(np.float32(losses) * 1e20, np.ones(3))
    assert np.all(np.isfinite(weighting.compute_weights(losses)))
    assert np.isfinite(float(weighting(losses)))
    assert all(np.all(np.isfinite(v)) for v in weighting.task_variables)


def test_all_state_is_one_entry_a_task_and_not_trainable():
    weighting = auto_lambda()
    assert {id(v) for v in weighting.variables} == {id(v) for v in weighting.task_variables}
    assert weighting.trainable_variables == []


def test_without_a_main_task_compile_says_so():
    message = r"AutoLambda learns weights for the main tasks.*\['main', 'helper', 'rival'\] are all"
    with pytest.raises(ValueError, match=message):
        model_of("auto_lambda", auxiliary=tuple(Y))
    assert AutoLambda().bind(ROLES).num_tasks == 3


def test_config_round_trip():
    arguments = {"learning_rate": 0.1, "initial_weight": 1.0, "nonnegative": True, "name": "mine"}
    config = AutoLambda(**arguments).get_config()
    assert AutoLambda.from_config(config).get_config() == arguments
    np.testing.assert_allclose(AutoLambda(**arguments).compute_weights([1.0, 2.0]), [1.0, 1.0])


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("learning_rate", 0.0, "`learning_rate` must be a finite number > 0, received"),
        ("learning_rate", np.nan, "`learning_rate` must be a finite number > 0, received"),
        ("initial_weight", -0.1, "`initial_weight` must be a finite number >= 0, received"),
        ("nonnegative", "yes", r"`nonnegative` must be one of \[False, True\], received 'yes'"),
    ],
)
def test_a_value_out_of_range_is_refused(argument, value, message):
    with pytest.raises(ValueError, match=message):
        AutoLambda(**{argument: value})


@pytest.mark.parametrize("argument", ["learning_rate", "initial_weight"])
@pytest.mark.parametrize("value", ["1", None, True])
def test_a_number_of_another_type_is_refused(argument, value):
    with pytest.raises(TypeError, match=f"`{argument}` must be a finite number"):
        AutoLambda(**{argument: value})
