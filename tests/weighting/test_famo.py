import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_mtl
from keras_mtl.core.roles import TaskRole
from keras_mtl.weighting import FAMO

LOSSES = np.float32([1.0, 2.0, 4.0])
ROWS = 16
random = np.random.default_rng(0)
X = random.normal(size=(ROWS, 3)).astype("float32")
Y = {
    "a": (X @ [[1.0], [0.5], [0.0]] + 1.0).astype("float32"),
    "b": (10.0 * X @ [[0.0], [1.0], [-1.0]]).astype("float32"),
    "c": random.normal(size=(ROWS, 1)).astype("float32"),
}


def famo(num_tasks=3, logits=None, **kwargs):
    weighting = FAMO(**kwargs)
    weighting.build_for(num_tasks)
    if logits is not None:
        weighting.logits.assign(logits)
    return weighting


def weights_of(weighting, losses=LOSSES, active=None):
    return np.asarray(weighting.compute_weights(losses, active))


def after(*steps, **kwargs):
    """A weighting that has learned from `steps`, pairs of losses; NaN is an absent task."""
    weighting = famo(len(steps[0][0]), **kwargs)
    for before, fresh in steps:
        weighting.update_from_fresh_losses(before, fresh, np.float32(~np.isnan(before)))
    return weighting


def lagged_after(*steps, **kwargs):
    """A lagged weighting that has seen `steps`, lists of losses; NaN is an absent task."""
    weighting = famo(len(steps[0]), lagged=True, **kwargs)
    for losses in steps:
        weighting.update_state(losses, np.float32(~np.isnan(losses)))
    return weighting


class Paper:
    """Algorithm 2 of the paper in float64: z, the Jacobian of softmax, Adam with an L2 penalty."""

    def __init__(self, num_tasks, learning_rate=0.025, gamma=0.01):
        self.logits, self.first, self.second = np.zeros((3, num_tasks))
        self.learning_rate, self.gamma, self.steps = learning_rate, gamma, 0

    def shares(self):
        return np.exp(self.logits) / np.sum(np.exp(self.logits))

    def weights(self, losses):
        terms = self.shares() / (np.asarray(losses, "float64") + 1e-8)
        return terms / np.sum(terms)

    def learn(self, before, fresh):
        change = np.log(np.asarray(before) + 1e-8) - np.log(np.asarray(fresh) + 1e-8)
        z = self.shares()
        gradient = (np.diag(z) - np.outer(z, z)) @ change + self.gamma * self.logits
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        length = np.sqrt(self.second / (1 - 0.999**self.steps)) + 1e-8
        self.logits -= self.learning_rate * self.first / (1 - 0.9**self.steps) / length


def model_of(weighting, tasks=tuple(Y), *, rate=0.01, **arguments):
    """A linear trunk of one layer, with heads; the same values for the same layers."""
    inputs = keras.Input((3,), name="x")
    values = np.random.default_rng(1)
    hidden = keras.layers.Dense(4, name="trunk")(inputs)
    outputs = {task: keras.layers.Dense(1, name=task)(hidden) for task in tasks}
    model = keras_mtl.MultiTaskModel(inputs, outputs)
    model.get_layer("trunk").kernel.assign(values.normal(size=(3, 4)))
    for task in tasks:
        model.get_layer(task).kernel.assign(np.full((4, 1), 0.3))
    optimizer = keras.optimizers.SGD(rate)
    model.compile(optimizer, loss="mse", loss_weighting=weighting, **arguments)
    return model


def fit(model, y=None, epochs=1):
    y = {task: Y[task] for task in model.output} if y is None else y
    return model.fit(X, y, batch_size=ROWS, epochs=epochs, shuffle=False, verbose=0).history


def trunk_of(model):
    return model.get_layer("trunk").kernel.numpy()


def test_equal_shares_on_losses_1_and_2_give_two_thirds_and_one_third():
    np.testing.assert_allclose(weights_of(FAMO(), [1.0, 2.0]), [2 / 3, 1 / 3], rtol=1e-6)


def test_total_is_the_normalised_sum_of_log_losses():
    # z = (0.2, 0.3, 0.5), c = 1 / (0.2 / 1 + 0.3 / 2 + 0.5 / 4)
    weighting = famo(logits=np.log([0.2, 0.3, 0.5]))
    expected = np.dot([0.2, 0.3, 0.5], np.log(LOSSES)) / 0.475
    assert float(weighting(LOSSES)) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(
        weights_of(weighting), np.array([0.2, 0.15, 0.125]) / 0.475, rtol=1e-6
    )


