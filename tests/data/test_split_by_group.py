"""Splits by group: no group on two sides, every row on one, fractions as near as groups let."""

import numpy as np
import pytest

from keras_mtl.data import split_by_group

THREE = {"train": 0.8, "validation": 0.1, "test": 0.1}


def random_groups(count, rows, seed=0):
    return np.random.default_rng(seed).zipf(1.5, rows) % count  # a few large groups, many small


@pytest.mark.parametrize("seed", range(20))
def test_no_group_is_in_two_splits_and_every_row_in_one(seed):
    groups = random_groups(30, 500, seed)
    splits = split_by_group(groups, THREE, seed=seed)
    assert list(splits) == list(THREE)
    np.testing.assert_array_equal(np.sort(np.concatenate(list(splits.values()))), np.arange(500))
    seen = [set(groups[rows]) for rows in splits.values()]
    assert sum(map(len, seen)) == len(set.union(*seen))


@pytest.mark.parametrize("seed", range(20))
def test_a_split_exceeds_its_fraction_by_less_than_the_largest_group(seed):
    groups = random_groups(200, 2000, seed)
    largest = np.bincount(groups).max()
    splits = split_by_group(groups, THREE, seed=seed)
    for split, share in THREE.items():
        assert len(splits[split]) <= 2000 * share + largest
        # What the two others may exceed theirs by.
        assert len(splits[split]) >= 2000 * share - 2 * largest


def test_groups_of_one_row_give_the_fractions():
    splits = split_by_group(np.arange(1000), THREE, seed=0)
    assert [len(rows) for rows in splits.values()] == [800, 100, 100]


def test_splits_without_a_group_get_the_last_ones():
    # By what is lacking alone, all three would go to train.
    for seed in range(10):
        splits = split_by_group(["a", "b", "c"], {"train": 0.98, "v": 0.01, "t": 0.01}, seed=seed)
        assert [len(rows) for rows in splits.values()] == [1, 1, 1]


def test_rows_keep_their_order_within_a_split():
    splits = split_by_group([3, 1, 3, 2, 1, 2, 3], {"a": 0.5, "b": 0.5}, seed=1)
    for rows in splits.values():
        assert rows.tolist() == sorted(rows)


def test_a_seed_repeats_the_split_and_another_changes_it():
    groups = random_groups(50, 300)
    one, same, other = (split_by_group(groups, THREE, seed=seed)["test"] for seed in (-1, -1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_every_group_may_come_to_the_test_split():
    tested = {
        group
        for seed in range(60)
        for group in split_by_group(range(5), {"train": 0.8, "test": 0.2}, seed=seed)["test"]
    }
    assert tested == set(range(5))


@pytest.mark.parametrize("groups", [["b", "a", "b"], np.array(["b", "a", "b"], dtype=object)])
def test_groups_may_be_strings(groups):
    splits = split_by_group(groups, {"x": 0.6, "y": 0.4}, seed=0)
    assert sorted(rows.tolist() for rows in splits.values()) == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("groups", "fractions", "message"),
    [
        ([1, 2, 3], {"a": 0.5, "b": 0.4}, "`fractions` must add up to 1, received {'a': 0.5"),
        ([1, 2, 3], {"a": 1.5, "b": -0.5}, r"`fractions\['b'\]` must be a finite number > 0"),
        ([1, 2, 3], {}, "`fractions` must add up to 1"),
        ([[1], [2]], {"a": 1.0}, r"one group a row, received an array of shape \(2, 1\)"),
        ([1, 1, 1], {"a": 0.5, "b": 0.5}, r"at least as many groups as .* splits, 2, received 1"),
        ([], {"a": 1.0}, "at least as many groups"),
        ([1.0, np.nan], {"a": 1.0}, "a group for every row, received nan in row 1"),
        (["x", None], {"a": 1.0}, "a group for every row, received None in row 1"),
        (["x", "y", np.nan], {"a": 1.0}, "a group for every row, received nan in row 2"),
        (("x", np.float32(np.nan)), {"a": 1.0}, "a group for every row, received nan in row 1"),
    ],
)
def test_values_that_do_not_fit_are_refused(groups, fractions, message):
    with pytest.raises(ValueError, match=message):
        split_by_group(groups, fractions)


class NotAvailable:
    """As NA of pandas: neither like nor unlike anything."""

    def __ne__(self, other):
        return self

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


@pytest.mark.parametrize("make", [list, lambda groups: np.array(groups, dtype=object)])
def test_missing_values_of_pandas_are_refused(make):
    with pytest.raises(ValueError, match=r"a group for every row, received <.* in row 1"):
        split_by_group(make(["x", NotAvailable(), "y"]), {"a": 1.0})


def test_a_group_may_be_called_nan():
    splits = split_by_group(["nan", "x", "nan"], {"x": 0.6, "y": 0.4}, seed=0)
    assert sorted(rows.tolist() for rows in splits.values()) == [[0, 2], [1]]


def test_types_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match="`fractions` must be a dict from split"):
        split_by_group([1, 2], [0.5, 0.5])
    with pytest.raises(TypeError, match="`seed` must be None or an integer"):
        split_by_group([1, 2], {"a": 1.0}, seed=0.5)
