import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_mtl
from keras_mtl.core.derivatives import value_and_gradient
from keras_mtl.core.roles import TaskRole
from keras_mtl.weighting import SmoothTchebycheff, Tchebycheff

LOSSES = np.float32([1.0, 2.0, 4.0])
AUTHORS = {"log": True, "nadir": True, "warmup_epochs": 4}
FORMS = [
    pytest.param({}, id="plain"),
    pytest.param({"mu": 0.5, "preferences": [1, 2, 0.5], "ideal": [0.5, 1, -1]}, id="weighted"),
    pytest.param({"log": True, "mu": 0.5}, id="log"),
    pytest.param({"nadir": True, "mu": 0.5}, id="nadir"),
    pytest.param({"log": True, "nadir": True, "preferences": [1, 2, 0.5]}, id="log and nadir"),
]


def softmax(values):
    exponentials = np.exp(np.asarray(values, "float64") - np.max(values))
    return exponentials / np.sum(exponentials)


def after(*epochs, **kwargs):
    """A weighting at the start of the epoch after `epochs`, lists of steps; NaN is no label."""
    weighting = SmoothTchebycheff(**kwargs)
    for steps in epochs:
        weighting.on_epoch_begin()
        for losses in steps:
            weighting.update_state(losses, np.float32(~np.isnan(losses)))
    weighting.on_epoch_begin()
    return weighting


def derivatives(weighting, losses, active=None):
    """The total and the weights, as arrays."""
    losses = ops.convert_to_tensor(losses, dtype="float32")
    total, weights, _ = value_and_gradient(lambda point: weighting(point, active), losses)
    return np.asarray(total), np.asarray(weights)


def test_the_value_of_the_papers_form_on_two_zeros_is_log_two():
    total, weights = derivatives(SmoothTchebycheff(mu=1.0, log=False, nadir=False), [0.0, 0.0])
    assert total == pytest.approx(np.log(2), rel=1e-6)
    np.testing.assert_allclose(weights, [0.5, 0.5], rtol=1e-6)


def test_total_and_weights_worked_by_hand():
    weighting = SmoothTchebycheff(mu=0.5, preferences=[1.0, 3.0], ideal=[1.0, 0.5])
    total, weights = derivatives(weighting, [2.0, 1.0])  # p (L - z) = 1 and 1.5
    assert total == pytest.approx(0.5 * np.log(np.exp(2) + np.exp(3)), rel=1e-6)
    np.testing.assert_allclose(weights, softmax([2, 3]) * [1, 3], rtol=1e-6)


@pytest.mark.parametrize("mu", [1e-30, 1e-8, 1e-3])
def test_as_mu_tends_to_zero_the_worst_task_has_all_the_weight(mu):
    given = {"preferences": [1.0, 4.0, 1.0], "ideal": [0.0, 0.5, 1.0]}
    total, weights = derivatives(SmoothTchebycheff(mu=mu, **given), LOSSES)
    assert total == pytest.approx(float(Tchebycheff(**given)(LOSSES)), rel=1e-6)
    np.testing.assert_allclose(weights, Tchebycheff(**given).compute_weights(LOSSES), atol=1e-6)


def test_as_mu_tends_to_zero_ties_split_evenly():
    weighting = SmoothTchebycheff(mu=1e-30)
    np.testing.assert_array_equal(derivatives(weighting, [4.0, 1.0, 4.0])[1], [0.5, 0.0, 0.5])


@pytest.mark.parametrize("mu", [1e6, 1e30])
def test_as_mu_grows_the_weights_become_equal(mu):
    total, weights = derivatives(SmoothTchebycheff(mu=mu), LOSSES)
    np.testing.assert_allclose(weights, [1 / 3, 1 / 3, 1 / 3], rtol=1e-5)
    assert total == pytest.approx(mu * np.log(3), rel=1e-5)


@pytest.mark.parametrize("mu", [1e-3, 0.1, 1.0, 10.0])
def test_total_exceeds_the_maximum_by_at_most_mu_log_m(mu):
    for losses in np.random.default_rng(0).exponential(size=(20, 5)):
        total = float(SmoothTchebycheff(mu=mu)(losses))
        assert np.max(losses) - 1e-6 <= total <= np.max(losses) + mu * np.log(5) + 1e-6


def test_weights_sum_to_one_without_preferences():
    assert np.sum(derivatives(SmoothTchebycheff(mu=0.5), LOSSES)[1]) == pytest.approx(1.0)


def test_equal_losses_have_equal_weights():
    weights = derivatives(SmoothTchebycheff(mu=0.1), [3.0, 3.0, 3.0, 3.0])[1]
    np.testing.assert_array_equal(weights, [0.25, 0.25, 0.25, 0.25])