def test_weights_are_the_derivative_with_the_normaliser_held_constant():
    logits, step = np.log([0.2, 0.3, 0.5]), 1e-6
    normaliser = 1 / np.sum(np.exp(logits) / LOSSES)

    def total(losses):
        return normaliser * np.dot(np.exp(logits), np.log(losses))

    losses = LOSSES.astype("float64")
    slopes = [(total(losses + row) - total(losses - row)) / (2 * step) for row in step * np.eye(3)]
    np.testing.assert_allclose(weights_of(famo(logits=logits)), slopes, rtol=1e-5)


@pytest.mark.parametrize("logits", [[0.0, 0.0, 0.0], [3.0, -2.0, 0.5], [200.0, -200.0, 0.0]])
def test_weights_sum_to_one(logits):
    weights = weights_of(famo(logits=logits), [1e-3, 2.0, 50.0])
    assert np.sum(weights) == pytest.approx(1.0, rel=1e-6)


def test_scale_of_a_loss_leaves_the_direction_of_the_step():
    scale, weighting = np.float32([1e-3, 1.0, 1e3]), famo(logits=[0.5, 0.0, -0.5])
    weights, scaled = weights_of(weighting), weights_of(weighting, scale * LOSSES)
    directions = [part / np.sum(part) for part in (scaled * scale, weights)]
    np.testing.assert_allclose(*directions, rtol=1e-4)


def test_scale_of_a_loss_leaves_what_is_learned():
    steps = [(LOSSES, LOSSES * part) for part in np.random.default_rng(2).uniform(0.5, 1, (5, 3))]
    scaled = [(1e3 * before, 1e3 * fresh) for before, fresh in steps]
    np.testing.assert_allclose(after(*scaled).logits, after(*steps).logits, rtol=1e-4)


def test_weights_below_a_minimum_loss_stay_finite_and_sum_to_one():
    weighting = famo(min_losses=[0.5, 3.0, 0.0])
    np.testing.assert_allclose(weights_of(weighting), [0.0, 1.0, 0.0], atol=1e-6)
    # D = (0.5, 1, 5)
    expected = np.array([2.0, 1.0, 0.2]) / 3.2
    np.testing.assert_allclose(weights_of(weighting, [1.0, 4.0, 5.0]), expected, rtol=1e-6)


def test_a_larger_epsilon_leaves_the_others_weight_beside_a_loss_of_zero():
    assert np.max(weights_of(famo(2), [0.0, 1.0])[1:]) < 1e-7
    weights = weights_of(famo(2, epsilon=0.5), [0.0, 1.0])
    np.testing.assert_allclose(weights, [0.75, 0.25], rtol=1e-6)


def test_task_that_falls_slower_gains_share():
    logits = np.asarray(after(([2.0, 2.0, 2.0], [1.0, 2.0, 1.3])).logits)
    np.testing.assert_allclose(np.abs(logits), 0.025, rtol=1e-4)  # Adam's first step
    assert np.sign(logits).tolist() == [-1.0, 1.0, -1.0]


def test_logits_are_learned_as_in_the_paper():
    paper, weighting = Paper(3), famo()
    for before, fresh in np.random.default_rng(3).uniform(0.5, 2.0, size=(30, 2, 3)):
        paper.learn(before, fresh)
        weighting.update_from_fresh_losses(before, fresh, np.ones(3))
    np.testing.assert_allclose(weighting.logits, paper.logits, rtol=1e-4, atol=1e-5)
    assert np.max(np.abs(paper.logits)) > 0.05
    np.testing.assert_allclose(weights_of(weighting), paper.weights(LOSSES), rtol=1e-4)


