"""Relative gains over baselines: published values, signs, and both averages in the logs."""

import keras
import numpy as np
import pytest

import keras_mtl
from keras_mtl.core.gains import Gains
from keras_mtl.core.task_metrics import Direction

# NYUv2, Nash-MTL's table 1: the single-task row, and linear scalarisation, a drop of 5.59 %.
NYUV2 = {
    "segmentation": {"miou": ("up", 38.30, 39.29), "accuracy": ("up", 63.76, 65.33)},
    "depth": {"absolute": ("down", 0.6754, 0.5493), "relative": ("down", 0.2780, 0.2263)},
    "normal": {
        "mean": ("down", 25.01, 28.15),
        "median": ("down", 19.21, 23.96),
        "within_11": ("up", 30.14, 22.09),
        "within_22": ("up", 57.20, 47.50),
        "within_30": ("up", 69.15, 61.08),
    },
}


def gains_of(table, absent=()):
    rows = [(task, f"{task}_{name}", row) for task in table for name, row in table[task].items()]
    entries = {task: [Direction(n, row[0]) for t, n, row in rows if t == task] for task in table}
    gains = Gains({name: row[1] for _, name, row in rows}, entries)
    logs = {name: row[2] for _, name, row in rows}
    measured = {task: task not in absent for task in table}
    return {key: float(x) for key, x in gains.results(logs, measured).items()}


def test_delta_m_is_the_published_drop_with_the_opposite_sign():
    assert gains_of(NYUV2)["delta_m"] == pytest.approx(-5.59, abs=0.005)


def test_delta_p_averages_over_tasks_first():
    # The numbers of LibMTL's docstring.
    table = {
        "A": {"f1": ("up", 96.0, 93.0), "error": ("down", 98.0, 99.0)},
        "B": {"score": ("up", 0.2, 0.5)},
    }
    first, second, third = -3 / 96, -1 / 98, 1.5
    found = gains_of(table)
    assert found["delta_p"] == pytest.approx(100 * ((first + second) / 2 + third) / 2, rel=1e-5)
    assert found["delta_m"] == pytest.approx(100 * (first + second + third) / 3, rel=1e-5)


def test_averages_agree_where_every_task_has_one_baseline():
    found = gains_of({"A": {"f1": ("up", 0.5, 0.75)}, "B": {"loss": ("down", 2.0, 1.0)}})
    assert found == {"delta_m": pytest.approx(50.0), "delta_p": pytest.approx(50.0)}


def test_a_task_without_labels_has_no_gain():
    table = {"A": {"f1": ("up", 0.5, 0.75)}, "B": {"loss": ("down", 2.0, 0.0)}}
    assert gains_of(table, absent="B") == {
        "delta_m": pytest.approx(50.0),
        "delta_p": pytest.approx(50.0),
    }
    assert gains_of(table, absent="AB") == {"delta_m": 0.0, "delta_p": 0.0}


@pytest.mark.parametrize(("direction", "sign"), [("up", 1.0), ("down", -1.0)])
@pytest.mark.parametrize("base", [4.0, -4.0])
def test_gain_is_positive_where_better_also_for_baselines_below_0(direction, sign, base):
    found = gains_of({"A": {"score": (direction, base, base + 1.0)}})
    assert found["delta_m"] == pytest.approx(sign * 25.0)


def test_both_averages_are_logged_in_training_and_validation():
    x = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
    y = {"age": x[:, :1], "size": x[:, 1:2]}
    tasks = {"age": keras_mtl.heads.Regression(), "size": keras_mtl.heads.Regression()}
    trunk = keras.layers.Dense(4)
    model = keras_mtl.architectures.hard_sharing(keras.Input((3,)), trunk, tasks)
    bases = {"age_mae": 2.0, "age_loss": 3.0, "size_mae": 4.0}
    model.compile("sgd", baselines=bases)

    logs = model.fit(x, y, verbose=0, validation_data=(x, y)).history

    for prefix in ("", "val_"):
        gains = {name: 1 - logs[prefix + name][0] / base for name, base in bases.items()}
        by_task = [(gains["age_mae"] + gains["age_loss"]) / 2, gains["size_mae"]]
        expected = {"delta_m": list(gains.values()), "delta_p": by_task}
        for name, values in expected.items():
            assert logs[prefix + name][0] == pytest.approx(100 * np.mean(values), rel=1e-4)


def test_without_baselines_nothing_is_logged():
    gains = Gains({}, {"A": [Direction("A_loss")]})
    assert gains.results({"A_loss": 1.0}, {"A": True}) == {}
    assert gains.entries == []


def test_a_task_cannot_bear_the_name_of_an_average():
    inputs = keras.Input((3,))
    model = keras_mtl.MultiTaskModel(inputs, {"delta": keras.layers.Dense(1)(inputs)})
    metric = keras.metrics.MeanAbsoluteError(name="p")
    with pytest.raises(ValueError, match=r"Log names must differ.*\['delta_p'\]"):
        model.compile("sgd", loss="mse", metrics={"delta": metric})
