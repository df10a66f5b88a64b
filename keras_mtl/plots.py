"""Figures of training: task weights, losses and gradient conflicts over the epochs."""

import csv
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_mtl.core import checks


def plot_task_weights(log: Any, *, tasks: Sequence[str] | None = None, ax: Any = None) -> Any:
    """Draws the effective weight of each task over the epochs: `<task>_weight` in the logs.

    Args:
        log: The `History` that `fit` returned or its dict, or the path of a `CSVLogger`'s file.
            What a file holds twice, because a run was resumed, is drawn as it was last.
        tasks: Optional list of task names to draw, in order; by default all in the log.
        ax: Optional Matplotlib `Axes` to draw into; by default of a new figure.

    Returns:
        The Matplotlib `Axes`. Epochs count from 1, as `fit` prints them.

    Raises:
        ImportError: If Matplotlib is not installed.
        TypeError: If `log` is none of these.
        ValueError: If the log holds no task weights, or `tasks` names an unknown task.

    Example:

    >>> log = {"age_loss": [2.0, 1.0], "age_weight": [0.5, 0.7]}
    >>> axes = keras_mtl.plots.plot_task_weights(log)
    >>> axes.get_lines()[0].get_ydata()
    [0.5, 0.7]
    """
    read = _read(log)
    ax = _new_axes() if ax is None else ax
    for task, style in _styles(_chosen(read, tasks), len(read.epochs)).items():
        ax.plot(*read.series(f"{task}_weight"), label=task, **style)
    return _finished(ax, "task weight")


def plot_task_losses(
    log: Any, *, tasks: Sequence[str] | None = None, validation: bool = True, ax: Any = None
) -> Any:
    """Draws the loss of each task over the epochs: `<task>_loss`, not weighted.

    Args:
        log: As in `plot_task_weights`.
        tasks: As in `plot_task_weights`.
        validation: Boolean. Whether to draw `val_<task>_loss` too, dashed, where there is one.
        ax: As in `plot_task_weights`.

    Returns:
        The Matplotlib `Axes`. For losses of different size call its `set_yscale("log")`.

    Raises:
        ImportError: If Matplotlib is not installed.
        TypeError: If `log` has the wrong type.
        ValueError: As in `plot_task_weights`, and if it cannot be told which epochs were validated.

    Example:

    >>> log = {"age_loss": [2.0, 1.0], "val_age_loss": [3.0, 2.5], "age_weight": [1.0, 1.0]}
    >>> axes = keras_mtl.plots.plot_task_losses(log)
    >>> [line.get_label() for line in axes.get_lines()]
    ["age", "age, validation"]
    """
    read = _read(log)
    ax = _new_axes() if ax is None else ax
    for task, style in _styles(_chosen(read, tasks), len(read.epochs)).items():
        ax.plot(*read.series(f"{task}_loss"), label=task, **style)
        if validation and read.has(f"val_{task}_loss"):
            dashed = {"color": style["color"], "linestyle": "--", "label": f"{task}, validation"}
            ax.plot(*read.series(f"val_{task}_loss"), **dashed)
    return _finished(ax, "task loss")


