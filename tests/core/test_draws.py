import keras
import numpy as np
import tensorflow as tf

from keras_mtl.core import draws


def test_numbers_are_the_same_with_and_without_xla_and_differ_from_draw_to_draw():
    plain, compiled = keras.random.SeedGenerator(3), keras.random.SeedGenerator(3)
    draw = tf.function(lambda: draws.uniform(5000, compiled), jit_compile=True)
    first = draws.uniform(5000, plain)
    np.testing.assert_array_equal(draw(), first)
    second = draws.uniform(5000, plain)
    np.testing.assert_array_equal(draw(), second)
    assert (first.numpy() != second.numpy()).all()


def test_numbers_fill_the_range_from_zero_to_one():
    numbers = draws.uniform(10000, keras.random.SeedGenerator(0)).numpy()
    assert (numbers >= 0).all()
    assert (numbers < 1).all()
    # 1000 in each tenth, with a standard deviation of 30.
    np.testing.assert_allclose(np.histogram(numbers, 10, (0, 1))[0], 1000, atol=150)


def test_neighbours_and_successive_draws_are_independent():
    generator = keras.random.SeedGenerator(1)
    first, second = (draws.uniform(10000, generator).numpy() for _ in range(2))
    # Correlations of independent numbers deviate by 0.01.
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.05
    assert len(np.unique(first)) > 9990


def test_fewer_numbers_are_the_first_of_more():
    few, more = (keras.random.SeedGenerator(2) for _ in range(2))
    for size in (1, 511, 512, 1023, 1024, 1025, 9000):
        expected = draws.uniform(10000, more)[:size]
        np.testing.assert_array_equal(draws.uniform(tf.constant(size), few), expected)


def test_numbers_are_not_worked_out_before_the_draw():
    """TensorFlow would keep them: eight bytes for each parameter, for every variable."""
    generator = keras.random.SeedGenerator(2)
    known = []

    @tf.function
    def draw():
        numbers = draws._counted(9000, tf.cast(generator.next()[1], tf.int64))
        known.append(tf.get_static_value(numbers))
        return numbers

    steps = np.diff(np.ravel(draw()).view("uint64"))
    assert (steps == np.uint64(0x9E3779B97F4A7C15)).all()
    assert 4500 <= len(steps) + 1 < 4500 + 512
    assert known == [None]


def test_hashes_are_those_of_the_published_generator():
    """The first outputs of SplitMix64 from 1234567, as printed with its constants."""
    state = np.uint64(1234567)
    increments = np.arange(1, 6, dtype="uint64") * np.uint64(0x9E3779B97F4A7C15)
    hashes = draws._mixed(tf.constant((state + increments).view("int64"))).numpy()
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    np.testing.assert_array_equal(hashes.view("uint64"), np.uint64(expected))
