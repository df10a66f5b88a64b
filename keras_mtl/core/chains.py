"""Linear chains of tags: what a sequence of tags scores, in log space."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_mtl.core.head_loss import SequenceLoss

# A score so low that the probability is 0, and far from overflow.
IMPOSSIBLE = -1e9
# The least sum of probabilities relative to the highest one, e^-85: its logarithm is finite.
_TINY = 1e-37


def messages(emissions: Any, present: Any, starts: Any, passed_on: Callable[[Any], Any]) -> Any:
    """Returns what each step knows of the steps before it and of itself, for each of its tags.

    With a_t the result at step t and e_t its emissions, a_t = e_t + passed_on(a_t-1), and at the
    first step e_t + starts. Steps that are not present repeat what came before.

    Args:
        emissions: Tensor `(groups, batch, steps, num_tags)`, log scores of several chains at once.
        present: Boolean tensor `(groups, batch, steps)`.
        starts: Tensor `(groups, num_tags)`, the scores of the first tag.
        passed_on: Function of a tensor `(groups, batch, num_tags)`, which adds the transitions.

    Returns:
        A tensor in the shape of the emissions.
    """
    count = ops.cumsum(ops.cast(present, "int32"), axis=2)
    is_first = ops.logical_and(present, count == 1)
    starts = ops.expand_dims(starts, 1)

    def step(before: Any, inputs: tuple[Any, Any, Any]) -> Any:
        emission, here, first = inputs
        passed = ops.where(ops.expand_dims(first, -1), starts, passed_on(before))
        return ops.where(ops.expand_dims(here, -1), emission + passed, before)

    by_time = [ops.moveaxis(part, 2, 0) for part in (emissions, present, is_first)]
    # Not Keras' `scan`, which sets no bound to its loop: its gradient fails under XLA.
    found = tf.scan(step, tuple(by_time), tf.zeros_like(emissions[:, :, 0]))
    return ops.moveaxis(found, 0, 2)


def summed_over(transitions: Any) -> Callable[[Any], Any]:
    """Returns a -> log sum_j exp(a[j] + transitions[j, k]), for `(groups, num_tags, num_tags)`.

    As a product of matrices, many times as fast as the sum of a cube. It is exact as long as the
    transitions to one tag differ by less than 85, whatever the emissions.
    """
    highest = ops.stop_gradient(ops.max(transitions, axis=1, keepdims=True))
    factors = ops.exp(transitions - highest)

    def passed_on(before: Any) -> Any:
        top = ops.stop_gradient(ops.max(before, axis=-1, keepdims=True))
        total = ops.matmul(ops.exp(before - top), factors)
        return top + highest + ops.log(ops.maximum(total, _TINY))

    return passed_on


def best_of(transitions: Any) -> Callable[[Any], Any]:
    """Returns a -> max_j (a[j] + transitions[j, k]), for `(groups, num_tags, num_tags)`."""
    transitions = ops.expand_dims(transitions, 1)
    return lambda before: ops.max(ops.expand_dims(before, -1) + transitions, axis=2)


class Chain(keras.layers.Layer):
    """Scores sequences of tags: an emission a step, a transition between two, both ends.

    The score of tags y is starts[y_1] + sum_t emissions_t[y_t] + sum_t transitions[y_t-1, y_t] +
    ends[y_n], and their probability is the softmax of it over all sequences. At first all but
    the emissions is 0: then steps do not depend on one another.

    Args:
        num_tags: Integer. Number of tags.
        kwargs: Further arguments of `keras.layers.Layer`.

    Reference:
        Lafferty, McCallum, Pereira 2001, Conditional random fields, ICML, section 3;
        Lample et al. 2016, Neural architectures for named entity recognition, arXiv:1603.01360,
        section 2.2.
    """

    def __init__(self, num_tags: int, **kwargs: Any) -> None:
        # Log scores need float32, under mixed precision too.
        super().__init__(dtype="float32", **kwargs)
        shapes = {"transitions": (num_tags, num_tags), "starts": (num_tags,), "ends": (num_tags,)}
        self._links = [
            self.add_weight(shape, "zeros", autocast=False, name=name)
            for name, shape in shapes.items()
        ]
        self.built = True

    def probabilities(self, logits: Any, present: Any) -> Any:
        """Returns for each step the softmax of the best score of all sequences through a tag.

        Its highest entries are the most probable sequence, that of Viterbi.

        Args:
            logits: Tensor `(batch, steps, num_tags)`.
            present: Boolean tensor `(batch, steps)`.
        """
        transitions, starts, ends = (variable.value for variable in self._links)
        emissions = ops.log_softmax(ops.cast(logits, "float32"))
        # One scan goes through the steps forwards and backwards at once.
        forwards, backwards = ops.unstack(
            messages(
                ops.stack([emissions, ops.flip(emissions, axis=1)]),
                ops.stack([present, ops.flip(present, axis=1)]),
                ops.stack([starts, ends]),
                best_of(ops.stack([transitions, ops.transpose(transitions)])),
            ),
            2,
        )
        return ops.softmax(forwards + ops.flip(backwards, axis=1) - emissions)

    def negative_log_likelihood(self, logits: Any, tags: Any, labelled: Any, present: Any) -> Any:
        """Returns -log p(tags) of each row `(batch,)`; steps without a label may have any tag.

        Args:
            logits: Tensor `(batch, steps, num_tags)`.
            tags: Integer tensor `(batch, steps)`.
            labelled: Boolean tensor `(batch, steps)`, False where the tag is not known.
            present: Boolean tensor `(batch, steps)`, False at padding.
        """
        transitions, starts, ends = (variable.value for variable in self._links)
        # Less their normaliser, which changes nothing, and sums stay small.
        emissions = ops.log_softmax(ops.cast(logits, "float32"))
        right = ops.cast(ops.one_hot(tags, emissions.shape[-1]), "bool")
        allowed = ops.logical_or(right, ops.expand_dims(ops.logical_not(labelled), -1))
        knowing = messages(
            ops.stack([emissions, ops.where(allowed, emissions, IMPOSSIBLE)]),
            ops.stack([present, present]),
            ops.stack([starts, starts]),
            summed_over(ops.stack([transitions, transitions])),
        )
        total, of_tags = ops.unstack(ops.logsumexp(knowing[:, :, -1] + ends, axis=-1), 2)
        # Rounding must not make the loss of certain tags negative.
        return ops.maximum(total - of_tags, 0.0)


class ChainLoss(SequenceLoss):
    """The negative log likelihood of tags under a `Chain`, by labelled token.

    The loss of a row is spread evenly over its labelled tokens, so that the mean over all tokens
    is that of the rows' sums: without transitions the cross-entropy a token. The tag of a token
    without a label is summed out.

    Args:
        chain: The `Chain` of the head that predicts.
        name: String. Name of the loss.
        kwargs: Further arguments of `keras.Loss`.
    """

    takes_class_ids = True

    def __init__(self, chain: Chain, name: str = "chain", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.chain = chain

    def elements(self, y_true: Any, y_pred: Any, labelled: Any, present: Any) -> Any:
        logits = getattr(y_pred, "_keras_logits", None)
        if logits is None:
            raise ValueError(
                "The loss of a chain of tags reads the logits that its head notes on the "
                "predictions, and these are a copy without them. Let no other task read the "
                "predictions, or use `crf=False`."
            )
        tags = ops.cast(y_true, "int32")
        tags = ops.squeeze(tags, axis=-1) if len(tags.shape) == len(logits.shape) else tags
        everywhere = ops.ones_like(tags, dtype="bool")
        present = everywhere if present is None else ops.cast(present, "bool")
        labelled = everywhere if labelled is None else ops.reshape(labelled, ops.shape(tags))
        counted = ops.logical_and(labelled, present)
        rows = self.chain.negative_log_likelihood(logits, tags, counted, present)
        counted = ops.cast(counted, rows.dtype)
        shares = ops.divide_no_nan(rows, ops.sum(counted, axis=1))
        return counted * ops.expand_dims(shares, 1)