def plot_gradient_conflicts(
    log: Any, *, quantity: str = "cosine", tasks: Sequence[str] | None = None, ax: Any = None
) -> Any:
    """Draws what `GradientConflictMonitor` logged: a row a pair of tasks, a column an epoch.

    Args:
        log: As in `plot_task_weights`.
        quantity: `"cosine"`, from -1 (opposite) to 1 (alike), or `"magnitude_similarity"`, from 0
            to 1 (equally long).
        tasks: As in `plot_task_weights`; pairs of these are drawn.
        ax: As in `plot_task_weights`.

    Returns:
        The Matplotlib `Axes`. Cells without a measurement are grey and hatched. A figure of its
        own is the higher the more pairs there are.

    Raises:
        ImportError: If Matplotlib is not installed.
        TypeError: If `log` has the wrong type.
        ValueError: If `quantity` is neither of the two, or the log holds none of it.

    Example:

    >>> log = {"a_weight": [1.0, 1.0], "a_loss": [1.0, 0.5], "b_weight": [1.0, 1.0]}
    >>> log |= {"b_loss": [1.0, 0.5], "a_b_cosine": [0.5, -0.25]}
    >>> axes = keras_mtl.plots.plot_gradient_conflicts(log)
    >>> axes.get_images()[0].get_array().tolist()
    [[0.5, -0.25]]
    """
    checks.one_of("quantity", quantity, ["cosine", "magnitude_similarity"])
    read = _read(log)
    pairs = list(itertools.combinations(_chosen(read, tasks), 2))
    names = [_name_of_pair(read, pair, quantity) for pair in pairs]
    if not names or not all(read.has(name) for name in names):
        raise ValueError(
            f"`log` holds no '<task>_<task>_{quantity}' of all pairs of tasks. Train two tasks or "
            "more with `callbacks=[keras_mtl.callbacks.GradientConflictMonitor()]`."
        )
    ax = _new_axes(rows=len(pairs)) if ax is None else ax
    lowest, colours = (-1.0, "RdBu") if quantity == "cosine" else (0.0, "viridis")
    extent = (read.epochs[0] + 0.5, read.epochs[-1] + 1.5, len(names) - 0.5, -0.5)
    style = {"cmap": colours, "vmin": lowest, "vmax": 1.0, "aspect": "auto", "extent": extent}
    image = ax.imshow([read.cells(name) for name in names], interpolation="nearest", **style)
    # Shows where a cell is empty; a cosine of 0 is nearly white.
    ax.patch.set(facecolor="0.8", edgecolor="0.6", hatch="///")
    ax.figure.colorbar(image, ax=ax, label=quantity.replace("_", " "))
    ax.set_yticks(range(len(pairs)), [f"{first}, {second}" for first, second in pairs])
    ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    ax.set(xlabel="epoch")
    return ax


def _name_of_pair(log: "_Log", pair: tuple[str, str], quantity: str) -> str:
    # Logs are sorted by name, pairs named in the order of the model's tasks.
    names = [f"{first}_{second}_{quantity}" for first, second in (pair, pair[::-1])]
    return names[0] if log.has(names[0]) else names[1]


class _Log(NamedTuple):
    """The epochs of a log, counted from 0, and its values by name: `None` where one is missing."""

    epochs: list[int]
    values: dict[str, list[float | None]]

    def has(self, name: str) -> bool:
        """Whether there is a value of this name."""
        return any(value is not None for value in self.values.get(name, []))

    def series(self, name: str) -> tuple[Any, Any]:
        """Returns the epochs, counted from 1, and the values of one name."""
        values = self.values[name]
        pairs = zip(self._epochs_of(name, len(values)), values, strict=True)
        there = [(epoch + 1, float(value)) for epoch, value in pairs if value is not None]
        return tuple(np.asarray(column) for column in zip(*there, strict=True))

    def cells(self, name: str) -> list[float]:
        """Returns the value in each epoch from the first to the last, NaN where there is none."""
        there = dict(zip(self.epochs, self.values[name], strict=False))
        values = [there.get(epoch) for epoch in range(self.epochs[0], self.epochs[-1] + 1)]
        return [np.nan if value is None else float(value) for value in values]

    def _epochs_of(self, name: str, count: int) -> list[int]:
        # A History tells only how often it was validated. Keras does it where the epoch, counted
        # from 1, is a multiple of `validation_freq`.
        for frequency in range(1, len(self.epochs) + 1):
            found = [epoch for epoch in self.epochs if (epoch + 1) % frequency == 0]
            if len(found) == count:
                return found
        raise ValueError(
            f"`log` holds {count} values of '{name}' for {len(self.epochs)} epochs, which fits no "
            "`validation_freq`. Pass `validation=False`."
        )


def _read(log: Any) -> _Log:
    if isinstance(log, keras.callbacks.History):
        return _from_dict(log.history, list(log.epoch))
    if isinstance(log, Mapping):
        return _from_dict(log, [])
    if isinstance(log, str | os.PathLike):
        return _from_file(log)
    raise TypeError(
        "`log` must be the History that `fit` returned, its dict, or the path of a CSVLogger's "
        f"file, received {checks.describe(log)}."
    )


def _from_dict(values: Mapping[str, Any], epochs: list[int]) -> _Log:
    longest = max((len(row) for row in values.values()), default=0)
    # The object is used again by some: it adds up the values, and forgets the epochs.
    return _Log(epochs if len(epochs) == longest else list(range(longest)), dict(values))


