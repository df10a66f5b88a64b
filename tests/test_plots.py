"""Figures of task weights and losses: what is drawn is what was logged."""

import itertools
import sys

import keras
import numpy as np
import pytest
from matplotlib import pyplot

import keras_mtl
from keras_mtl.plots import plot_gradient_conflicts, plot_task_losses, plot_task_weights

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = {"age": X[:, :1], "size": X[:, 1:2] * 3}
LOG = {
    "loss": [5.0, 3.0],
    "age_loss": [4.0, 2.0],
    "age_weight": [0.5, 0.25],
    "age_net_weight": [7.0, 7.0],  # a metric of `age`, not a task
    "size_loss": [1.0, 1.0],
    "size_weight": [0.75, 1.0],
    "val_size_loss": [2.0, 1.5],
}


@pytest.fixture(autouse=True)
def _closed():
    yield
    pyplot.close("all")


def drawn(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}


def make_model():
    inputs = keras.Input((3,), name="x")
    hidden = keras.layers.Dense(4, "tanh")(inputs)
    outputs = {task: keras.layers.Dense(1, name=task)(hidden) for task in Y}
    model = keras_mtl.MultiTaskModel(inputs, outputs)
    model.compile("sgd", loss="mse", loss_weighting="uncertainty")
    return model


def points(epochs, values):
    return [[float(epoch), float(value)] for epoch, value in zip(epochs, values, strict=True)]


def test_weights_of_the_tasks_are_drawn_by_epoch_from_1():
    axes = plot_task_weights(LOG)
    assert drawn(axes) == {"age": points([1, 2], [0.5, 0.25]), "size": points([1, 2], [0.75, 1.0])}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "task weight")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["age", "size"]


def test_losses_are_drawn_with_those_of_the_validation_dashed():
    axes = plot_task_losses(LOG)
    assert drawn(axes) == {
        "age": points([1, 2], [4.0, 2.0]),
        "size": points([1, 2], [1.0, 1.0]),
        "size, validation": points([1, 2], [2.0, 1.5]),
    }
    assert [line.get_linestyle() for line in axes.get_lines()] == ["-", "-", "--"]
    colours = [line.get_color() for line in axes.get_lines()]
    assert colours[0] != colours[1] == colours[2]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["age", "size", "validation"]
    assert list(drawn(plot_task_losses(LOG, validation=False))) == ["age", "size"]


def test_tasks_are_chosen_and_drawn_into_given_axes():
    axes = pyplot.subplots()[1]
    assert plot_task_weights(LOG, tasks=["size"], ax=axes) is axes
    assert list(drawn(axes)) == ["size"]


def test_equal_lines_show_by_markers_of_other_sizes_or_places():
    log = {f"{task}_{what}": [1.0] * 30 for task in "abcd" for what in ("weight", "loss")}
    lines = plot_task_weights(log).get_lines()
    looks = {(line.get_markersize(), line.get_markevery(), line.get_color()) for line in lines}
    assert len({places for _, places, _ in looks}) > 1
    assert len({size for size, _, _ in looks}) == len(looks) == 4


@pytest.mark.parametrize(("count", "beside"), [(8, False), (12, True)])
def test_every_task_has_its_colour_and_long_legends_stand_beside(count, beside):
    log = {f"t{k}_{what}": [1.0] for k in range(count) for what in ("weight", "loss")}
    axes = plot_task_weights(log)
    assert len({line.get_color() for line in axes.get_lines()}) == count
    axes.figure.canvas.draw()
    box = axes.get_legend().get_window_extent()
    assert bool(box.x0 >= axes.get_window_extent().x1) is beside
    assert box.x1 <= axes.figure.bbox.x1


@pytest.mark.parametrize("separator", [",", ";"])
def test_history_and_log_file_of_a_run_draw_the_same(separator, tmp_path):
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv", separator=separator)
    history = make_model().fit(
        *(X, Y), epochs=3, validation_data=(X, Y), callbacks=[logger], verbose=0
    )
    for plot in (plot_task_weights, plot_task_losses):
        found = drawn(plot(history))
        for name, line in drawn(plot(str(tmp_path / "log.csv"))).items():
            np.testing.assert_allclose(line, found.pop(name), rtol=1e-6)
        assert found == {}
    expected = points([1, 2, 3], history.history["age_weight"])
    assert drawn(plot_task_weights(history))["age"] == expected


def test_values_stand_at_the_epochs_that_were_validated(tmp_path):
    fit = {"validation_data": (X, Y), "validation_freq": 2, "verbose": 0}
    history = make_model().fit(X, Y, epochs=7, initial_epoch=2, **fit)
    values = history.history["val_age_loss"]
    assert drawn(plot_task_losses(history))["age, validation"] == points([4, 6], values)
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    make_model().fit(X, Y, epochs=2, callbacks=[logger], verbose=0)
    assert list(drawn(plot_task_losses(tmp_path / "log.csv"))) == ["age", "size"]


