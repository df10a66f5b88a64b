import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_mtl.core import random_shares
from keras_mtl.core.derivatives import value_and_gradient
from keras_mtl.weighting import Random

LOSSES = np.float32([1.0, 2.0, 4.0])
DISTRIBUTIONS = ["normal", "dirichlet"]


def drawn(weighting, num_draws, num_tasks=3):
    """Rows of weights, one a call."""
    losses = tf.ones(num_tasks)
    weighting.build_for(num_tasks)
    draw = tf.function(lambda: weighting.compute_weights(losses))
    return np.stack([draw() for _ in range(num_draws)])


def draw_numbers(monkeypatch, numbers):
    """Lets the two generators return these numbers."""
    for name in ("normal", "uniform"):
        monkeypatch.setattr(random_shares, name, lambda *_: ops.convert_to_tensor(numbers))


def test_normal_weights_are_the_softmax_of_the_draws(monkeypatch):
    draw_numbers(monkeypatch, np.log(np.float32([1.0, 2.0, 5.0])))
    weighting = Random()
    np.testing.assert_allclose(weighting.compute_weights(LOSSES), [1 / 8, 2 / 8, 5 / 8], rtol=1e-6)
    # 1/8 * 1 + 2/8 * 2 + 5/8 * 4
    assert float(weighting(LOSSES)) == pytest.approx(3.125, rel=1e-6)


def test_dirichlet_weights_are_exponential_draws_divided_by_their_sum(monkeypatch):
    draw_numbers(monkeypatch, np.exp(-np.float32([1.0, 2.0, 5.0])))
    weights = Random("dirichlet").compute_weights(LOSSES)
    np.testing.assert_allclose(weights, [1 / 8, 2 / 8, 5 / 8], rtol=1e-5)


@pytest.mark.parametrize("numbers", [[0.0, 0.5, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
def test_dirichlet_weights_are_finite_at_the_ends_of_the_uniform_draws(monkeypatch, numbers):
    draw_numbers(monkeypatch, np.float32(numbers))
    weights = np.asarray(Random("dirichlet").compute_weights(LOSSES))
    assert np.all(weights > 0)
    assert np.sum(weights) == pytest.approx(1.0)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_weights_are_positive_sum_to_one_and_change_with_every_call(distribution):
    weights = drawn(Random(distribution, seed=0), 50)
    assert np.all(weights > 0)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-6)
    assert len(np.unique(weights, axis=0)) == 50


def test_logits_of_the_normal_are_standard_normal():
    # log w_1 - log w_2 is the difference of two numbers from N(0, 1).
    logs = np.log(drawn(Random(seed=1), 2000))
    differences = logs[:, 0] - logs[:, 1]
    # Standard errors: 1.41 / 45 of the mean, 1.41 / 63 of the deviation; four of them.
    assert np.mean(differences) == pytest.approx(0.0, abs=0.13)
    assert np.std(differences) == pytest.approx(np.sqrt(2), abs=0.09)


def test_dirichlet_weights_are_uniform_on_the_simplex():
    weights = drawn(Random("dirichlet", seed=1), 2000)
    # A share of a uniform triple has density 2 (1 - w): P(w < t) = 1 - (1 - t)^2.
    for threshold in (0.1, 0.3, 0.7):
        below = np.mean(weights < threshold, axis=0)
        # Binomial deviation at most 0.5 / 45; four of them.
        np.testing.assert_allclose(below, 1 - (1 - threshold) ** 2, atol=0.045)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_no_task_is_preferred_over_many_draws(distribution):
    # Deviation of one weight at most 0.24, of the mean of 2000 at most 0.0053; four of them.
    mean = drawn(Random(distribution, seed=2), 2000).mean(axis=0)
    np.testing.assert_allclose(mean, 1 / 3, atol=0.022)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_losses_play_no_part_in_the_weights(distribution):
    weights = Random(distribution, seed=3).compute_weights([0.0, 1e-8, 1e8])
    np.testing.assert_array_equal(Random(distribution, seed=3).compute_weights(LOSSES), weights)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_weights_equal_the_numerical_derivative(distribution):
    # Equal seeds, so that all calls see the same draw; the total is linear in the losses.
    slopes = [
        float(Random(distribution, seed=4)(LOSSES + step))
        - float(Random(distribution, seed=4)(LOSSES - step))
        for step in 0.5 * np.eye(3, dtype="float32")
    ]
    weights = Random(distribution, seed=4).compute_weights(LOSSES)
    np.testing.assert_allclose(weights, slopes, atol=1e-6)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("absent", [0, 1, 2])
def test_absent_tasks_leave_the_others_as_without_them(distribution, absent):
    active = np.arange(3) != absent
    losses = np.where(active, LOSSES, np.nan)
    weighting, others = Random(distribution, seed=5), Random(distribution, seed=5)
    for _ in range(3):
        weights = np.asarray(weighting.compute_weights(losses, active))
        assert weights[absent] == 0.0
        expected = others.compute_weights(LOSSES[active])
        np.testing.assert_allclose(weights[active], expected, rtol=1e-6)


def test_with_all_tasks_absent_everything_is_zero():
    total, weights, _ = value_and_gradient(
        lambda losses: Random()(losses, [False, False]), ops.convert_to_tensor([1.0, np.nan])
    )
    assert float(total) == 0.0
    np.testing.assert_array_equal(weights, [0.0, 0.0])


def test_a_task_alone_has_weight_one():
    np.testing.assert_array_equal(Random().compute_weights(LOSSES, [0.0, 1.0, 0.0]), [0, 1, 0])


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_compiled_by_xla_draws_weights(distribution):
    weighting = Random(distribution, seed=6)
    weighting.build_for(3)
    draw = tf.function(lambda: weighting.compute_weights(tf.ones(3)), jit_compile=True)
    first, second = draw().numpy(), draw().numpy()
    np.testing.assert_allclose([first.sum(), second.sum()], 1.0, rtol=1e-6)
    assert np.all(first != second)


def test_the_seed_is_in_the_config_and_fixes_the_draws():
    weighting = Random("dirichlet", seed=7, name="mine")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(weighting))
    assert (copy.distribution, copy.seed, copy.name) == ("dirichlet", 7, "mine")
    np.testing.assert_array_equal(drawn(copy, 4), drawn(weighting, 4))


def test_without_a_seed_two_of_them_differ():
    assert np.all(drawn(Random(), 1) != drawn(Random(), 1))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_replicas_draw_what_one_device_draws(strategy, distribution):
    with strategy.scope():
        weighting = Random(distribution, seed=8)
        weighting.build_for(3)
    step = tf.function(lambda: strategy.run(lambda: weighting.compute_weights(tf.ones(3))))
    steps = [[value.numpy() for value in step().values] for _ in range(4)]
    expected = drawn(Random(distribution, seed=8), 4)
    for (first, second), single in zip(steps, expected, strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, single, rtol=1e-6)


def test_an_unknown_distribution_is_refused_with_the_nearest():
    message = r"`distribution` must be one of \['normal', .*'dirichlt'.* Did you mean 'dirichlet'"
    with pytest.raises(ValueError, match=message):
        Random("dirichlt")


def test_a_seed_that_is_no_integer_is_refused():
    with pytest.raises(TypeError, match="`seed` must be None or an integer"):
        Random(seed=0.5)
