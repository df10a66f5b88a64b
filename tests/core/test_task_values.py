import numpy as np
import pytest

from keras_mtl.core import checks
from keras_mtl.core.roles import TaskRole
from keras_mtl.core.task_values import checked, in_order

ROLES = [TaskRole("age"), TaskRole("sex")]


@pytest.mark.parametrize("values", [[2, 1.0], (2, 1.0), np.float32([2, 1])])
def test_sequences_become_lists_of_floats(values):
    numbers = checked("shares", values, checks.positive_number)
    assert numbers == [2.0, 1.0]
    assert [type(number) for number in numbers] == [float, float]


def test_dicts_keep_their_keys_and_none_stays():
    assert checked("shares", {"age": 2}, checks.positive_number) == {"age": 2.0}
    assert checked("shares", None, checks.positive_number) is None


def test_names_and_positions_give_the_order_of_the_tasks():
    assert in_order("shares", None, 2, ROLES, default=1.0) == [1.0, 1.0]
    assert in_order("shares", [3.0, 4.0], 2, None, default=1.0) == [3.0, 4.0]
    assert in_order("shares", {"sex": 3.0, "age": 4.0}, 2, ROLES, default=1.0) == [4.0, 3.0]


def test_tasks_without_a_name_in_the_dict_get_the_default():
    assert in_order("shares", {"sex": 3.0}, 2, ROLES, default=1.0) == [1.0, 3.0]


@pytest.mark.parametrize("values", ["age", 3.0])
def test_other_types_are_refused(values):
    with pytest.raises(TypeError, match="`shares` must be a dict from task name to number, or a"):
        checked("shares", values, checks.positive_number)


def test_a_bad_number_is_named_by_its_place():
    with pytest.raises(
        ValueError, match=r"`shares\['age'\]` must be a finite number > 0, received"
    ):
        checked("shares", {"age": 0.0}, checks.positive_number)
    with pytest.raises(TypeError, match=r"`shares\[1\]` must be a finite number > 0, received 'x'"):
        checked("shares", [1.0, "x"], checks.positive_number)


def test_another_number_of_values_is_refused():
    with pytest.raises(ValueError, match=r"one number a task. Expected 2, received 1: \[3.0\]"):
        in_order("shares", [3.0], 2, ROLES, default=1.0)


def test_an_unknown_task_is_refused_with_the_nearest_name():
    message = r"`shares` must have only task names as keys.*Unknown: \['sec'\].*to 'sex'"
    with pytest.raises(ValueError, match=message):
        in_order("shares", {"sec": 3.0}, 2, ROLES, default=1.0)


def test_names_without_tasks_that_have_names_are_refused():
    with pytest.raises(ValueError, match=r"plain array have no names. Give a list of 2 numbers"):
        in_order("shares", {"sex": 3.0}, 2, None, default=1.0)
