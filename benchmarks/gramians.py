"""Measures how close exact balancing comes to one backward pass, where layers are dense.

    python benchmarks/gramians.py
    python benchmarks/gramians.py --tasks 8 --batch 64 --width 512 --layers 2

A method whose direction is a weighted sum of the task gradients needs their inner products, the
Gramian, and the sum, but not the gradients. Three ways to both are timed against the gradients of
the plain sum of losses, interleaved in one process; all give the same numbers:

- `gradients`: the gradient of each task, their inner products and their sum: K whole passes.
- `twice`: the same Gramian from the gradients, then one pass of the weighted sum of the losses.
- `activations`: K passes to the outputs Z of the layers only, without those to their kernels. With
  a layer's inputs A and a task's D_k = dL_k / dZ, its gradient is A'D_k, so that an inner product
  is sum((A A' + 1) * (D_k D_l')), in which 1 is the bias; the sum is A' sum_k w_k D_k.

`keras_mtl` does the last where it is cheaper (`core/activations_pass.py`), and in float64, where
all is in float32 here. It takes batch^2 * width multiplications where the gradients take
batch * width^2; for convolutions it would take those of batch * positions rows. The column
`(1 + 2K) / 3` is what K whole passes cost by count: one forward pass and two halves of a backward
pass a task, over the three of a plain step. Goodfellow 2015, arXiv:1510.01799, takes the norms of
the gradients of single examples so; here tasks stand in the place of examples, and the rows of the
batch add up.
"""

import argparse
import functools
import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import step_cost
import tensorflow as tf

INPUTS, CLASSES = 784, 10
PLAIN = "plain"


class Network:
    """Dense layers that K tasks share, and one dense layer a task.

    Args:
        num_tasks: Integer. K.
        width: Integer. Units of a shared layer.
        layers: Integer. How many shared layers.
    """

    def __init__(self, num_tasks: int, width: int, layers: int) -> None:
        sizes = [INPUTS, *[width] * layers]
        random = tf.random.Generator.from_seed(0)

        def kernel(rows: int, columns: int) -> tf.Variable:
            return tf.Variable(random.normal((rows, columns)) * (2.0 / rows) ** 0.5)

        self.shared = [
            (kernel(rows, columns), tf.Variable(tf.zeros(columns)))
            for rows, columns in itertools.pairwise(sizes)
        ]
        self.heads = [kernel(width, CLASSES) for _ in range(num_tasks)]

    def forward(self, x: Any, labels: Any) -> tuple[list[Any], list[Any], list[Any]]:
        """Returns the losses of the tasks, and inputs and outputs of the shared layers."""
        inputs, outputs = [], []
        for kernel, bias in self.shared:
            inputs.append(x)
            outputs.append(x @ kernel + bias)
            x = tf.nn.relu(outputs[-1])
        losses = [
            tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels[:, task], x @ head)
            )
            for task, head in enumerate(self.heads)
        ]
        return losses, inputs, outputs

    def variables(self) -> list[tf.Variable]:
        """Returns the shared variables, kernel and bias by turns."""
        return [variable for pair in self.shared for variable in pair]


def weights_of(gramian: Any) -> Any:
    """Chooses weights, cheaply, so that only the way to the Gramian is timed: equal norms."""
    return tf.math.rsqrt(tf.linalg.diag_part(gramian))


def plain(network: Network, x: Any, labels: Any) -> Any:
    """Returns the gradient of the sum of the losses, without a Gramian."""
    with tf.GradientTape() as tape:
        losses, _, _ = network.forward(x, labels)
        total = tf.add_n(losses)
    found = tape.gradient(total, network.variables() + network.heads)
    return None, found[: -len(network.heads)], found[-len(network.heads) :]


