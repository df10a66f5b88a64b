"""keras-tuner searches for the best gain over single-task baselines, with callbacks for tasks."""

import keras
import numpy as np

import keras_mtl
from keras_mtl.callbacks import LossWeightSchedule, TaskEarlyStopping
from keras_mtl.heads import Regression

random = np.random.default_rng(0)
X = random.normal(size=(16, 4)).astype("float32")
Y = {"age": X[:, :1], "size": X[:, 1:2]}
RATES = [0.0, 0.1]


def build(hp):
    keras.utils.set_random_seed(0)
    trunk = keras.layers.Dense(6, activation="relu")
    tasks = {"age": Regression(), "size": keras_mtl.Task(Regression(), auxiliary=True)}
    model = keras_mtl.architectures.hard_sharing(keras.Input((4,)), trunk, tasks)
    rate = hp.Choice("rate", RATES)
    model.compile(keras.optimizers.SGD(rate), baselines={"age_mae": 1.0, "size_mae": 1.0})
    return model


class Weights(keras.callbacks.Callback):
    """Keeps the effective weights of each epoch, for all copies that the tuner makes."""

    seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(dict(self.model.task_weights))


def test_the_best_trial_has_the_highest_gain_and_callbacks_are_copied_for_each(tmp_path):
    import keras_tuner

    tuner = keras_tuner.GridSearch(
        build,
        objective=keras_tuner.Objective("val_delta_m", "max"),
        directory=tmp_path,
        project_name="search",
    )
    callbacks = [
        LossWeightSchedule({"age": lambda epoch: 0.5**epoch}),
        TaskEarlyStopping(tasks=["size"], min_delta=1e3, patience=1),
        Weights(),
    ]
    fit = {"validation_data": (X, Y), "callbacks": callbacks, "verbose": 0}

    tuner.search(X, Y, epochs=3, **fit)

    (best,) = tuner.get_best_hyperparameters()
    assert best.get("rate") == 0.1
    scores = {
        trial.hyperparameters.get("rate"): trial.score for trial in tuner.oracle.trials.values()
    }
    assert scores[0.1] > scores[0.0]
    # Stopped after its second epoch, in each trial anew.
    trial = [{"age": 1.0, "size": 1.0}, {"age": 0.5, "size": 1.0}, {"age": 0.25, "size": 0.0}]
    assert Weights.seen == trial * 2
