import contextlib

import keras
import numpy as np
import pytest

import keras_mtl
from keras_mtl.core.roles import TaskRole
from keras_mtl.weighting import AuxiLearn

ROLES = [TaskRole("main"), TaskRole("helper", auxiliary=True), TaskRole("noise", auxiliary=True)]
ROWS = 16
random = np.random.default_rng(0)
X = random.normal(size=(ROWS, 3)).astype("float32")
MAIN = (X @ [[1.0], [-0.5], [0.3]]).astype("float32")
Y = {
    "main": MAIN,
    "helper": MAIN,
    "noise": random.normal(size=MAIN.shape).astype("float32"),
}


def auxilearn(**kwargs):
    return AuxiLearn(**kwargs).bind(ROLES)


def weights_of(weighting):
    return np.asarray(weighting.auxiliary_weights).copy()


def model_of(weighting, **arguments):
    """A tanh trunk with one linear head a task, all of them alike."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,), name="x")
    hidden = keras.layers.Dense(8, "tanh", name="trunk")(inputs)
    head = keras.initializers.RandomNormal(stddev=0.5, seed=3)
    outputs = {
        task: keras.layers.Dense(1, kernel_initializer=head, name=task)(hidden) for task in Y
    }
    specs = {task: keras_mtl.Task(auxiliary=True) for task in ("helper", "noise")}
    model = keras_mtl.MultiTaskModel(inputs, outputs, tasks=specs)
    optimizer = keras.optimizers.SGD(0.05)
    model.compile(optimizer, loss="mse", loss_weighting=weighting, **arguments)
    return model


def one_prediction(size, tasks, weighting, rate):
    """One linear prediction for all tasks, which starts at 0."""
    inputs = keras.Input((size,), name="x")
    shared = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(inputs)
    outputs = {task: keras.layers.Activation("linear", name=task)(shared) for task in tasks}
    specs = {task: keras_mtl.Task(auxiliary=True) for task in tasks[1:]}
    model = keras_mtl.MultiTaskModel(inputs, outputs, tasks=specs)
    model.compile(keras.optimizers.SGD(rate), loss="mse", loss_weighting=weighting)
    return model


def fit(model, **changed):
    return model.fit(X, {**Y, **changed}, batch_size=ROWS, shuffle=False, verbose=0).history


def learned(model):
    return weights_of(model._training_state.loss_weighting)


def none_of(task):
    return np.full_like(Y[task], np.nan)


def test_golden_value_of_one_parameter():
    # Both tasks predict theta = 0. On the odd rows the main loss is (theta - 1)^2, with v = -2. On
    # the even ones the auxiliary loss is (theta - 1)^2 too, so that its gradient is -2, and the
    # Hessian is 2 + 2 w = 4. The series 0.1 (1 + 0.6 + 0.36) is 0.196, so -v 0.196 (-2) = -0.784.
    weighting = AuxiLearn(learning_rate=0.01, truncation=2, rate=0.1)
    model = one_prediction(1, ("main", "helper"), weighting, 1.0)
    ones = np.ones((4, 1), "float32")
    y = {"main": np.float32([[5.0], [1.0], [5.0], [1.0]]), "helper": ones}
    history = model.fit(ones, y, batch_size=4, shuffle=False, verbose=0).history
    momentum, weights = weighting._adam._momentum, weighting.auxiliary_weights
    # One tenth of the gradient; losses of about 1 are known to 1e-7, over a difference of 0.02.
    np.testing.assert_allclose(momentum, [0.0, -0.0784], rtol=1e-4)
    np.testing.assert_allclose(weights, [1.0, 1.01], rtol=1e-5)
    # The step that follows takes the new weight.
    assert history["helper_weight"] == pytest.approx([1.01], rel=1e-5)
    assert history["main_weight"] == [1.0]


def test_total_is_the_weighted_sum_and_its_derivative_the_weights():
    weighting, losses = auxilearn(), np.float32([1.0, 2.0, 4.0])
    weighting.auxiliary_weights.assign([9.0, 0.25, 2.0])
    assert float(weighting(losses)) == pytest.approx(9.5, rel=1e-6)
    np.testing.assert_allclose(weighting.compute_weights(losses), [1.0, 0.25, 2.0], rtol=1e-6)
    steps = 0.5 * np.eye(3, dtype="float32")
    slopes = [float(weighting(losses + step) - weighting(losses - step)) for step in steps]
    np.testing.assert_allclose(slopes, [1.0, 0.25, 2.0], rtol=1e-5)


def test_main_tasks_keep_weight_1_wherever_they_stand():
    roles = [TaskRole("a", auxiliary=True), TaskRole("b"), TaskRole("c")]
    weighting = AuxiLearn(learning_rate=0.1, initial_weight=0.5).bind(roles)
    weighting.update_from_hypergradient([2.0, 2.0, -2.0], np.ones(3))
    np.testing.assert_allclose(weighting.compute_weights([1.0] * 3), [0.4, 1.0, 1.0], rtol=1e-5)


def test_task_whose_labels_carry_nothing_loses_all_weight_and_equal_tasks_have_equal_ones():
    random = np.random.default_rng(1)
    x = random.normal(size=(64, 3)).astype("float32")
    main = (x @ [[1.0], [-0.5], [0.3]]).astype("float32")
    noise = random.normal(size=main.shape).astype("float32")
    weighting = AuxiLearn(learning_rate=0.02)
    model = one_prediction(3, ("main", "helper", "twin", "noise"), weighting, 0.05)
    y = {"main": main, "helper": main, "twin": main, "noise": noise}
    losses = model.fit(x, y, batch_size=64, epochs=80, shuffle=False, verbose=0).history
    _, helper, twin, noise_weight = weights_of(weighting)
    assert helper > 1.2
    # The same numbers in other places of a sum.
    assert twin == pytest.approx(helper, rel=1e-5)
    assert noise_weight == 0.0
    # With equal weights it pulls each coefficient a quarter of the way to 0.
    assert losses["main_loss"][-1] < 1e-4


def test_weights_are_moved_by_adam_and_stop_at_0():
    weighting = auxilearn(learning_rate=0.5)
    adam = keras.optimizers.Adam(0.5, epsilon=1e-12)
    variable = keras.Variable([1.0, 1.0, 1.0])
    for gradient in np.float32([[0.0, 1e-5, -1e-5], [0.0, 2e-5, 1e-5], [0.0, 1e-5, -3e-5]]):
        weighting.update_from_hypergradient(gradient, np.ones(3))
        adam.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    assert np.asarray(variable)[1] < -0.3
    np.testing.assert_allclose(weights_of(weighting)[[0, 2]], np.asarray(variable)[[0, 2]], 1e-5)
    assert weights_of(weighting)[1] == 0.0
    weighting.update_from_hypergradient([0.0, -1.0, 0.0], np.ones(3))
    assert weights_of(weighting)[1] > 0.1


def test_weights_move_however_small_the_learning_rate_makes_the_gradients():
    weighting = auxilearn()
    weighting.update_from_hypergradient([0.0, 1e-10, -1e-10], np.ones(3))
    np.testing.assert_allclose(weighting.auxiliary_weights, [1.0, 0.999, 1.001], rtol=2e-5)


def test_weights_stay_where_no_main_task_is_in_the_second_half_and_that_of_an_absent_one():
    model = model_of("auxilearn")
    half = Y["main"].copy()
    half[1::2] = np.nan
    for absent in (none_of("main"), half):
        history = fit(model, main=absent)
        np.testing.assert_array_equal(learned(model), np.ones(3))
    assert history["helper_weight"] == [1.0]
    model.stop_task("main")
    fit(model)
    np.testing.assert_array_equal(learned(model), np.ones(3))
    model.resume_task("main")
    fit(model, helper=none_of("helper"))
    assert learned(model)[1] == 1.0
    assert abs(learned(model)[2] - 1.0) == pytest.approx(1e-3, rel=1e-2)
    model.train_on_batch(X[:1], {task: part[:1] for task, part in Y.items()})  # no second half
    assert learned(model)[1] == 1.0
    fit(model)
    assert abs(learned(model)[1] - 1.0) == pytest.approx(1e-3, rel=1e-2)


def test_weights_move_in_the_last_of_every_few_steps_that_have_a_label():
    model = model_of(AuxiLearn(update_every=3))
    seen = []
    for step in range(7):
        missing = {task: none_of(task) for task in Y} if step == 1 else {}
        fit(model, **missing)
        seen.append(learned(model)[2])
    moved = np.flatnonzero(np.diff([1.0, *seen])).tolist()
    assert moved == [3, 6]  # step 1 does not count


def test_moves_in_every_second_step_are_the_same_on_two_replicas(strategy):
    found = []
    for scope in (contextlib.nullcontext(), strategy.scope()):
        with scope:
            model = model_of(AuxiLearn(learning_rate=0.1, update_every=2))
        for _ in range(4):
            fit(model)
        found.append(learned(model))
    assert np.min(np.abs(found[0][1:] - 1.0)) > 0.05
    # Adam takes what is left of two losses' difference, known to 1e-5, for a slope.
    np.testing.assert_allclose(*found, rtol=1e-4)


def test_users_constants_multiply_the_weights():
    model = model_of(AuxiLearn(learning_rate=0.01), loss_weights={"main": 2.0, "helper": 0.5})
    history = fit(model)
    assert history["main_weight"] == [2.0]
    assert abs(learned(model)[1] - 1.0) == pytest.approx(0.01, rel=1e-3)
    assert history["helper_weight"][0] == pytest.approx(0.5 * learned(model)[1], rel=1e-6)


def test_absent_tasks_leave_the_others_as_without_them():
    weighting, active = auxilearn(), [True, False, True]
    weighting.auxiliary_weights.assign([1.0, 9.0, 2.0])
    weights = weighting.compute_weights([1.0, np.nan, 4.0], active)
    np.testing.assert_allclose(weights, [1.0, 0.0, 2.0], rtol=1e-6)
    assert float(weighting([1.0, np.nan, 4.0], active)) == pytest.approx(9.0)
    weighting.update_from_hypergradient([1.0, np.nan, 1.0], np.float32(active))
    np.testing.assert_allclose(weighting.auxiliary_weights, [1.0, 9.0, 1.999], rtol=1e-6)


@pytest.mark.parametrize("losses", [[0.0, 1e-8, 1e8], [0.0] * 3, [1e8] * 3, [-1e8, 0.0, 1.0]])
def test_finite_at_extreme_losses_and_gradients(losses):
    weighting = auxilearn()
    weighting.update_from_hypergradient(np.float32(losses) * 1e20, np.ones(3))
    assert np.all(np.isfinite(weighting.compute_weights(losses)))
    assert np.isfinite(float(weighting(losses)))
    assert all(np.all(np.isfinite(v)) for v in weighting.task_variables)


@pytest.mark.parametrize(
    ("auxiliary", "message"),
    [((), r"\['main', 'helper'\] are all main tasks"), (("main", "helper"), "are all auxiliary")],
)
def test_without_tasks_of_both_kinds_compile_says_so(auxiliary, message):
    roles = [TaskRole(task, auxiliary=task in auxiliary) for task in ("main", "helper")]
    with pytest.raises(ValueError, match=f"AuxiLearn weights auxiliary tasks for .*{message}"):
        AuxiLearn().bind(roles)


def test_config_round_trip():
    arguments = {
        "learning_rate": 0.1,
        "initial_weight": 0.5,
        "truncation": 0,
        "rate": 0.02,
        "update_every": 4,
        "name": "mine",
    }
    found = AuxiLearn.from_config(AuxiLearn(**arguments).get_config())
    assert found.get_config() == arguments
    assert found.hypergradient_options == {"truncation": 0, "rate": 0.02}
    np.testing.assert_allclose(found.compute_weights([1.0, 2.0]), [1.0, 0.5])


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("learning_rate", 0.0, "`learning_rate` must be a finite number > 0, received"),
        ("initial_weight", -0.1, "`initial_weight` must be a finite number >= 0, received"),
        ("truncation", -1, "`truncation` must be an integer >= 0, received"),
        ("rate", np.inf, "`rate` must be a finite number > 0, received"),
        ("update_every", 0, "`update_every` must be an integer >= 1, received"),
    ],
)
def test_a_value_out_of_range_is_refused(argument, value, message):
    with pytest.raises(ValueError, match=message):
        AuxiLearn(**{argument: value})


@pytest.mark.parametrize(
    "argument", ["learning_rate", "initial_weight", "truncation", "rate", "update_every"]
)
@pytest.mark.parametrize("value", ["1", True])
def test_a_number_of_another_type_is_refused(argument, value):
    with pytest.raises(TypeError, match=f"`{argument}` must be"):
        AuxiLearn(**{argument: value})