def test_fit_does_what_the_algorithm_does_by_hand():
    paper, hand, model = Paper(3), model_of("fixed"), model_of("famo")

    def losses():
        logs = hand.evaluate(X, Y, batch_size=ROWS, verbose=0, return_dict=True)
        return [logs[f"{task}_loss"] for task in Y]

    before = losses()
    for _ in range(5):
        hand.loss_weights.update(dict(zip(Y, map(float, paper.weights(before)), strict=True)))
        fit(hand)
        fresh = losses()
        paper.learn(before, fresh)
        before = fresh
    fit(model, epochs=5)
    np.testing.assert_allclose(trunk_of(model), trunk_of(hand), rtol=1e-4)
    logits = model._training_state.loss_weighting.logits
    # Changes of logarithms by 1e-2 in float32, of which Adam keeps the relative error.
    np.testing.assert_allclose(logits, paper.logits, rtol=1e-3, atol=1e-4)


def progress(weighting, steps=150, rate=0.005):
    """The fall of log (x - 1)^2 and of log (y - 2)^2 from 0, by gradient descent."""
    goals, x = tf.constant([1.0, 2.0]), tf.Variable([0.0, 0.0])

    @tf.function
    def descend():
        losses = (x - goals) ** 2
        x.assign_sub(rate * weighting.compute_weights(losses) * 2 * (x - goals))
        weighting.update_from_fresh_losses(losses, (x - goals) ** 2, [1.0, 1.0])

    for _ in range(steps):
        descend()
    return np.log(goals**2) - np.log((x - goals) ** 2)


def test_losses_fall_at_like_rates_where_equal_shares_would_not_make_them():
    balanced = progress(famo(2, weight_decay=0.0))
    unbalanced = progress(famo(2, learning_rate=1e-9))
    assert np.min(balanced) > 0.8 * np.max(balanced) > 1.0
    assert np.min(unbalanced) < 0.2 * np.max(unbalanced)


def test_tasks_that_fall_alike_keep_equal_shares():
    weighting = after(*[(LOSSES, 0.5 * LOSSES)] * 5)
    np.testing.assert_allclose(weights_of(weighting), weights_of(famo()), rtol=0.1)


def test_weight_decay_draws_shares_back_to_equal_ones():
    step = ([1.0, 1.0], [0.5, 1.0])
    spread = [
        float(np.ptp(np.asarray(after(*[step] * 50, weight_decay=decay).logits)))
        for decay in (0.0, 0.1, 1.0)
    ]
    assert spread[0] > 1.2 * spread[1] > 1.2 * spread[2] > 0.1


def test_lagged_compares_a_step_with_the_one_before():
    steps = np.random.default_rng(4).uniform(0.5, 2.0, size=(6, 3)).astype("float32")
    expected = after(*itertools.pairwise(steps))
    np.testing.assert_allclose(lagged_after(*steps).logits, expected.logits, rtol=1e-6)


def test_lagged_compares_a_task_with_the_last_step_that_had_it():
    steps = [[1.0, 4.0, 2.0], [0.9, np.nan, 1.0], [0.8, 2.0, 1.0]]
    weighting = lagged_after(*steps)
    middle = after(([1.0, np.nan, 2.0], [0.9, 1.0, 1.0]))
    middle.update_from_fresh_losses([0.9, 4.0, 1.0], [0.8, 2.0, 1.0], np.ones(3))
    np.testing.assert_allclose(weighting.logits, middle.logits, rtol=1e-6)


def test_lagged_needs_no_second_pass_and_else_steps_alone_teach_nothing():
    assert not FAMO(lagged=True).needs_fresh_losses
    weighting = famo()
    assert weighting.needs_fresh_losses
    weighting.update_state(LOSSES, np.ones(3))
    weighting.update_state(0.1 * LOSSES, np.ones(3))
    np.testing.assert_array_equal(weighting.logits, [0.0, 0.0, 0.0])


def test_lagged_learns_in_fit():
    model = model_of(FAMO(lagged=True))
    weighting = model._training_state.loss_weighting
    fit(model)
    np.testing.assert_array_equal(weighting.logits, [0.0, 0.0, 0.0])
    fit(model)
    np.testing.assert_allclose(np.abs(weighting.logits), 0.025, rtol=1e-3)


def test_trunk_trains_on_where_a_task_is_absent():
    # The peers read an absent task as a loss of 0: 1 / 1e-8 takes all the weight, and the
    # trunk stops. Here the others share it.
    assert Paper(3).weights([1.0, 0.0, 4.0])[0] < 1e-7
    model, twin = (model_of("famo", tasks, rate=0.05) for tasks in (tuple(Y), ("a", "c")))
    gone = {**Y, "b": np.full_like(Y["b"], np.nan)}
    start = trunk_of(model)
    history = fit(model, gone, epochs=3)
    fit(twin, epochs=3)
    assert [history[f"{task}_weight"][0] > 0.1 for task in Y] == [True, False, True]
    assert np.max(np.abs(trunk_of(model) - start)) > 0.01
    np.testing.assert_allclose(trunk_of(model), trunk_of(twin), rtol=1e-5)