def test_a_file_of_a_resumed_run_is_drawn_as_it_was_last(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(
        "epoch,age_loss,age_weight,val_age_loss\n"
        "0,5.0,0.1,NA\n1,4.0,0.2,8.0\n2,3.0,0.3,NA\n"
        "1,40.0,0.25,7.0\n2,30.0,0.35,NA\n3,20.0,nan,6.0\n"
    )
    assert drawn(plot_task_losses(path)) == {
        "age": points([1, 2, 3, 4], [5.0, 40.0, 30.0, 20.0]),
        "age, validation": points([2, 4], [7.0, 6.0]),
    }
    weights = np.array(drawn(plot_task_weights(path))["age"])
    np.testing.assert_array_equal(weights[:, 1], [0.1, 0.25, 0.35, np.nan])


def test_a_single_epoch_shows_as_a_point():
    axes = plot_task_losses({name: values[:1] for name, values in LOG.items()})
    assert [line.get_marker() for line in axes.get_lines()] == ["o"] * 3
    assert [handle.get_marker() for handle in axes.get_legend().legend_handles] == ["o"] * 3
    first, last = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if first <= tick <= last] == [1]
    assert plot_task_losses(LOG).get_legend().legend_handles[-1].get_marker() == "None"


@pytest.mark.parametrize(
    ("log", "error", "message"),
    [
        ({"loss": [1.0], "age_loss": [1.0]}, ValueError, "holds no task weights.*'age_loss'"),
        ({}, ValueError, "holds no task weights"),
        ([1.0], TypeError, "must be the History that `fit` returned"),
        ({**LOG, "val_size_loss": [1.0] * 5}, ValueError, "5 values of 'val_size_loss' for 2 ep"),
    ],
)
def test_wrong_logs_are_refused(log, error, message):
    if message.startswith("5 values"):
        log = {name: values * 4 if len(values) == 2 else values for name, values in log.items()}
        message = message.replace("2 ep", "8 ep")
    with pytest.raises(error, match=message):
        plot_task_losses(log)


def test_unknown_tasks_and_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Rename the key 'aeg' to 'age'"):
        plot_task_weights(LOG, tasks=["aeg"])
    with pytest.raises(TypeError, match=r"Write `tasks=\['age'\]`"):
        plot_task_weights(LOG, tasks="age")
    (tmp_path / "other.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match=r"CSVLogger.*begins with 'x,y'"):
        plot_task_weights(tmp_path / "other.csv")


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "keras_mtl\[plot\]"'):
        plot_task_weights(LOG)


def test_pairs_are_found_whatever_the_order_of_the_tasks():
    log = {f"{task}_{what}": [1.0] for task in ("age", "sex") for what in ("loss", "weight")}
    log["sex_age_cosine"] = [0.25]
    for tasks in (None, ["age", "sex"], ["sex", "age"]):
        image = plot_gradient_conflicts(log, tasks=tasks).get_images()[0]
        assert image.get_array().tolist() == [[0.25]]


def conflicts(tasks, cosines):
    log = {f"{task}_{what}": [1.0] * len(cosines) for task in tasks for what in ("loss", "weight")}
    pairs = itertools.combinations(tasks, 2)
    return {**log, **{f"{first}_{second}_cosine": cosines for first, second in pairs}}


def test_conflicts_stand_at_the_epochs_of_the_run():
    history = keras.callbacks.History()
    history.history, history.epoch = conflicts(["age", "sex"], [0.5, -0.5, 0.0]), [5, 6, 7]
    image = plot_gradient_conflicts(history).get_images()[0]
    epochs = drawn(plot_task_weights(history))["age"]
    assert image.get_extent() == [epochs[0][0] - 0.5, epochs[-1][0] + 0.5, 0.5, -0.5]


def test_epochs_that_a_file_lacks_are_empty_columns(tmp_path):
    header = "epoch,age_loss,age_weight,sex_loss,sex_weight,age_sex_cosine"
    (tmp_path / "log.csv").write_text(f"{header}\n2,1,1,1,1,0.5\n4,1,1,1,1,-0.5\n")
    image = plot_gradient_conflicts(tmp_path / "log.csv").get_images()[0]
    assert image.get_extent() == [2.5, 5.5, 0.5, -0.5]
    assert image.get_array().tolist() == [[0.5, None, -0.5]]  # masked


def test_a_cell_without_a_measurement_looks_like_no_cosine():
    axes = plot_gradient_conflicts(conflicts(["age", "sex"], [np.nan, 0.0]))
    axes.figure.canvas.draw()
    pixels = np.asarray(axes.figure.canvas.buffer_rgba())[::-1, :, :3] / 255
    box = axes.get_window_extent()
    across = np.linspace(box.x0, box.x1, 5).astype(int)
    height = int(box.y0 + box.y1) // 2
    empty = pixels[height - 20 : height + 20, across[1] - 20 : across[1] + 20].reshape(-1, 3)
    zero = pixels[height, across[3]]
    colours = axes.get_images()[0].get_cmap()(np.linspace(0, 1, 256))[:, :3]
    assert np.abs(empty[:, None] - colours).max(axis=-1).min() > 0.05
    assert np.abs(zero - colours).max(axis=-1).min() < 0.01


def test_names_of_many_pairs_do_not_overlap():
    axes = plot_gradient_conflicts(conflicts([f"t{k}" for k in range(12)], [0.5]))
    axes.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert len(boxes) == 66
    for upper, lower in itertools.pairwise(boxes):
        assert upper.y0 >= lower.y1


def test_a_row_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("epoch,age_loss,age_weight\n0,2.0,1.0\n\n1,1.")
    line = plot_task_losses(path).get_lines()[0]
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([1], [2.0])