def test_of_logarithms_each_weight_is_a_share_of_one_over_its_loss():
    total, weights = derivatives(SmoothTchebycheff(mu=0.5, log=True), LOSSES)
    assert total == pytest.approx(0.5 * np.log(np.sum(LOSSES**2)), rel=1e-6)
    np.testing.assert_allclose(weights * LOSSES, softmax(2 * np.log(LOSSES)), rtol=1e-5)


def test_of_logarithms_with_mu_one_the_total_is_the_logarithm_of_the_sum():
    total, weights = derivatives(SmoothTchebycheff(log=True), LOSSES)
    assert total == pytest.approx(np.log(7), rel=1e-6)
    np.testing.assert_allclose(weights, np.full(3, 1 / 7), rtol=1e-6)


def test_the_nadir_is_the_mean_loss_of_the_epoch_after_the_warm_up():
    epochs = [[9.0, 9.0]], [[1.0, 8.0], [3.0, 8.0]], [[5.0, 0.1]]
    weighting = after(*epochs, nadir=True, warmup_epochs=1, mu=0.5)
    np.testing.assert_allclose(weighting.nadir_losses, [2.0, 8.0], rtol=1e-6)
    total, weights = derivatives(weighting, [1.0, 2.0])  # L / nadir = 1/2 and 1/4
    assert total == pytest.approx(0.5 * np.log(np.exp(1.0) + np.exp(0.5)), rel=1e-6)
    np.testing.assert_allclose(weights, softmax([1.0, 0.5]) / [2, 8], rtol=1e-6)


def test_the_authors_form_after_its_five_epochs():
    weighting = after(*[[[9.0, 9.0]]] * 4, [[2.0, 8.0]], **AUTHORS)
    total, weights = derivatives(weighting, [1.0, 2.0])
    # mu log sum_i exp(log(L_i / nadir_i) / mu) with mu = 1
    assert total == pytest.approx(np.log(1 / 2 + 2 / 8), rel=1e-6)
    np.testing.assert_allclose(weights, np.array([1 / 2, 1 / 8]) / (3 / 4), rtol=1e-6)


def test_units_of_a_loss_do_not_matter_with_nadir():
    units = np.float32([1.0, 1e3, 1e-3])
    for form in ({"nadir": True, "mu": 0.1}, {"nadir": True, "log": True, "mu": 0.1}):
        plain = derivatives(after([2 * LOSSES], **form), LOSSES[::-1])[1]
        scaled = derivatives(after([2 * LOSSES * units], **form), LOSSES[::-1] * units)[1]
        # 1e-8 is 2e-6 of the smallest loss, and 1 / mu = 10 of these.
        np.testing.assert_allclose(scaled * units, plain, rtol=1e-4)


@pytest.mark.parametrize("num_epochs", range(5))
def test_in_the_warm_up_the_logarithms_count_alike(num_epochs):
    total, weights = derivatives(after(*[[[3.0, 5.0, 0.1]]] * num_epochs, **AUTHORS), LOSSES)
    assert total == pytest.approx(np.mean(np.log(LOSSES)), rel=1e-6)
    np.testing.assert_allclose(weights, 1 / (3 * LOSSES), rtol=1e-5)


def test_in_the_warm_up_of_the_plain_form_the_weights_are_equal():
    warm_up = after([LOSSES], warmup_epochs=2)
    np.testing.assert_allclose(derivatives(warm_up, LOSSES)[1], [1 / 3, 1 / 3, 1 / 3], rtol=1e-6)
    ready = after([LOSSES], [LOSSES], warmup_epochs=2)
    np.testing.assert_allclose(derivatives(ready, LOSSES)[1], softmax(LOSSES), rtol=1e-6)


def test_a_late_task_counts_alone_until_it_is_ready():
    weighting = after([[2.0, 4.0, np.nan]], nadir=True)
    total, weights = derivatives(weighting, [1.0, 2.0, 6.0])
    # Two of three parts for the smooth maximum of 1/2 and 1/2, one for the loss of 6.
    assert total == pytest.approx(2 / 3 * (0.5 + np.log(2)) + 6 / 3, rel=1e-6)
    np.testing.assert_allclose(weights, [1 / 3 / 2, 1 / 3 / 4, 1 / 3], rtol=1e-6)
    weighting.update_state([1.0, 1.0, 3.0], [1.0, 1.0, 1.0])
    weighting.on_epoch_begin()
    np.testing.assert_allclose(weighting.nadir_losses, [2.0, 4.0, 3.0], rtol=1e-6)


