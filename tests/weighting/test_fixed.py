import numpy as np
import pytest

from keras_mtl.weighting import Fixed


def test_total_is_the_sum():
    assert float(Fixed()([1.0, 2.0, 4.0])) == 7.0


def test_weights_are_one_and_zero_for_absent_tasks():
    weights = Fixed().compute_weights([4.0, np.nan, 1.0], [True, False, True])
    np.testing.assert_array_equal(weights, [1.0, 0.0, 1.0])


def test_total_is_that_of_the_present_tasks():
    assert float(Fixed()([4.0, np.inf, 1.0], [True, False, True])) == 5.0


def test_weights_do_not_depend_on_the_losses():
    np.testing.assert_array_equal(Fixed().compute_weights([0.0, 1e-8, 1e8]), [1.0, 1.0, 1.0])


def test_there_is_nothing_to_train_or_to_save():
    weighting = Fixed()
    weighting([1.0, 2.0])
    assert weighting.variables == []


def test_an_unknown_argument_is_refused():
    with pytest.raises(ValueError, match=r"Unrecognized keyword arguments .*strength"):
        Fixed(strength=1.0)


def test_config_round_trip_keeps_the_name():
    assert Fixed.from_config(Fixed(name="mine").get_config()).name == "mine"