def test_absent_tasks_leave_the_others_as_without_them():
    weighting = after(([2.0, np.nan, 1.0], [1.0, 7.0, 0.9]), ([1.0, np.nan, 1.0], [1.0, 0.0, 0.5]))
    without = after(([2.0, 1.0], [1.0, 0.9]), ([1.0, 1.0], [1.0, 0.5]))
    np.testing.assert_allclose(np.asarray(weighting.logits)[[0, 2]], without.logits, rtol=1e-6)
    expected = np.insert(weights_of(without, [2.0, 3.0]), 1, 0.0)
    weights = weights_of(weighting, [2.0, np.nan, 3.0], [True, False, True])
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


@pytest.mark.parametrize("lagged", [False, True])
def test_absent_task_keeps_its_logit_and_slots(lagged):
    steps = [[1.0, 2.0, 3.0], [0.5, 1.5, 3.0], [0.4, 1.5, 2.0]]
    weighting = lagged_after(*steps) if lagged else after(*itertools.pairwise(steps))
    before = [np.asarray(variable).copy() for variable in weighting.task_variables]
    weighting.update_state([0.1, np.nan, 1.0], [1.0, 0.0, 1.0])
    weighting.update_from_fresh_losses([0.4, np.nan, 2.0], [0.1, 5.0, 1.0], [1.0, 0.0, 1.0])
    after_all = [np.asarray(variable) for variable in weighting.task_variables]
    assert [new[1] for new in after_all] == [old[1] for old in before]
    assert after_all[0][0] != before[0][0]


def test_with_all_tasks_absent_everything_is_zero_and_stays():
    weighting = after(([1.0, 2.0], [0.5, 2.0]))
    before = np.asarray(weighting.logits).copy()
    weighting.update_from_fresh_losses([np.nan, np.nan], [1.0, 1.0], [0.0, 0.0])
    np.testing.assert_array_equal(weighting.logits, before)
    assert float(weighting([np.nan, 1.0], [False, False])) == 0.0
    np.testing.assert_array_equal(weights_of(weighting, [1.0, 1.0], [False] * 2), [0.0, 0.0])


@pytest.mark.parametrize("fresh", [np.nan, np.inf])
def test_loss_that_became_not_finite_teaches_nothing(fresh):
    weighting = after(([2.0, 1.0, 1.0], [1.0, fresh, 0.9]))
    assert np.asarray(weighting.logits)[1] == 0.0
    expected = after(([2.0, 1.0], [1.0, 0.9])).logits
    np.testing.assert_allclose(np.asarray(weighting.logits)[[0, 2]], expected, rtol=1e-6)


def test_permuting_tasks_permutes_weights_and_logits():
    order, fresh = np.array([2, 0, 1]), np.float32([0.9, 1.0, 3.5])
    weighting, permuted = after((LOSSES, fresh)), after((LOSSES[order], fresh[order]))
    np.testing.assert_allclose(permuted.logits, np.asarray(weighting.logits)[order], rtol=1e-5)
    np.testing.assert_allclose(
        weights_of(permuted, LOSSES[order]), weights_of(weighting)[order], rtol=1e-5
    )


@pytest.mark.parametrize("lagged", [False, True])
@pytest.mark.parametrize("losses", [[0.0, 1e-8, 1e8], [0.0, 0.0, 0.0], [1e8, 1e8, 1e8]])
def test_finite_at_extreme_losses(losses, lagged):
    weighting = famo(lagged=lagged)
    for fresh in (losses[::-1], [1.0, 1.0, 1.0], losses):
        weighting.update_state(fresh, np.ones(3))
        weighting.update_from_fresh_losses(losses, fresh, np.ones(3))
        weights = weights_of(weighting, losses)
        assert np.all(np.isfinite(weights))
        assert np.sum(weights) == pytest.approx(1.0, rel=1e-5)
        assert np.isfinite(float(weighting(losses)))


