import numpy as np
import pytest

from keras_mtl.core.roles import TaskRole
from keras_mtl.weighting import AnalyticUncertainty, Uncertainty

LOSSES = np.float32([1.0, 2.0, 4.0])


def weights_of(losses=LOSSES, active=None, **kwargs):
    return np.asarray(AnalyticUncertainty(**kwargs).compute_weights(losses, active))


def expected(losses, temperature=1.0):
    exponentials = np.exp(1 / np.float64(losses) / temperature)
    return exponentials / np.sum(exponentials)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
def test_worked_value(temperature):
    weights = weights_of(temperature=temperature)
    np.testing.assert_allclose(weights, expected(LOSSES, temperature), rtol=1e-5)


def test_total_is_the_weighted_mean_with_constant_weights():
    total = float(AnalyticUncertainty()(LOSSES))
    assert total == pytest.approx(np.dot(expected(LOSSES), LOSSES), rel=1e-6)


def test_weights_sum_to_one_over_the_active_tasks():
    assert np.sum(weights_of()) == pytest.approx(1.0)
    assert np.sum(weights_of(active=[True, False, True])) == pytest.approx(1.0)


def test_equal_losses_have_equal_weights():
    np.testing.assert_allclose(weights_of([3.0, 3.0, 3.0]), 1 / 3, rtol=1e-6)


def test_a_high_temperature_gives_equal_weights():
    np.testing.assert_allclose(weights_of(temperature=1e6), 1 / 3, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-320])
def test_a_low_temperature_gives_the_smallest_loss_all_the_weight(temperature):
    np.testing.assert_array_equal(weights_of(temperature=temperature), [1.0, 0.0, 0.0])


def test_temperature_is_in_units_of_one_over_the_loss():
    scaled = weights_of(100 * LOSSES, temperature=0.01)
    np.testing.assert_allclose(scaled, weights_of(temperature=1.0), rtol=1e-5)


def test_logits_are_the_weights_of_uncertainty_at_its_optimum():
    # Classification has its optimum at exp(-s) = 1 / (2 L): half of the logits here.
    uncertainty = Uncertainty(form="classification")
    uncertainty.build_for(3)
    uncertainty.log_variances.assign(np.log(2 * LOSSES))
    logits = 2 * np.asarray(uncertainty.compute_weights(LOSSES))
    ratios = np.log(weights_of() / weights_of()[0])
    np.testing.assert_allclose(ratios, logits - logits[0], atol=1e-6)


def test_absent_tasks_leave_the_others_as_without_them():
    active, present = [True, False, True], np.float32([1.0, 4.0])
    weights = weights_of([1.0, np.nan, 4.0], active)
    np.testing.assert_array_equal(weights, np.insert(weights_of(present), 1, 0.0))
    total = AnalyticUncertainty()([1.0, np.nan, 4.0], active)
    assert float(total) == float(AnalyticUncertainty()(present))


def test_with_all_tasks_absent_everything_is_zero():
    assert float(AnalyticUncertainty()([np.nan, 1.0], [False, False])) == 0.0
    np.testing.assert_array_equal(weights_of([np.nan, 1.0], [False, False]), [0.0, 0.0])


def test_permuting_tasks_permutes_the_weights():
    order = np.array([2, 0, 1])
    np.testing.assert_allclose(weights_of(LOSSES[order]), weights_of()[order], rtol=1e-6)


@pytest.mark.parametrize("temperature", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("losses", [[0.0, 0.0], [0.0, 1e8], [1e-8, 1e8], [1e8, 1e8]])
def test_finite_at_extreme_losses(losses, temperature):
    weights = weights_of(losses, temperature=temperature)
    assert np.sum(weights) == pytest.approx(1.0)
    assert np.isfinite(float(AnalyticUncertainty(temperature=temperature)(losses)))


def test_losses_below_the_floor_count_as_the_floor():
    np.testing.assert_array_equal(weights_of([0.0, 1e-8, 1e-12]), weights_of([1.0, 1.0, 1.0]))


def test_a_negative_loss_is_refused_by_name():
    weighting = AnalyticUncertainty().bind([TaskRole("age"), TaskRole("sex")])
    message = r"AnalyticUncertainty is undefined .* of task 'age' must be >= 0"
    with pytest.raises(ValueError, match=message):
        weighting.compute_weights([-1.0, 2.0])
    assert float(weighting([-1.0, 2.0], [False, True])) == 2.0


def test_there_is_nothing_to_train_or_to_save():
    weighting = AnalyticUncertainty()
    weighting([1.0, 2.0])
    assert weighting.variables == []


def test_config_round_trip():
    config = AnalyticUncertainty(temperature=0.5, name="mine").get_config()
    restored = AnalyticUncertainty.from_config(config)
    assert (restored.temperature, restored.name) == (0.5, "mine")


@pytest.mark.parametrize("temperature", [0.0, -2.0, np.inf, np.nan])
def test_a_temperature_that_is_no_positive_number_is_refused(temperature):
    with pytest.raises(ValueError, match="`temperature` must be a finite number > 0, received"):
        AnalyticUncertainty(temperature=temperature)


@pytest.mark.parametrize("temperature", ["2", None, True])
def test_a_temperature_of_another_type_is_refused(temperature):
    with pytest.raises(TypeError, match="`temperature` must be a finite number > 0, received"):
        AnalyticUncertainty(temperature=temperature)
