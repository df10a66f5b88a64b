"""Every method trains under mixed precision: loss scaling is neither forgotten nor blinded."""

import functools

import keras
import numpy as np
import pytest
from conformance_support import assert_same_history, make_data, make_model, values

LOSSES = ("size_loss", "kind_loss", "flag_loss")


def _run(case, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = make_model(case, optimizer=keras.optimizers.SGD(0.1))
    finally:
        keras.config.set_dtype_policy("float32")
    x, y = make_data(16)
    history = model.fit(x, y, batch_size=8, epochs=6, shuffle=False, verbose=0).history
    return {name: history[name] for name in LOSSES}


_full_precision = functools.cache(functools.partial(_run, policy="float32"))


@pytest.mark.parametrize(
    "policy", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)]
)
def test_mixed_precision_trains_as_float32_does(deep_case, policy):
    history = _run(deep_case, policy)
    assert sum(history[name][-1] for name in LOSSES) < sum(history[name][0] for name in LOSSES)
    # bfloat16 has 8 bits: 0.4 % a number.
    assert_same_history(history, _full_precision(deep_case), 0.05)


def test_overflow_lowers_the_loss_scale_and_reaches_no_weight(deep_case):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        # Far above what float16 holds: the first steps overflow.
        inner = keras.optimizers.SGD(0.1)
        optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**24)
        model = make_model(deep_case, optimizer=optimizer)
    finally:
        keras.config.set_dtype_policy("float32")
    x, y = make_data(16)
    trunk = model.get_layer("trunk").kernel.numpy()
    model.train_on_batch(x, y)
    np.testing.assert_array_equal(model.get_layer("trunk").kernel, trunk)
    model.fit(x, y, batch_size=16, epochs=30, verbose=0)
    assert float(optimizer.dynamic_scale) < 2.0**24
    assert int(inner.iterations) > 10
    assert np.any(model.get_layer("trunk").kernel.numpy() != trunk)
    assert all(np.all(np.isfinite(array)) for array in values(model).values())
