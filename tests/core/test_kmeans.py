import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.core.kmeans import group_means


def partitions(items, num_groups):
    """Yields every partition of a list into at most `num_groups` groups, runs or not."""
    if not items:
        yield []
        return
    for rest in partitions(items[1:], num_groups):
        for index, group in enumerate(rest):
            yield [*rest[:index], [items[0], *group], *rest[index + 1 :]]
        if len(rest) < num_groups:
            yield [[items[0]], *rest]


def cost(values, groups):
    return sum(np.sum(np.square(values[group] - np.mean(values[group]))) for group in groups)


def best_two(values, num_groups):
    """The means in the best partition of all, its cost, and the cost of the next one."""
    found = [
        (cost(values, groups), groups) for groups in partitions([*range(len(values))], num_groups)
    ]
    ordered = sorted(found, key=lambda pair: pair[0])
    means = np.empty_like(values)
    for group in ordered[0][1]:
        means[group] = np.mean(values[group])
    return means, ordered[0][0], ordered[1][0] if len(ordered) > 1 else np.inf


def means_of(values, num_groups, active=None):
    active = np.ones(len(values)) if active is None else np.asarray(active)
    return group_means(np.asarray(values), active, num_groups).numpy()


@pytest.mark.parametrize(
    ("num_groups", "expected"),
    [
        (1, [3.8, 3.8, 3.8, 3.8, 3.8]),
        (2, [2.25, 10.0, 2.25, 2.25, 2.25]),
        (3, [1.5, 10.0, 3.0, 1.5, 3.0]),
        (4, [2.0, 10.0, 3.0, 1.0, 3.0]),
        (9, [2.0, 10.0, 3.0, 1.0, 3.0]),
    ],
)
def test_worked_by_hand(num_groups, expected):
    np.testing.assert_allclose(means_of([2.0, 10.0, 3.0, 1.0, 3.0], num_groups), expected)


@pytest.mark.parametrize("num_groups", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_equals_the_best_of_all_partitions(size, num_groups):
    random = np.random.default_rng(10 * size + num_groups)
    for _ in range(6):
        values = random.normal(size=size) * 10.0 ** random.uniform(-3, 3)
        means, lowest, second = best_two(values, num_groups)
        found = means_of(values, num_groups)
        unit = np.sum(np.square(values)) + 1e-300
        assert np.sum(np.square(values - found)) <= lowest + 1e-12 * unit
        if second > lowest + 1e-9 * unit:
            np.testing.assert_allclose(found, means, rtol=1e-12)


@pytest.mark.parametrize("num_groups", [2, 3])
def test_float32_finds_groups_of_very_different_scales(num_groups):
    random = np.random.default_rng(num_groups)
    for _ in range(15):
        # Squares span 1e24: differences of prefix sums would see only the largest.
        values = (10.0 ** random.uniform(-6, 6, size=6)).astype("float32")
        found = np.sum(np.square(np.float64(values) - means_of(values, num_groups)))
        lowest = best_two(np.float64(values), num_groups)[1]
        # The means themselves are rounded to 1e-7 of the largest member of their group.
        assert found <= 1.0001 * lowest + 1e-12 * np.max(values) ** 2


def test_near_values_are_told_apart_beside_a_huge_one():
    values = np.float32([1e6, 1.0, 1.001, 1.3, 1.301])
    expected = [1e6, 1.0005, 1.0005, 1.3005, 1.3005]
    np.testing.assert_allclose(means_of(values, 3), expected, rtol=1e-6)


def test_numbers_left_out_have_no_part():
    random = np.random.default_rng(0)
    for num_groups in (1, 2, 3):
        values, active = random.normal(size=6), np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
        present = active > 0
        given = np.where(present, values, [0.0, np.nan, 0.0, 0.0, np.inf, 0.0])
        found = means_of(given, num_groups, active)
        np.testing.assert_allclose(found[present], means_of(values[present], num_groups))
        np.testing.assert_array_equal(found[~present], 0.0)


def test_fewer_numbers_than_groups_stay_as_they_are():
    values, active = np.float32([5.0, 1.0, 7.0]), [1.0, 0.0, 1.0]
    np.testing.assert_array_equal(means_of(values, 3, active), [5.0, 0.0, 7.0])


def test_without_any_number_all_means_are_zero():
    np.testing.assert_array_equal(means_of([5.0, np.nan], 2, [0.0, 0.0]), [0.0, 0.0])


def test_equal_numbers_keep_their_value():
    np.testing.assert_allclose(means_of(np.full(5, 0.1, "float32"), 2), 0.1, rtol=1e-6)


def test_the_order_of_the_numbers_does_not_matter():
    random = np.random.default_rng(1)
    values, order = random.normal(size=8), random.permutation(8)
    np.testing.assert_array_equal(means_of(values[order], 3), means_of(values, 3)[order])


def test_means_keep_the_sum_and_the_dtype():
    values = np.float32([2.0, 10.0, 3.0, 1.0, 3.0])
    for num_groups in (1, 2, 3, 4):
        assert np.sum(means_of(values, num_groups)) == pytest.approx(np.sum(values), rel=1e-6)
    assert means_of(values, 2).dtype == "float32"
    assert means_of(np.float64(values), 2).dtype == "float64"


@pytest.mark.parametrize("size", [1, 3, 8])
def test_compiled_by_xla_equals_not_compiled(size):
    compiled = tf.function(group_means, jit_compile=True)
    graph = tf.function(group_means)
    random = np.random.default_rng(2)
    for _ in range(5):
        values, active = random.normal(size=size), np.float64(random.random(size) < 0.7)
        arguments = tf.constant(values), tf.constant(active), 3
        np.testing.assert_allclose(compiled(*arguments), graph(*arguments), rtol=1e-12)
        np.testing.assert_allclose(graph(*arguments), means_of(values, 3, active), rtol=1e-12)
