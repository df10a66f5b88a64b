import numpy as np
import pytest

from keras_mtl.balancing import GradNorm

GRAMIAN = np.diag([9.0, 1.0])


def test_first_step_worked_by_hand():
    # Norms 3 and 1 have the mean 2: the first is too long, the second too short. Adam's first
    # step is as long as its learning rate.
    gradnorm = GradNorm(learning_rate=0.1)
    np.testing.assert_allclose(gradnorm.compute_weights(GRAMIAN, losses=[2.0, 5.0]), [1.0, 1.0])
    np.testing.assert_allclose(gradnorm.task_weights, [0.9, 1.1], rtol=1e-6)


def test_weights_equalise_norms_where_all_train_alike():
    gradnorm = GradNorm(learning_rate=0.02)
    for _ in range(150):
        weights = np.asarray(gradnorm.compute_weights(GRAMIAN, losses=[1.0, 1.0]))
    # Adam goes on around the point where 3 w_1 = w_2 and w_1 + w_2 = 2, by its learning rate.
    np.testing.assert_allclose(weights, [0.5, 1.5], atol=0.03)


def test_equal_norms_and_rates_leave_the_weights_at_one():
    gradnorm = GradNorm()
    for loss in (1.0, 0.5, 0.1):
        weights = gradnorm.compute_weights(4 * np.eye(3), losses=[loss, 2 * loss, 3 * loss])
        np.testing.assert_allclose(weights, np.ones(3), rtol=1e-6)


def test_a_task_that_falls_behind_gains_weight():
    gradnorm = GradNorm(alpha=1.5)
    gradnorm.compute_weights(np.eye(2), losses=[1.0, 1.0])
    for _ in range(5):
        gradnorm.compute_weights(np.eye(2), losses=[1.0, 0.2])
    first, second = np.asarray(gradnorm.task_weights)
    assert first > 1.0 > second
    assert first + second == pytest.approx(2.0, rel=1e-6)


def test_with_alpha_zero_rates_do_not_count():
    gradnorm = GradNorm(alpha=0)
    gradnorm.compute_weights(np.eye(2), losses=[1.0, 1.0])
    gradnorm.compute_weights(np.eye(2), losses=[1.0, 0.2])
    np.testing.assert_allclose(gradnorm.task_weights, [1.0, 1.0], rtol=1e-6)


def test_scale_of_all_gradients_makes_no_difference():
    found = []
    for scale in (1e-20, 1.0, 1e20):  # lengths of 1e-10 to 1e10
        gradnorm = GradNorm(learning_rate=0.1)
        for _ in range(3):
            gradnorm.compute_weights(np.float32(scale * GRAMIAN), losses=[1.0, 1.0])
        found.append(np.asarray(gradnorm.task_weights))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    np.testing.assert_allclose(found[2], found[1], rtol=1e-5)


def test_absent_tasks_stand_still_and_begin_when_they_come():
    gradnorm = GradNorm(learning_rate=0.1)
    gramian = np.diag([9.0, 1.0, 4.0])
    for _ in range(3):
        weights = gradnorm.compute_weights(gramian, [1, 1, 0], losses=[1.0, 1.0, 7.0])
        assert float(np.sum(weights)) == pytest.approx(2.0, rel=1e-6)
    assert np.asarray(gradnorm.task_weights)[2] == 1.0
    gradnorm.compute_weights(gramian, losses=[1.0, 1.0, 5.0])
    np.testing.assert_array_equal(gradnorm.initial_losses, [1.0, 1.0, 5.0])
    assert np.sum(np.asarray(gradnorm.task_weights)) == pytest.approx(3.0, rel=1e-6)


@pytest.mark.parametrize("losses", [[0.0, 0.0], [1e-8, 1e8], [-1.0, 1.0]], ids=str)
def test_losses_of_any_size_give_finite_weights(losses):
    gradnorm = GradNorm()
    for scale in (1.0, 0.5, 0.0):
        weights = gradnorm.compute_weights(GRAMIAN, losses=scale * np.float32(losses))
        assert np.isfinite(weights).all()
    assert np.isfinite(gradnorm.task_weights).all()


def test_the_direction_is_the_weighted_sum():
    gradnorm = GradNorm(learning_rate=0.1)
    rows = [[3.0, 0.0], [0.0, 1.0]]
    np.testing.assert_allclose(gradnorm(rows, losses=[1.0, 1.0]), [3.0, 1.0])
    np.testing.assert_allclose(gradnorm(rows, losses=[1.0, 1.0]), [2.7, 1.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"alpha": -1.0}, ValueError, "`alpha` must be a finite number >= 0"),
        ({"learning_rate": 0.0}, ValueError, "`learning_rate` must be a finite number > 0"),
        ({"alpha": "high"}, TypeError, "`alpha` must be a finite number"),
    ],
    ids=str,
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        GradNorm(**arguments)
