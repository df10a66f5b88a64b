"""The demand example: split by time, no count among the inputs, and errors worked by hand."""

import csv
import datetime
import json

import numpy as np
import pytest

COLUMNS = (
    *("instant", "dteday", "season", "yr", "mnth", "hr", "holiday", "weekday", "workingday"),
    *("weathersit", "temp", "atemp", "hum", "windspeed", "casual", "registered", "cnt"),
)
METHODS = [
    "single task",
    "same hour and weekday",
    "multi-task",
    "uncertainty",
    "scale_invariant",
    "pcgrad",
]


@pytest.fixture(scope="module")
def demand(example):
    return example("demand")


def make_hours(count):
    """Returns rows as the data set has them, from a Saturday on, busy at noon."""
    rng = np.random.default_rng(0)
    first = datetime.datetime(2011, 1, 1)
    rows = []
    for number in range(count):
        now = first + datetime.timedelta(hours=number)
        weekday = (now.weekday() + 1) % 7
        casual = rng.poisson(2 + 8 * (now.hour in range(9, 18)))
        registered = rng.poisson(10 + 60 * (now.hour in range(7, 20)))
        weather = [round(x, 2) for x in rng.uniform(0, 1, 4)]
        calendar = [now.month, now.hour, 0, weekday, int(0 < weekday < 6)]
        counts = [casual, registered, casual + registered]
        rows.append(
            [number + 1, now.date(), 1, 0, *calendar, rng.integers(1, 4), *weather, *counts]
        )
    return rows


def write(path, rows, columns=COLUMNS):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


@pytest.fixture(scope="module")
def result(quick, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("bikes") / "hour.csv", make_hours(600))
    return quick("demand", "--data", path)


def test_table_has_a_row_a_method_and_a_difference_to_single_tasks(result):
    lines = result["table"].splitlines()
    assert lines[0] == (
        "| method | casual, mean absolute error | registered, mean absolute error "
        "| casual, RMSLE | registered, RMSLE | minutes a seed |"
    )
    differences = [f"{method}, less single task" for method in METHODS[1:]]
    assert [line.split(" | ")[0][2:] for line in lines[2:]] == METHODS + differences


def test_table_figure_and_results_are_written(demand, result):
    written = result["folder"]
    assert {path.name for path in written.iterdir()} == {"results.json", "table.md", "demand.png"}
    (seed,) = json.loads((written / "results.json").read_text())
    keys = {measure.key for measure in demand.MEASURES} | {"minutes"}
    assert {method: set(values) for method, values in seed.items()} == dict.fromkeys(METHODS, keys)
    assert (written / "table.md").read_text() == result["table"] + "\n"


def test_columns_are_read_by_name_whatever_their_order(demand, tmp_path):
    rows = [row[::-1] for row in make_hours(3)]
    rows[1][COLUMNS[::-1].index("hr")] = "1 "  # the data has one such row
    hours = demand.read(write(tmp_path / "hour.csv", rows, COLUMNS[::-1]))
    assert hours["hr"].tolist() == [0, 1, 2]
    assert hours["weekday"].tolist() == [6, 6, 6]
    assert hours["registered"].tolist() == [row[-2] for row in make_hours(3)]
    assert {"cnt", "instant"}.isdisjoint(hours)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("temp", "warm", r"line 4: temp must be a number, received 'warm'"),
        ("hum", "nan", r"line 4: hum must be a number, received 'nan'"),
        ("hr", "24", r"line 4: hr must be in range\(0, 24\), received '24'"),
        ("casual", "-1", r"line 4: casual must be a count, received '-1'"),
        ("registered", "2.5", r"line 4: registered must be a count, received '2.5'"),
        ("dteday", "May", r"line 4: dteday must be a date, received 'May'"),
        ("hr", "1", r"line 4: 2011-01-01 01:00:00 must be later than 2011-01-01 01:00:00"),
    ],
)
def test_a_bad_value_is_named_with_its_line(demand, tmp_path, column, value, message):
    rows = make_hours(4)
    rows[2][COLUMNS.index(column)] = value
    with pytest.raises(ValueError, match=message):
        demand.read(write(tmp_path / "hour.csv", rows))


def test_a_column_that_is_missing_is_named(demand, tmp_path):
    path = write(tmp_path / "hour.csv", [], [name for name in COLUMNS if name != "casual"])
    with pytest.raises(ValueError, match=r"hour.csv lacks the columns \['casual'\]"):
        demand.read(path)


def test_the_past_trains_and_the_last_fifth_tests(demand):
    rows = demand.split_by_time(20)
    assert {split: chosen.tolist() for split, chosen in rows.items()} == {
        "train": list(range(14)),
        "validation": [14, 15],
        "test": [16, 17, 18, 19],
    }
    with pytest.raises(ValueError, match="hours for each of three splits, received 2 hours"):
        demand.split_by_time(2)


@pytest.fixture
def hours(demand, tmp_path):
    return demand.read(write(tmp_path / "hour.csv", make_hours(100)))


def test_inputs_of_the_past_do_not_change_with_the_future(demand, hours):
    before = demand.make_splits(hours)["train"][0]
    for name in ("temp", "hum", "casual", "registered"):
        hours[name][70:] = 100
    np.testing.assert_array_equal(demand.make_splits(hours)["train"][0], before)
    np.testing.assert_allclose(before[:, -4:].mean(0), 0, atol=1e-6)  # float32
    np.testing.assert_allclose(before[:, -4:].std(0), 1, atol=1e-6)


def test_no_count_is_an_input(demand, hours):
    past = np.arange(70)
    before = demand.make_inputs(hours, past)
    for name in demand.COUNTS:
        hours[name] = hours[name][::-1] + 7
    np.testing.assert_array_equal(demand.make_inputs(hours, past), before)


def test_each_category_has_a_place_of_its_own(demand, hours):
    inputs = demand.make_inputs(hours, np.arange(70))
    hour_of_day = slice(4 + 12, 4 + 12 + 24)
    assert inputs.shape == (100, 4 + 12 + 24 + 7 + 4 + 7)
    np.testing.assert_array_equal(inputs[:24, hour_of_day], np.eye(24))
    np.testing.assert_array_equal(inputs[:, :51].sum(1), 5)  # one a category


def test_a_week_is_repeated_from_training_hours(demand):
    hours = {
        "weekday": np.array([0, 0, 0, 0, 1]),
        "hr": np.array([5, 5, 6, 5, 5]),
        "casual": np.array([2.0, 4.0, 9.0, 100.0, 100.0]),
        "registered": np.array([10.0, 30.0, 50.0, 100.0, 100.0]),
    }
    rows = {"train": np.arange(3), "test": np.array([3, 4])}
    predictions = demand.repeat_week(hours, rows)
    # The second hour has no like in the past and gets the mean of all of them.
    np.testing.assert_allclose(predictions["casual"], [[3], [5]])
    np.testing.assert_allclose(predictions["registered"], [[20], [30]])


def test_errors_are_on_the_scale_of_the_counts(demand):
    counts = {"casual": np.array([[0.0], [3.0]]), "registered": np.array([[1.0], [1.0]])}
    found = {"casual": np.array([[1.0], [1.0]])}
    # |0 - 1| and |3 - 1|; the logs of 1 and 2, and of 4 and 2, are log 2 apart.
    assert demand.measure(found, counts) == pytest.approx(
        {"casual_mae": 1.5, "casual_rmsle": np.log(2)}
    )
