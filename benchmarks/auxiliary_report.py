"""Tables and a figure for `auxiliary_tasks.py`: scores, and paired differences with intervals."""

import dataclasses
import pathlib

import numpy as np
from multimnist import show

NONE = "none"
STYLES = {  # colours safe for colour blindness
    NONE: ("0.3", "o"),
    "fixed": ("#0072B2", "s"),
    "annealed": ("#E69F00", "^"),
    "auto_lambda": ("#009E73", "D"),
    "auxilearn": ("#CC79A7", "v"),
}


@dataclasses.dataclass(frozen=True)
class Line:
    """Test scores of every method in one scenario with one number of labels.

    Args:
        study: String. Name of the recipe.
        pair: The main and the auxiliary task.
        labels: Integer.
        scores: Dict from method to an array over seeds.
    """

    study: str
    pair: tuple[str, str]
    labels: int
    scores: dict[str, np.ndarray]

    def gains(self, method: str) -> np.ndarray:
        """Returns the differences to the main task alone, seed by seed."""
        return self.scores[method] - self.scores[NONE]


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Returns the mean and half the width of its 95 % confidence interval, by Student's t."""
    from scipy import stats

    count = len(differences)
    if count < 2:
        return float(np.mean(differences)), float("nan")
    half = stats.t.ppf(0.975, count - 1) * np.std(differences, ddof=1) / np.sqrt(count)
    return float(np.mean(differences)), float(half)


def show_interval(differences: np.ndarray) -> str:
    """Writes a mean and its interval, in bold where that excludes 0."""
    mean, half = interval(differences)
    if np.isnan(half):
        return f"{mean:+.1f}"
    text = f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"
    return f"**{text}**" if abs(mean) > half else text


def make_table(lines: list[Line], columns: dict[str, list[str]]) -> str:
    """Writes a Markdown table with a row for each scenario and number of labels."""
    rows = [["main", "auxiliary", "labels", *columns], ["---"] * (3 + len(columns))]
    for number, line in enumerate(lines):
        rows.append([*line.pair, str(line.labels), *(cells[number] for cells in columns.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def make_tables(lines: list[Line]) -> tuple[str, str]:
    """Writes the scores, and the differences to the main task alone."""
    scores = {method: [show(line.scores[method]) for line in lines] for method in lines[0].scores}
    methods = [method for method in scores if method != NONE]
    gains = {method: [show_interval(line.gains(method)) for line in lines] for method in methods}
    return make_table(lines, scores), make_table(lines, gains)


def draw(lines: list[Line], path: pathlib.Path) -> None:
    """Draws for each scenario the scores, and below the differences to the main task alone."""
    from matplotlib.figure import Figure

    pairs = list(dict.fromkeys((line.study, line.pair) for line in lines))
    figure = Figure(figsize=(0.6 + 2.6 * len(pairs), 5.6), layout="constrained")
    panels = figure.subplots(2, len(pairs), squeeze=False, sharex="col")
    for (study, pair), (top, bottom) in zip(pairs, panels.T, strict=True):
        chosen = [line for line in lines if (line.study, line.pair) == (study, pair)]
        draw_scenario(top, bottom, chosen)
        top.set_title(f"{pair[0]}, helped by {pair[1]}")
    limits = np.array([bottom.get_ylim() for bottom in panels[1]])
    for bottom in panels[1]:
        bottom.set_ylim(limits[:, 0].min(), limits[:, 1].max())
    panels[0, 0].set_ylabel("test score (%)")
    panels[1, 0].set_ylabel("difference to none (points)")
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.savefig(path, dpi=150)


def draw_scenario(top: object, bottom: object, lines: list[Line]) -> None:
    """Draws one scenario into two axes."""
    places = np.arange(len(lines))
    methods = list(lines[0].scores)
    for number, method in enumerate(methods):
        name, _, options = method.partition(":")
        colour, marker = STYLES.get(name, (None, "x"))
        style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.2}
        if options:
            style |= {"markerfacecolor": "white", "linestyle": "--"}
        means = [np.mean(line.scores[method]) for line in lines]
        drawn = top.plot(places, means, label=method, **style)
        if method == NONE:
            continue
        means, halves = zip(*(interval(line.gains(method)) for line in lines), strict=True)
        beside = places + 0.14 * (number - len(methods) / 2)
        style |= {"color": drawn[0].get_color(), "linewidth": 0}
        bottom.errorbar(beside, means, yerr=halves, elinewidth=1.2, capsize=2, **style)
    bottom.axhline(0, color="0.3", linewidth=1)
    bottom.set_xticks(places, [str(line.labels) for line in lines])
    bottom.set(xlabel="labels of the main task", xlim=(-0.5, len(lines) - 0.5))
    for axes in (top, bottom):
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