def test_users_constants_multiply_the_weights_and_are_partly_undone():
    tasks = ("a", "d")
    y = {"a": Y["a"], "d": Y["a"]}  # equal tasks, but for the constant
    model = model_of("famo", tasks, rate=0.05, loss_weights={"a": 4.0})
    first = fit(model, y)
    assert first["a_weight"][0] == pytest.approx(4 * first["d_weight"][0], rel=1e-5)
    fit(model, y, epochs=15)
    logits = np.asarray(model._training_state.loss_weighting.logits)
    assert logits[0] < -0.1 < 0.1 < logits[1]


def test_a_negative_loss_is_refused_by_name():
    weighting = FAMO().bind([TaskRole("age"), TaskRole("sex")])
    with pytest.raises(ValueError, match=r"FAMO is undefined .* of task 'sex' must be >= 0"):
        weighting([1.0, -0.5])
    assert float(weighting([1.0, -0.5], [True, False])) == pytest.approx(0.0, abs=1e-6)


def test_all_state_is_one_entry_a_task_and_not_trainable():
    weighting = famo(lagged=True)
    assert {id(v) for v in weighting.variables} == {id(v) for v in weighting.task_variables}
    assert weighting.trainable_variables == []


@pytest.mark.parametrize("jit_compile", [False, True])
def test_weights_and_logits_in_the_graph_equal_those_outside(jit_compile):
    eager, inside = famo(), famo()

    @tf.function(jit_compile=jit_compile)
    def step(before, fresh, active):
        inside.update_from_fresh_losses(before, fresh, active)
        return inside.compute_weights(fresh, active)

    for before in ([3.0, 1.0, 2.0], [2.0, np.nan, 4.0], [1.0, 1.0, 9.0]):
        active, fresh = np.float32(~np.isnan(before)), 0.5 * np.float32(before) ** 1.2
        eager.update_from_fresh_losses(before, fresh, active)
        weights = step(tf.constant(before), tf.constant(fresh), active)
        np.testing.assert_allclose(weights, weights_of(eager, fresh, active), rtol=1e-4)
    np.testing.assert_allclose(inside.logits, eager.logits, rtol=1e-4)


def test_config_round_trip():
    arguments = {
        "learning_rate": 0.1,
        "weight_decay": 0.0,
        "lagged": True,
        "min_losses": {"age": 0.5},
        "epsilon": 1e-3,
        "name": "mine",
    }
    assert FAMO.from_config(FAMO(**arguments).get_config()).get_config() == arguments
    assert FAMO.from_config(FAMO(**arguments).get_config()).needs_fresh_losses is False


def test_min_losses_are_found_by_name_and_unknown_names_refused():
    weighting = FAMO(min_losses={"sex": 0.5}).bind([TaskRole("age"), TaskRole("sex")])
    np.testing.assert_allclose(weights_of(weighting, [1.0, 1.5]), [0.5, 0.5], rtol=1e-6)
    with pytest.raises(ValueError, match="`min_losses` must have only task names as keys"):
        FAMO(min_losses={"height": 0.5}).bind([TaskRole("age"), TaskRole("sex")])


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("learning_rate", 0.0, "`learning_rate` must be a finite number > 0, received"),
        ("learning_rate", np.inf, "`learning_rate` must be a finite number > 0, received"),
        ("weight_decay", -0.1, "`weight_decay` must be a finite number >= 0, received"),
        ("lagged", "yes", r"`lagged` must be one of \[False, True\], received 'yes'"),
        ("min_losses", {"age": -1.0}, r"`min_losses\['age'\]` must be a finite number >= 0"),
        ("epsilon", 0.0, "`epsilon` must be a finite number >= 1e-12 and <= 1.0, received"),
    ],
)
def test_a_value_out_of_range_is_refused(argument, value, message):
    with pytest.raises(ValueError, match=message):
        FAMO(**{argument: value})


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("learning_rate", "`learning_rate` must be a finite number > 0"),
        ("weight_decay", "`weight_decay` must be a finite number >= 0"),
        ("epsilon", "`epsilon` must be a finite number"),
        ("min_losses", "`min_losses` must be a dict from task name to number, or a list"),
    ],
)
def test_a_value_of_another_type_is_refused(argument, message):
    with pytest.raises(TypeError, match=message):
        FAMO(**{argument: "1"})
