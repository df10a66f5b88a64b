"""Follows gradient balancings over the two-dimensional landscape of their papers.

    python examples/toy_landscape.py                              # 5 methods, about a minute
    python examples/toy_landscape.py --methods mgda fairgrad --steps 35000
    python examples/toy_landscape.py --scale 0.1                  # the first loss ten times smaller

Two losses of two parameters pull apart nearly everywhere. Their valleys are so steep that descent
of the sum sticks in them, and below lies the Pareto front, a straight line. Five starting points,
Adam, and nothing random: the steps are compiled. The figure is written below `keras_mtl_runs/`.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import numpy as np
import tensorflow as tf

import keras_mtl

tf.get_logger().setLevel("ERROR")  # it warns of retracing because there are several methods

METHODS = ("sum", "mgda", "pcgrad", "cagrad", "nash_mtl")
STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
FRONT_HEIGHT, FRONT_END = -8.3552, 7.0  # the front: x2 at this height, x1 from -7 to 7
FULL = {"steps": 100_000, "learning_rate": 1e-3}  # as with CAGrad; Nash-MTL: 35,000
QUICK = {"steps": 7_000, "learning_rate": 5e-3}
SHOWN = 700  # points drawn of each trajectory
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # safe for colour blindness


def losses(points, scale=1.0):
    """Returns both losses at points `(n, 2)`, as `(n, 2)`.

    The landscape of B. Liu et al. 2021 (CAGrad, appendix); `scale` multiplies the first loss, as
    Navon et al. 2022 (Nash-MTL) do with 0.1.
    """
    x1, x2 = points[:, 0], points[:, 1]
    bend = tf.tanh(-x2)
    # Above the axis two steep logarithmic valleys, below it two flat bowls.
    valleys = [0.5 * (-x1 - 7) - bend, 0.5 * (-x1 + 3) + bend + 2]
    bowls = [((-x1 + side) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20 for side in (7, -7)]
    above, below = tf.maximum(tf.tanh(0.5 * x2), 0), tf.maximum(tf.tanh(-0.5 * x2), 0)
    both = [
        above * (tf.math.log(tf.maximum(tf.abs(valley), 5e-6)) + 6) + below * bowl
        for valley, bowl in zip(valleys, bowls, strict=True)
    ]
    return tf.stack([scale * both[0], both[1]], axis=1)


def make_direction(method):
    """Returns what maps the two gradients of one point, `(2, 2)`, to a direction."""
    if method == "sum":
        return lambda gradients: tf.reduce_sum(gradients, axis=0)
    balancing = keras_mtl.balancing.get(method)
    balancing.build_for(2)
    return balancing


def descend(method, steps, learning_rate, scale=1.0):
    """Runs Adam from all starts at once; returns the trajectories `(points, starts, 2)`."""
    direction = make_direction(method)
    every = max(steps // SHOWN, 1)

    def adam(step, points, mean, square):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(points)
            # The losses of a point depend on it alone, so the sums have its gradients.
            totals = tf.unstack(tf.reduce_sum(losses(points, scale), axis=0))
        gradients = tf.stack([tape.gradient(total, points) for total in totals], axis=1)
        gradient = tf.map_fn(direction, gradients)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        count = tf.cast(step + 1, points.dtype)
        unbiased = mean / (1 - 0.9**count)
        length = tf.sqrt(square / (1 - 0.999**count)) + 1e-8
        return step + 1, points - learning_rate * unbiased / length, mean, square

    @tf.function(jit_compile=True, autograph=False)  # compiled, small steps take no time
    def run(points):
        zeros = tf.zeros_like(points)
        kept = tf.TensorArray(points.dtype, steps // every + 1).write(0, points)

        def block(index, step, points, mean, square, kept):
            end = step + every
            step, points, mean, square = tf.while_loop(
                lambda step, *_: step < end, adam, (step, points, mean, square)
            )
            return index + 1, step, points, mean, square, kept.write(index, points)

        start = (tf.constant(1), tf.constant(0), points, zeros, zeros, kept)
        end = tf.while_loop(lambda index, *_: index <= steps // every, block, start)
        return end[-1].stack()

    return run(tf.constant(STARTS, tf.float64)).numpy()


def distance_to_front(points):
    """Returns how far points `(n, 2)` are from the Pareto front."""
    nearest = np.clip(points[:, 0], -FRONT_END, FRONT_END)
    return np.hypot(points[:, 0] - nearest, points[:, 1] - FRONT_HEIGHT)


def make_table(paths, scale):
    """Writes where each start ends as a Markdown table."""
    lines = [
        "| method | start | end | loss 1 | loss 2 | distance to the front |",
        "|---|---|---|---|---|---|",
    ]
    for method, path in paths.items():
        values = losses(tf.constant(path[-1]), scale).numpy()
        ends = zip(STARTS, path[-1], values, distance_to_front(path[-1]), strict=True)
        for start, end, (first, second), distance in ends:
            places = [f"({x1:.1f}, {x2:.1f})" for x1, x2 in (start, end)]
            cells = [method, *places, *(f"{x:.2f}" for x in (first, second, distance))]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_landscape(axes, scale):
    """Draws the mean loss as contours, and the front."""
    line = np.linspace(-11, 11, 221)
    grid = np.stack(np.meshgrid(line, line), axis=-1)
    values = losses(tf.constant(grid.reshape(-1, 2)), scale).numpy().mean(axis=1)
    axes.contour(line, line, values.reshape(221, 221), levels=12, colors="0.8", linewidths=0.7)
    front = [-FRONT_END, FRONT_END], [FRONT_HEIGHT] * 2
    axes.plot(*front, color="0.45", linewidth=5, solid_capstyle="round", label="Pareto front")


def draw(paths, scale, file):
    """Draws one panel of trajectories a method into one PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.1 * len(paths), 4.1), layout="constrained")
    panels = figure.subplots(1, len(paths), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (method, path) in zip(panels, paths.items(), strict=True):
        draw_landscape(axes, scale)
        for index, colour in enumerate(COLOURS):
            axes.plot(*path[:, index].T, color=colour, linewidth=1.6)
            axes.plot(*path[0, index], "o", color=colour, markersize=5)
            axes.plot(*path[-1, index], "*", color=colour, markersize=11, markeredgecolor="k")
        axes.set(title=method, xlabel="parameter 1", xlim=(-11, 11), ylim=(-11, 11), aspect="equal")
    panels[0].set_ylabel("parameter 2")
    panels[0].plot([], [], "o", color="0.3", label="start")
    panels[0].plot([], [], "*", color="0.3", markersize=11, label="end")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(file, dpi=150)


def main(methods=METHODS, steps=None, quick=False, scale=1.0, out="keras_mtl_runs"):
    """Runs the methods; returns the table and the trajectories."""
    settings = dict(QUICK if quick else FULL)
    settings["steps"] = steps or settings["steps"]
    paths = {method: descend(method, **settings, scale=scale) for method in methods}
    table = make_table(paths, scale)
    print(f"\nWhere {settings['steps']:,} steps of Adam end\n{table}")
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    draw(paths, scale, folder / "toy_landscape.png")
    print(f"\nFigure: {folder / 'toy_landscape.png'}")
    return table, paths


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--steps", type=int, help="35,000 as in Nash-MTL, 100,000 as in CAGrad")
    parser.add_argument("--scale", type=float, default=1.0, help="of the first loss")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to try it out")
    args = parser.parse_args()
    main(args.methods, args.steps, args.quick, args.scale)
