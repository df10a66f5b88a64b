"""Long gradients of many tasks in few dimensions, where rounding makes a Gramian indefinite."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.balancing import MGDA, CAGrad, DualProj, FairGrad, NashMTL, UPGrad

METHODS = {
    "upgrad": UPGrad,
    "dual_proj": DualProj,
    "cagrad": lambda: CAGrad(c=2.0),
    "mgda": MGDA,
    "nash_mtl": lambda: NashMTL(max_norm=None),
    "fairgrad 0.1": lambda: FairGrad(alpha=0.1),
    "fairgrad 0.5": lambda: FairGrad(alpha=0.5),
}


@functools.cache
def gradients(num_tasks, rank, seed):
    random = np.random.default_rng(seed)
    return (random.normal(size=(num_tasks, rank)) @ random.normal(size=(rank, 100_000))).astype(
        "float32"
    )


@functools.cache
def gramian(num_tasks, rank, seed):
    rows = tf.constant(gradients(num_tasks, rank, seed))
    return tf.matmul(rows, rows, transpose_b=True)


def directions(make, num_tasks, rank, seeds=range(3)):
    """Yields the direction and the longest gradient, in units of which it is measured."""
    method = make()
    method.build_for(num_tasks)
    solve = tf.function(lambda values: method.find_weights(values, tf.ones(num_tasks)))
    for seed in seeds:
        weights = solve(gramian(num_tasks, rank, seed)).numpy()
        rows = gradients(num_tasks, rank, seed).astype("float64")
        yield weights @ rows, np.linalg.norm(rows, axis=1).max()


@pytest.mark.parametrize(("num_tasks", "rank"), [(8, 1), (8, 2), (16, 3), (32, 1), (32, 2)])
@pytest.mark.parametrize("name", METHODS)
def test_directions_are_finite_and_no_longer_than_the_gradients_together(name, num_tasks, rank):
    for direction, longest in directions(METHODS[name], num_tasks, rank):
        assert np.isfinite(direction).all()
        assert np.linalg.norm(direction) <= 1.1 * num_tasks * longest


@pytest.mark.parametrize("name", ["upgrad", "dual_proj", "mgda"])
def test_gradients_on_a_line_in_both_directions_cancel(name):
    # All that a float32 Gramian tells of 0 is that it is below 1e-6 of a square.
    for direction, longest in directions(METHODS[name], 24, 1):
        assert np.linalg.norm(direction) < 1e-2 * longest