def _from_file(path: str | os.PathLike[str]) -> _Log:
    with open(path, newline="") as file:
        header = file.readline().rstrip("\r\n")
        # Keras writes the epoch first: what follows it separates the columns.
        if not header.startswith("epoch"):
            raise ValueError(
                f"`log` must be a file of `keras.callbacks.CSVLogger`, whose first column is "
                f"'epoch'; '{path}' begins with {checks.describe(header)}."
            )
        separator = header.removeprefix("epoch")[:1] or ","
        names = next(csv.reader([header], delimiter=separator))
        rows: list[tuple[int, list[float | None]]] = []
        for cells in csv.reader(file, delimiter=separator):
            if len(cells) != len(names):  # of a run that was killed while it wrote
                continue
            epoch = int(cells[0])
            while rows and rows[-1][0] >= epoch:  # of a run that was resumed from before it
                rows.pop()
            rows.append((epoch, [_number(cell) for cell in cells]))
    columns = zip(*(row for _, row in rows), strict=True)
    return _Log([epoch for epoch, _ in rows], dict(zip(names, map(list, columns), strict=False)))


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:  # Keras writes "NA" where a value is missing
        return None


def _chosen(log: _Log, tasks: Sequence[str] | None) -> list[str]:
    """Returns the tasks to draw: those with a weight and a loss, or the user's choice."""
    found = [name.removesuffix("_weight") for name in log.values if name.endswith("_weight")]
    # No task's name starts with `val_`, but a file without validation has such columns.
    found = [task for task in found if f"{task}_loss" in log.values and task[:4] != "val_"]
    if not found:
        raise ValueError(
            "`log` holds no task weights: none of its names are '<task>_weight' beside "
            f"'<task>_loss'. Expected the log of a MultiTaskModel's `fit`, received "
            f"{list(log.values)}."
        )
    if isinstance(tasks, str):
        raise TypeError(f"`tasks` must be a list of task names. Write `tasks=['{tasks}']`.")
    chosen = found if tasks is None else list(tasks)
    checks.task_keys("tasks", dict.fromkeys(chosen), found, partial=True)
    return chosen


def _styles(tasks: Sequence[str], num_epochs: int) -> dict[str, dict[str, Any]]:
    """Returns the look of each task's line; equal lines show by their markers."""
    colours = _matplotlib().colormaps["tab10" if len(tasks) <= 10 else "turbo"]
    count, step = len(tasks), -(-num_epochs // 10)
    return {
        task: {
            "color": colours(index if count <= 10 else index / count),
            "marker": "osD^v"[index % 5],
            "markersize": 9 - 5 * index / count,
            "fillstyle": "none",
            "markevery": (index * step // count, step),
        }
        for index, task in enumerate(tasks)
    }


def _finished(ax: Any, label: str) -> Any:
    lines = ax.get_lines()
    for line in lines:
        if len(line.get_xdata()) == 1:  # a line of one point does not show
            line.set_marker("o")
    ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    ax.set(xlabel="epoch", ylabel=label)
    ax.grid(color="0.9")
    ax.set_axisbelow(True)
    entries = [line for line in lines if line.get_linestyle() != "--"]
    if len(entries) < len(lines):  # one entry for all, dashed in no task's colour
        dashed = {"color": "0.4", "linestyle": "--", "label": "validation"}
        dashed["marker"] = next(line for line in lines if line.get_linestyle() == "--").get_marker()
        entries.append(_matplotlib().lines.Line2D([], [], **dashed))
    beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if len(entries) > 8 else {}
    ax.legend(handles=entries, fontsize="small", frameon=False, **beside)
    return ax


def _new_axes(rows: int = 0) -> Any:
    """Returns the axes of a new figure, at least so high that as many rows can be labelled."""
    width, height = _matplotlib().rcParams["figure.figsize"]
    from matplotlib import pyplot  # noqa: PLC0415

    size = (width, max(height, 0.2 * rows + 1.0))  # inches
    return pyplot.subplots(figsize=size, layout="constrained")[1]


def _matplotlib() -> Any:
    try:
        import matplotlib.lines  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            'Figures need Matplotlib. Install it with `pip install "keras_mtl[plot]"`.'
        ) from error
    return matplotlib
