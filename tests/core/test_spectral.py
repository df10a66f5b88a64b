import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.core import spectral


def spectrum_of(gradients, active=None):
    gradients = np.asarray(gradients)
    active = np.ones(len(gradients)) if active is None else active
    gramian = tf.constant(gradients @ gradients.T)
    return spectral.gramian_spectrum(spectral.gradients_of(gramian, active))


def units(gradients):
    """Gradients in the unit of the spectrum: the longest has length 1."""
    return gradients / np.linalg.norm(gradients, axis=1).max()


@pytest.mark.parametrize("num_tasks", [1, 2, 5, 32])
def test_powers_equal_those_of_numpy(num_tasks):
    random = np.random.default_rng(num_tasks)
    gradients, vector = random.normal(size=(num_tasks, 40)), random.normal(size=num_tasks)
    values, vectors = np.linalg.eigh(units(gradients) @ units(gradients).T)
    spectrum = spectrum_of(gradients)
    for exponent in (-1, -0.5, 0, 0.5, 1):
        expected = vectors @ (values**exponent * (vectors.T @ vector))
        # Float64, eigenvalues down to 1e-3 of the largest.
        np.testing.assert_allclose(spectrum.power(exponent, vector), expected, rtol=1e-10)
    assert spectrum.smallest.numpy() == pytest.approx(values.min(), rel=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("num_tasks", [3, 8, 32])
def test_rank_is_that_of_the_gradients(num_tasks, dtype):
    random = np.random.default_rng(num_tasks)
    gradients = random.normal(size=(num_tasks, 2)) @ random.normal(size=(2, 9))
    vector = random.normal(size=num_tasks)
    spectrum = spectrum_of(gradients.astype(dtype))
    assert spectrum.rank == 2
    expected = np.linalg.pinv(units(gradients) @ units(gradients).T, rcond=1e-10) @ vector
    # Rounding of the Gramian, over an eigenvalue of 0.1 of the largest.
    tolerance = {"float32": 1e-4, "float64": 1e-11}[dtype] * np.abs(expected).max()
    np.testing.assert_allclose(spectrum.power(-1, vector), expected, atol=tolerance)


@pytest.mark.parametrize("ratio", [1e-3, 1e-6])
def test_a_short_gradient_is_not_taken_for_rounding_in_float32(ratio):
    gradients = np.float32([[1.0, 0.0], [0.6 * ratio, 0.8 * ratio]])
    spectrum = spectrum_of(gradients)
    assert spectrum.rank == 2
    # The determinant of the Gramian is (0.8 ratio)^2, its trace about 1.
    assert spectrum.smallest.numpy() == pytest.approx((0.8 * ratio) ** 2, rel=1e-4)


def test_a_vector_outside_the_range_gives_zero():
    gradients = [[1.0, 2.0], [-1.0, -2.0]]
    np.testing.assert_array_equal(spectrum_of(gradients).power(-1, [1.0, 1.0]), [0.0, 0.0])


def test_tasks_that_are_absent_or_have_no_gradient_are_left_out():
    gradients = np.float64([[1.0, 2.0], [3.0, -1.0], [0.0, 0.0], [2.0, 1.0]])
    spectrum = spectrum_of(gradients, [1.0, 0.0, 1.0, 1.0])
    rest = spectrum_of(gradients[[0, 3]])
    expected = rest.power(-1, [1.0, 4.0]).numpy()
    found = spectrum.power(-1, [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(found, [expected[0], 0, 0, expected[1]], rtol=1e-12)


def test_no_task_at_all_gives_zero_whatever_the_gramian_holds():
    gramian = tf.fill((3, 3), np.nan)
    gradients = spectral.gradients_of(gramian, np.zeros(3))
    for spectrum in (spectral.gramian_spectrum(gradients), spectral.cosine_spectrum(gradients)):
        np.testing.assert_array_equal(spectrum.power(-1, np.ones(3)), np.zeros(3))
        assert spectrum.smallest == 1.0


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
def test_each_pair_meets_once_in_the_rounds(size):
    rounds = spectral._rounds(size)
    met = [(i, j) for partners in rounds for i, j in enumerate(partners) if i < j]
    assert sorted(met) == list(itertools.combinations(range(size), 2))
    for partners in rounds:
        assert [partners[j] for j in partners] == list(range(size))


@pytest.mark.parametrize("size", [2, 5, 8])
def test_an_inexact_decomposition_is_made_exact(monkeypatch, size):
    random = np.random.default_rng(size)
    gradients, vector = random.normal(size=(size, 12)), random.normal(size=size)
    exact = spectrum_of(gradients).power(-1, vector)
    inexact, decompose = random.normal(size=(2, size, size)), tf.linalg.eigh
    errors = 1e-6 * (inexact[0] - inexact[0].T) + 1e-6 * inexact[1]

    def decompose_inexactly(matrix):
        values, vectors = decompose(matrix)
        return values, vectors @ tf.constant(np.eye(size) + errors)

    monkeypatch.setattr(tf.linalg, "eigh", decompose_inexactly)
    # The error is now float64 rounding, over eigenvalues down to 1e-2.
    np.testing.assert_allclose(spectrum_of(gradients).power(-1, vector), exact, rtol=1e-11)


def test_traced_without_autograph_equals_eager():
    gradients = np.random.default_rng(1).normal(size=(3, 5))
    traced = tf.function(lambda: spectrum_of(gradients).power(-1, np.ones(3)), autograph=False)
    expected = spectrum_of(gradients).power(-1, np.ones(3))
    np.testing.assert_allclose(traced(), expected, rtol=1e-12)


def test_compiled_by_xla_equals_not_compiled():
    compiled = tf.function(
        lambda gramian: spectral.gramian_spectrum(spectral.gradients_of(gramian, tf.ones(4))).power(
            -0.5, np.arange(4.0)
        ),
        jit_compile=True,
    )
    gradients = np.random.default_rng(0).normal(size=(4, 9))
    expected = spectrum_of(gradients).power(-0.5, np.arange(4.0))
    # XLA alone leaves 1e-6.
    np.testing.assert_allclose(compiled(tf.constant(gradients @ gradients.T)), expected, rtol=1e-10)