def test_a_second_rollover_without_steps_changes_nothing():
    weighting = after([[1.0, 4.0]], [[2.0, 8.0]], **AUTHORS)
    before = weighting.get_weights()
    weighting.on_epoch_begin()
    for left, right in zip(weighting.get_weights(), before, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("epochs", [[], [[2 * LOSSES]]])
def test_weights_equal_the_numerical_derivative(form, epochs):
    weighting, steps = after(*epochs, **form), np.diag(0.005 * LOSSES)
    slopes = [
        (weighting(LOSSES + step) - weighting(LOSSES - step)) / (2 * np.sum(step)) for step in steps
    ]
    # The third derivative leaves 3e-4 at most (p / mu = 4), float32 1e-4 of a difference of 0.01.
    np.testing.assert_allclose(derivatives(weighting, LOSSES)[1], slopes, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", [np.nan, 0.0, 1e8])
def test_absent_tasks_leave_the_others_as_without_them(form, loss):
    weighting = after([[2.0, np.nan, 3.0]], **form)
    total, weights = derivatives(weighting, [1.0, loss, 4.0], [True, False, True])
    by_task = {key: [form[key][0], form[key][2]] for key in ("preferences", "ideal") if key in form}
    expected = derivatives(after([[2.0, 3.0]], **{**form, **by_task}), [1.0, 4.0])
    assert total == expected[0]
    np.testing.assert_array_equal(weights, np.insert(expected[1], 1, 0.0))


@pytest.mark.parametrize("form", [{}, {"log": True}, AUTHORS, {"nadir": True}])
def test_with_all_tasks_absent_everything_is_zero(form):
    for epochs in ([], [[[1.0, 2.0]]]):
        total, weights = derivatives(after(*epochs, **form), [1.0, np.nan], [False, False])
        assert total == 0.0
        np.testing.assert_array_equal(weights, [0.0, 0.0])


@pytest.mark.parametrize("form", [{}, {"log": True}, {"nadir": True, "log": True}])
def test_permuting_tasks_permutes_weights(form):
    order = np.array([2, 0, 1])
    plain = derivatives(after([[3.0, 1.0, 4.0]], **form), LOSSES)
    permuted = derivatives(after([np.float32([3.0, 1.0, 4.0])[order]], **form), LOSSES[order])
    assert permuted[0] == pytest.approx(plain[0], rel=1e-6)
    np.testing.assert_allclose(permuted[1], plain[1][order], rtol=1e-6)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("nadir", [False, True])
@pytest.mark.parametrize("mu", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("losses", [[0.0, 1e-8, 1e8], [0.0, 0.0, 0.0], [1e8, 1e8, 1e8]])
def test_finite_at_extreme_losses(losses, mu, nadir, log):
    for before in ([0.0, 1e-8, 1e8], [1e8, 0.0, 1e-8]):
        weighting = after([before], mu=mu, log=log, nadir=nadir)
        total, weights = derivatives(weighting, losses)
        assert np.isfinite(total)
        assert np.all(np.isfinite(weights))
        assert np.all(weights >= 0)


def test_negative_losses_are_taken_by_the_plain_form():
    total, weights = derivatives(SmoothTchebycheff(), [-1.0, -3.0])
    assert total == pytest.approx(np.log(np.exp(-1) + np.exp(-3)), rel=1e-6)
    np.testing.assert_allclose(weights, softmax([-1, -3]), rtol=1e-6)


@pytest.mark.parametrize("form", [{"log": True}, {"nadir": True}])
def test_a_negative_loss_is_refused_by_name_with_log_or_nadir(form):
    weighting = SmoothTchebycheff(**form).bind([TaskRole("age"), TaskRole("sex")])
    message = "SmoothTchebycheff is undefined for negative losses: the loss of task 'sex' must be"
    with pytest.raises(ValueError, match=message):
        weighting([1.0, -2.0])


def test_the_plain_form_has_no_state():
    assert after([LOSSES]).variables == []


def test_all_state_is_one_entry_a_task_and_not_trainable():
    weighting = after([LOSSES], **AUTHORS)
    assert len(weighting.task_variables) == len(weighting.variables) == 4
    assert weighting.trainable_variables == []


def test_state_moves_in_the_graph_and_under_replicas(strategy):
    with strategy.scope():
        weighting = SmoothTchebycheff(nadir=True)
        weighting.build_for(2)

    @tf.function
    def step(losses):
        strategy.run(weighting.update_state, args=(losses, tf.ones(2)))

    for losses in ([1.0, 4.0], [3.0, 2.0]):
        step(tf.constant(losses))
    weighting.on_epoch_begin()
    np.testing.assert_array_equal(weighting.nadir_losses, [2.0, 3.0])
    np.testing.assert_array_equal(weighting.num_epochs, [1.0, 1.0])


def make_model():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((2,))
    hidden = keras.layers.Dense(3, "tanh")(inputs)
    outputs = {task: keras.layers.Dense(1, name=task)(hidden) for task in ("age", "sex")}
    model = keras_mtl.MultiTaskModel(inputs, outputs)
    weighting = SmoothTchebycheff(mu=0.5, nadir=True, log=True, warmup_epochs=1)
    model.compile(keras.optimizers.SGD(0.1), loss="mse", loss_weighting=weighting)
    return model


# Saved in the warm-up, in the epoch that measures, and after it.
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_saved_and_loaded_training_equals_training_without_a_break(epoch, tmp_path):
    x = np.float32([[0, 1], [1, 0], [1, 1], [2, 1]])
    fit = {"x": x, "y": {"age": x @ [1.0, 3.0], "sex": x @ [-9.0, 2.0]}, "batch_size": 2}
    fit.update(shuffle=False, verbose=0)
    whole, half = make_model(), make_model()
    history = whole.fit(epochs=4, **fit).history
    half.fit(epochs=epoch, **fit)
    half.save(tmp_path / "half.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    again = loaded.fit(epochs=4, initial_epoch=epoch, **fit).history
    for name, values in again.items():
        np.testing.assert_allclose(values, history[name][epoch:], rtol=1e-6, err_msg=name)
    # Both logarithms count alike in the warm-up only.
    ratios = np.multiply(history["age_weight"], 1.0) / history["sex_weight"]
    assert ratios[1] != pytest.approx(ratios[2], rel=0.01)


def test_names_give_the_numbers_to_their_tasks():
    weighting = SmoothTchebycheff(preferences={"sex": 3.0}, ideal={"age": 0.5})
    weighting.bind([TaskRole("age"), TaskRole("sex")])
    expected = softmax([1.5, 3.0]) * [1, 3]
    np.testing.assert_allclose(weighting.compute_weights([2.0, 1.0]), expected, rtol=1e-6)


def test_unknown_names_are_refused_before_training():
    with pytest.raises(ValueError, match=r"`preferences` must have only task names.*to 'age'"):
        SmoothTchebycheff(preferences={"aeg": 3.0}).bind([TaskRole("age")])
    with pytest.raises(ValueError, match=r"`ideal` must have one number a task. Expected 1, rec"):
        SmoothTchebycheff(ideal=[0.5, 1.0]).bind([TaskRole("age")])


@pytest.mark.parametrize("form", [{"log": True}, {"nadir": True}])
def test_an_ideal_beside_log_or_nadir_is_refused(form):
    with pytest.raises(ValueError, match="`ideal` is taken off plain losses, received it toget"):
        SmoothTchebycheff(ideal=[0.5], **form)


@pytest.mark.parametrize("mu", [0.0, -1.0, np.inf, np.nan, 1e-31])
def test_a_mu_out_of_range_is_refused(mu):
    with pytest.raises(ValueError, match="`mu` must be a finite number >= 1e-30 and <= 1e"):
        SmoothTchebycheff(mu=mu)


def test_arguments_of_another_type_are_refused():
    with pytest.raises(TypeError, match="`mu` must be a finite number"):
        SmoothTchebycheff(mu="1")
    with pytest.raises(ValueError, match=r"`log` must be one of \[False, True\], received 'no'"):
        SmoothTchebycheff(log="no")
    with pytest.raises(ValueError, match=r"`nadir` must be one of \[False, True\], received 2.0"):
        SmoothTchebycheff(nadir=2.0)
    with pytest.raises(TypeError, match=r"`warmup_epochs` must be an integer >= 0, received 1.0"):
        SmoothTchebycheff(warmup_epochs=1.0)


def test_a_negative_number_of_epochs_or_preference_is_refused():
    with pytest.raises(ValueError, match="`warmup_epochs` must be an integer >= 0, received -1"):
        SmoothTchebycheff(warmup_epochs=-1)
    with pytest.raises(ValueError, match=r"`preferences\[0\]` must be a finite number >= 0, rec"):
        SmoothTchebycheff(preferences=[-1.0])


@pytest.mark.parametrize("given", [AUTHORS, {"preferences": {"a": 2.0}, "ideal": [1.0, 2.0]}])
def test_config_round_trip(given):
    config = SmoothTchebycheff(mu=0.5, name="mine", **given).get_config()
    restored = SmoothTchebycheff.from_config(config)
    assert restored.get_config() == config
    assert {key: config[key] for key in given} == given
