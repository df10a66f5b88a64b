"""Every method trains under mixed precision: loss scaling is neither forgotten nor blinded."""

import functools

import keras
import numpy as np
import pytest
from conformance_support import (
    FIT,
    as_reference,
    assert_same_history,
    make_data,
    make_model,
    reference_run,
    values,
)

LOSSES = ("size_loss", "kind_loss", "flag_loss")


@functools.lru_cache(maxsize=1)  # the tests of one method follow one another
def _run(case, policy):
    """Returns model and history of what `reference_run` does, in mixed precision."""
    keras.config.set_dtype_policy(policy)
    try:
        model = make_model(case, **as_reference())
    finally:
        keras.config.set_dtype_policy("float32")
    return model, model.fit(*reference_run(case).data, epochs=4, **FIT).history


@pytest.mark.parametrize(
    "policy", [pytest.param("mixed_bfloat16", marks=pytest.mark.slow), "mixed_float16"]
)
def test_mixed_precision_trains_as_float32_does(deep_case, policy):
    history = _run(deep_case, policy)[1]
    assert sum(history[name][-1] for name in LOSSES) < sum(history[name][0] for name in LOSSES)
    # bfloat16 has 8 bits: 0.4 % a number.
    expected = {name: reference_run(deep_case).history[name] for name in LOSSES}
    assert_same_history({name: history[name] for name in LOSSES}, expected, 0.05)


def test_overflow_lowers_the_loss_scale_and_reaches_no_weight(dear_case):
    model = _run(dear_case, "mixed_float16")[0]
    optimizer = model.optimizer
    # Far above what float16 holds: the first steps overflow.
    optimizer.dynamic_scale.assign(2.0**24)
    x, y = make_data(8)
    trunk = model.get_layer("trunk").kernel.numpy()
    applied = int(optimizer.inner_optimizer.iterations)
    model.fit(x, y, **FIT)
    np.testing.assert_array_equal(model.get_layer("trunk").kernel, trunk)
    model.fit(x, y, epochs=30, **FIT)
    assert float(optimizer.dynamic_scale) < 2.0**24
    assert int(optimizer.inner_optimizer.iterations) > applied + 10
    assert np.any(model.get_layer("trunk").kernel.numpy() != trunk)
    assert all(np.all(np.isfinite(array)) for array in values(model).values())