def task_gradients(network: Network, tape: Any, losses: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Returns the Gramian, the gradients (K, parameters) and those of the heads."""
    rows, heads = [], []
    for loss, head in zip(losses, network.heads, strict=True):
        *shared, own = tape.gradient(loss, [*network.variables(), head])
        rows.append(tf.concat([tf.reshape(part, [-1]) for part in shared], axis=0))
        heads.append(own)
    matrix = tf.stack(rows)
    return matrix @ tf.transpose(matrix), matrix, heads


def from_gradients(network: Network, x: Any, labels: Any) -> Any:
    """Forms all task gradients, and sums them."""
    with tf.GradientTape(persistent=True) as tape:
        losses, _, _ = network.forward(x, labels)
    gramian, matrix, heads = task_gradients(network, tape, losses)
    row = tf.linalg.matvec(matrix, weights_of(gramian), transpose_a=True)
    variables = network.variables()
    parts = tf.split(row, [variable.shape.num_elements() for variable in variables])
    shared = [
        tf.reshape(part, variable.shape) for part, variable in zip(parts, variables, strict=True)
    ]
    return gramian, shared, heads


def twice(network: Network, x: Any, labels: Any) -> Any:
    """Forms all task gradients for the Gramian, and goes back once more with the weights."""
    with tf.GradientTape(persistent=True) as tape:
        losses, _, _ = network.forward(x, labels)
    gramian, _, heads = task_gradients(network, tape, losses)
    weights = tf.unstack(weights_of(gramian))
    seeds = [tf.stop_gradient(weight) for weight in weights]
    return gramian, tape.gradient(losses, network.variables(), seeds), heads


def from_activations(network: Network, x: Any, labels: Any) -> Any:
    """Forms no task gradient of a shared kernel."""
    with tf.GradientTape(persistent=True) as tape:
        losses, inputs, outputs = network.forward(x, labels)
    backward, heads = [], []
    for loss, head in zip(losses, network.heads, strict=True):
        *at_outputs, own = tape.gradient(loss, [*outputs, head])
        backward.append(at_outputs)
        heads.append(own)
    by_layer = [tf.stack(parts) for parts in zip(*backward, strict=True)]  # (K, batch, units)
    gramian = tf.add_n([inner_products(a, back) for a, back in zip(inputs, by_layer, strict=True)])
    weights, shared = weights_of(gramian), []
    for a, back in zip(inputs, by_layer, strict=True):
        summed = tf.tensordot(weights, back, 1)
        shared += [tf.matmul(a, summed, transpose_a=True), tf.reduce_sum(summed, axis=0)]
    return gramian, shared, heads


def inner_products(a: Any, back: Any) -> Any:
    """Returns the Gramian `(K, K)` of the gradients of one layer, bias included.

    Args:
        a: The inputs of the layer, `(batch, inputs)`.
        back: The derivatives of each loss by its outputs, `(K, batch, units)`.
    """
    alike = tf.matmul(a, a, transpose_b=True) + 1.0
    num_tasks = back.shape[0]
    rows = tf.reshape(back, (num_tasks, -1))
    mixed = tf.reshape(tf.matmul(alike[tf.newaxis], back), (num_tasks, -1))
    return tf.matmul(rows, mixed, transpose_b=True)


WAYS = {"gradients": from_gradients, "twice": twice, "activations": from_activations}


def timed(way: Callable, network: Network, x: Any, labels: Any) -> Callable[[int], float]:
    """Returns a function that times a number of calls, in seconds."""
    step = tf.function(functools.partial(way, network))

    def run(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            _, shared, _ = step(x, labels)
        shared[0].numpy()
        return time.perf_counter() - start

    run(3)  # traces
    return run


def measure(num_tasks: int, batch: int, width: int, layers: int, pairs: int) -> dict[str, Any]:
    """Returns the ratios to the plain gradients of each way, pair by pair."""
    network = Network(num_tasks, width, layers)
    random = tf.random.Generator.from_seed(1)
    x = random.uniform((batch, INPUTS))
    labels = random.uniform((batch, num_tasks), maxval=CLASSES, dtype=tf.int32)
    base = timed(plain, network, x, labels)
    return {
        name: step_cost.paired_ratios(timed(way, network, x, labels), base, pairs, 3)
        for name, way in WAYS.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=50, help="pairs a way (at least 2)")
    args = parser.parse_args()
    print("| batch | K | (1 + 2K) / 3 |", " | ".join(WAYS), "|")
    print("| --- " * (3 + len(WAYS)), "|", sep="")
    for batch in args.batch:
        for num_tasks in args.tasks:
            found = measure(num_tasks, batch, args.width, args.layers, args.pairs)
            cells = []
            for ratios in found.values():
                low, high = step_cost.median_interval(ratios)
                cells.append(f"{statistics.median(ratios):.2f} [{low:.2f}, {high:.2f}]")
            passes = (1 + 2 * num_tasks) / 3
            print(f"| {batch} | {num_tasks} | {passes:.2f} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
