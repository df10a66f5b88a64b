"""Tagging: one tag a token, such as the entities of a sentence."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_mtl.core import checks, entities
from keras_mtl.core.chains import Chain, ChainLoss
from keras_mtl.core.entity_scores import EntityF1
from keras_mtl.heads.base import DenseHead


@keras.saving.register_keras_serializable(package="keras_mtl")
class Tagging(DenseHead):
    """Predicts a tag for each token: one dense layer, softmax, and the F1 of entities.

    Predictions are `softmax(W features + b)` at each token. The padding mask goes along: tokens
    of padding reach neither loss nor metrics. Metrics are the accuracy a token and, with a scheme,
    the F1 of entities, where a token without a label is left out as if the sentence did not have
    it: label the first piece of a word, and its other pieces `ignore_class`. Precision and recall
    are `keras_mtl.metrics.EntityPrecision` and `EntityRecall`, for `compile`. The served answer is
    a dict with the ids of the `tags` and their `probabilities`. Adds `(channels + 1) * num_tags`
    parameters.

    With `crf=True` a linear chain scores which tag follows which. Predictions are then, at each
    token, the softmax over its tags of the score of the best sequence through each, so that the
    highest are the sequence of Viterbi: for metrics and when served too. The loss is the negative
    log likelihood of the sentences' tags, a labelled token; it sums over the tags of tokens
    without a label. Without transitions, as at first, both are what they are without `crf`. Adds
    `num_tags * (num_tags + 2)` parameters.

    Args:
        num_tags: Integer >= 2. Labels are integers from 0 to `num_tags - 1`.
        scheme: `"BIO"` (default), `"BIOES"` or `"BILOU"`: how tags mark entities. `None` where
            they do not, such as parts of speech. BIO reads IOB1 too.
        tags: Optional list of `num_tags` names such as `["O", "B-LOC", "I-LOC"]`. By default tag
            0 is O and the others are the scheme's prefixes type by type: B-0, I-0, B-1, I-1.
        activation: `"softmax"` for probabilities (default), or `None` for logits.
        ignore_class: Optional integer. The label that means "no label"; -1 by default, `None`
            where every label counts.
        crf: Boolean. Whether a linear-chain conditional random field scores the tags.
        kernel_initializer: Initializer of the kernel, as in `keras.layers.Dense`.
        kernel_regularizer: Optional regularizer of the kernel.
        name: Optional string. Name of the layer; builders rename it to the task's name.

    Input shape: `(batch, steps, channels)`.
    Output shape: `(batch, steps, num_tags)`.

    Raises:
        TypeError: If `num_tags` or `ignore_class` is no integer, or `tags` no list of strings.
        ValueError: If `num_tags` < 2, another argument is not among the above, the tags do not
            fit the scheme, or the features are not one tensor with steps.

    Example:

    >>> head = keras_mtl.heads.Tagging(3, tags=["O", "B-LOC", "I-LOC"])
    >>> head.compute_output_shape((None, 12, 64))
    (None, 12, 3)
    >>> [getattr(metric, "name", metric) for metric in head.default_metrics()]
    ['accuracy', 'f1']

    Reference:
        Lafferty, McCallum, Pereira 2001, Conditional random fields, ICML, section 3;
        Lample et al. 2016, Neural architectures for named entity recognition, arXiv:1603.01360,
        section 2.2. Tokens without a label: Tsuboi et al. 2008, Training conditional random fields
        using incomplete annotations, COLING, https://aclanthology.org/C08-1113.
    """

    def __init__(
        self,
        num_tags: int,
        scheme: str | None = "BIO",
        tags: Sequence[str] | None = None,
        activation: str | None = "softmax",
        ignore_class: int | None = -1,
        crf: bool = False,
        **kwargs: Any,
    ) -> None:
        checks.one_of("activation", activation, ("softmax", None))
        checks.one_of("scheme", scheme, (*entities.SCHEMES, None))
        checks.one_of("crf", crf, (False, True))
        num_tags = checks.positive_integer("num_tags", num_tags)
        if num_tags < 2:
            raise ValueError(f"`num_tags` must be an integer >= 2, received {num_tags}.")
        super().__init__(num_tags, activation, None, ignore_class=ignore_class, **kwargs)
        self.num_tags = num_tags
        self.scheme = scheme
        self.tags = _names(num_tags, scheme, tags)
        self.crf = bool(crf)
        if self.crf and activation is None:
            raise ValueError(
                '`activation` must be "softmax" with `crf=True`, received None: the most probable '
                "tags follow from the logits of all tokens."
            )
        self.chain = Chain(num_tags, name="chain") if self.crf else None

    def build(self, features_shape: Any) -> None:
        super().build(features_shape)
        if len(features_shape) != 3:
            raise ValueError(
                f"Tagging '{self.name}' needs features of shape (batch, steps, channels), received "
                f"{tuple(features_shape)}. Give it a trunk that keeps the steps, such as "
                "`keras.layers.LSTM(units, return_sequences=True)`."
            )

    def call(self, features: Any, mask: Any = None) -> Any:
        predictions = super().call(features, mask)
        if self.chain is None:
            return predictions
        logits, present = predictions._keras_logits, self.compute_mask(features, mask)
        if present is None:
            present = keras.ops.ones_like(logits[..., 0], dtype="bool")
        best = self.chain.probabilities(logits, keras.ops.cast(present, "bool"))
        # As Keras does with the logits of probabilities: the loss reads them.
        best._keras_logits = logits
        return best

    def default_loss(self) -> keras.Loss:
        if self.chain is not None:
            return ChainLoss(self.chain)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=self.activation is None)

    def default_metrics(self) -> list[Any]:
        if self.scheme is None:
            return ["accuracy"]
        return ["accuracy", EntityF1(self.tags)]

    def decode(self, predictions: Any) -> dict[str, Any]:
        tags = keras.ops.cast(keras.ops.argmax(predictions, axis=-1), "int32")
        return {"tags": tags, "probabilities": predictions}

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "num_tags": self.num_tags, "scheme": self.scheme}
        del config["pooling"]
        return {**config, "tags": self.tags, "crf": self.crf}


def _names(num_tags: int, scheme: str | None, tags: Sequence[str] | None) -> list[str] | None:
    """Returns the names of the tags, checked; `None` where there are neither names nor entities."""
    if tags is None:
        found = None if scheme is None else entities.default_tags(num_tags, scheme)
        if scheme is not None and found is None:
            prefixes = ", ".join(f"{prefix}-" for prefix in entities.SCHEMES[scheme])
            raise ValueError(
                f"`num_tags` of scheme '{scheme}' without names must be O and {prefixes} for each "
                f"type, received {num_tags}. Name them: `tags=['O', 'B-LOC', ...]`."
            )
        return found
    if len(tags) != num_tags:
        raise ValueError(
            f"`tags` must have `num_tags` = {num_tags} names, received {len(tags)}: "
            f"{checks.describe(tags)}."
        )
    return list(tags) if scheme is None else entities.check_tags(tags, entities.SCHEMES[scheme])
