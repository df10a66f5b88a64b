"""Chains of tags against the enumeration of all sequences."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.core.chains import Chain, ChainLoss

TAGS = 3
random = np.random.default_rng(0)
LINKS = [random.normal(size=shape).astype("float32") for shape in [(TAGS, TAGS), TAGS, TAGS]]
LOGITS = random.normal(size=(4, 5, TAGS)).astype("float32")
LABELS = random.integers(0, TAGS, size=(4, 5))
PRESENT = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 1, 0, 1], [0, 0, 0, 1, 0]], bool)
LABELLED = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 0, 1, 1, 1], [0, 0, 0, 1, 1]], bool)


def chain_of(links=LINKS):
    chain = Chain(TAGS)
    for variable, value in zip(chain.weights, links, strict=True):
        variable.assign(value)
    return chain


def scores_of(row, links=LINKS):
    """The score of every sequence of tags over the steps of a row that are there."""
    transitions, starts, ends = links
    logits = LOGITS[row][PRESENT[row]]
    return {
        tags: starts[tags[0]]
        + sum(logits[step, tag] for step, tag in enumerate(tags))
        + sum(transitions[pair] for pair in itertools.pairwise(tags))
        + ends[tags[-1]]
        for tags in itertools.product(range(TAGS), repeat=len(logits))
    }


def fits(tags, row):
    known, labels = LABELLED[row][PRESENT[row]], LABELS[row][PRESENT[row]]
    return all(
        tag == label or not sure for tag, label, sure in zip(tags, labels, known, strict=True)
    )


def likelihoods(chain=None, logits=LOGITS, labels=LABELS, labelled=LABELLED, present=PRESENT):
    chain = chain or chain_of()
    return chain.negative_log_likelihood(logits, labels, labelled & present, present)


def test_likelihood_is_that_of_all_sequences():
    expected = []
    for row in range(4):
        scores = scores_of(row)
        right = [score for tags, score in scores.items() if fits(tags, row)]
        expected.append(np.log(np.exp(list(scores.values())).sum()) - np.log(np.exp(right).sum()))
    np.testing.assert_allclose(likelihoods(), expected, rtol=1e-5)


def test_highest_predictions_are_the_best_sequence():
    predictions = chain_of().probabilities(LOGITS, PRESENT).numpy()
    for row in range(4):
        scores = scores_of(row)
        best = predictions[row][PRESENT[row]].argmax(-1)
        assert tuple(best) == max(scores, key=scores.get)


def test_predictions_are_the_softmax_of_the_best_scores_through_each_tag():
    predictions = chain_of().probabilities(LOGITS, PRESENT).numpy()
    scores = scores_of(0)
    for step in range(5):
        best = [max(s for tags, s in scores.items() if tags[step] == tag) for tag in range(TAGS)]
        np.testing.assert_allclose(predictions[0, step], np.exp(best) / np.exp(best).sum(), 1e-5)


def test_gradient_is_the_expected_less_the_observed_number_of_transitions():
    chain = chain_of()
    with tf.GradientTape() as tape:
        value = likelihoods(chain)[0]
    gradient = tape.gradient(value, chain.weights[0].value)
    counts, scores = np.zeros((TAGS, TAGS)), scores_of(0)
    total = np.exp(list(scores.values())).sum()
    for tags, score in scores.items():
        for pair in itertools.pairwise(tags):
            counts[pair] += np.exp(score) / total
    for pair in itertools.pairwise(LABELS[0]):
        counts[pair] -= 1
    np.testing.assert_allclose(gradient, counts, atol=1e-5)


def test_without_transitions_it_is_the_cross_entropy_of_the_tokens():
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    chain = Chain(TAGS)
    np.testing.assert_allclose(chain.probabilities(LOGITS, PRESENT)[PRESENT], p[PRESENT], rtol=1e-5)
    chosen = -np.log(np.take_along_axis(p, LABELS[..., None], axis=-1)[..., 0])
    expected = np.where(PRESENT & LABELLED, chosen, 0).sum(-1)
    np.testing.assert_allclose(likelihoods(chain), expected, rtol=1e-5)


def test_padding_may_hold_anything():
    junk = np.where(PRESENT[..., None], LOGITS, 1e6).astype("float32")
    np.testing.assert_array_equal(likelihoods(logits=junk), likelihoods())
    np.testing.assert_array_equal(
        chain_of().probabilities(junk, PRESENT)[PRESENT],
        chain_of().probabilities(LOGITS, PRESENT)[PRESENT],
    )


def test_a_row_without_labels_has_no_loss_and_no_gradient():
    logits = tf.Variable(LOGITS)
    with tf.GradientTape() as tape:
        value = likelihoods(logits=logits, labelled=np.zeros_like(LABELLED))
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    np.testing.assert_allclose(tape.gradient(value, logits), 0.0, atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-8, 1e4, 1e8])
@pytest.mark.parametrize("links", [0.0, 30.0, 1e8])
def test_nothing_is_ever_nan(scale, links):
    logits, chain = tf.Variable(LOGITS * scale), chain_of([part * links for part in LINKS])
    with tf.GradientTape() as tape:
        value = likelihoods(chain, logits)
    gradients = tape.gradient(value, [logits, *(variable.value for variable in chain.weights)])
    assert all(np.isfinite(part).all() for part in [value, *gradients])
    assert np.all(value >= 0.0)
    assert np.isfinite(chain.probabilities(logits, PRESENT)).all()


def test_extreme_logits_give_the_exact_loss():
    logits = np.zeros((1, 2, TAGS), "float32")
    logits[0, :, 0] = 2e4
    tags, everywhere = np.array([[0, 1]]), np.ones((1, 2), bool)
    value = likelihoods(Chain(TAGS), logits, tags, everywhere, everywhere)
    np.testing.assert_array_equal(value, [2e4])


def test_values_are_the_same_when_compiled_by_xla():
    chain = chain_of()

    @tf.function(jit_compile=True)
    def compiled(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = tf.reduce_sum(likelihoods(chain, logits))
        return (
            value,
            tape.gradient(value, chain.weights[0].value),
            chain.probabilities(logits, PRESENT),
        )

    logits = tf.constant(LOGITS)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(likelihoods(chain, logits))
    plain = (
        value,
        tape.gradient(value, chain.weights[0].value),
        chain.probabilities(logits, PRESENT),
    )
    for left, right in zip(compiled(logits), plain, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_loss_of_a_row_is_spread_over_its_labelled_steps():
    chain = chain_of()
    predictions = chain.probabilities(LOGITS, PRESENT)
    predictions._keras_logits = LOGITS
    values = ChainLoss(chain).elements(LABELS, predictions, LABELLED, PRESENT).numpy()
    counted = PRESENT & LABELLED
    np.testing.assert_array_equal(values[~counted], 0.0)
    np.testing.assert_allclose(values.sum(axis=1), likelihoods(chain), rtol=1e-6)
    for row in range(4):
        assert np.ptp(values[row][counted[row]]) == 0.0


def test_predictions_without_their_logits_are_refused():
    with pytest.raises(ValueError, match=r"logits that its head notes.*use `crf=False`"):
        ChainLoss(chain_of())(LABELS, LOGITS)
