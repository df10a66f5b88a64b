"""Finds names in noisy text, with and without the help of another data set: one network by `mix`.

    python examples/entities.py --data wnut17 --slots snips             # one seed
    python examples/entities.py --data wnut17 --slots snips --seeds 3   # mean and deviation

The names are those of WNUT17 (Derczynski et al. 2017, aclanthology.org/W17-4418; CC BY 4.0): posts
and comments, tagged with six types (BIO), most of those of the test are in no training sentence;
https://github.com/leondz/emerging_entities_17. `--data` is the folder with `wnut17train.conll`,
`emerging.dev.conll` and `emerging.test.annotated`. The helping data set is SNIPS, as in
`intent_and_slots.py`. No sentence has labels of both: `keras_mtl.data.mix` draws each batch from
one of the two, and its task learns from it. Models of one task see as many rows of it, and no
vectors are pretrained. Sentences are drawn anew, with replacement, for the intervals (Efron,
Tibshirani 1993, chapter 13). Everything is written below `keras_mtl_runs/`.
"""

import pathlib

import comparison  # the files next to this one
import keras
import numpy as np
import sentences
import tensorflow as tf
from seqeval.metrics.sequence_labeling import get_entities

import keras_mtl

WNUT17 = {
    "train": "wnut17train.conll",
    "validation": "emerging.dev.conll",
    "test": "emerging.test.annotated",
}
SNIPS = {"train": "train", "validation": "valid", "test": "test"}
TASKS = ("entities", "slots")
MULTI = "multi-task"
BATCH_SIZE = 32
LEARNING_RATE = 4e-3
QUICK_ROWS = 200  # sentences of each split
DRAWS = 2000  # of the test sentences
MEASURES = [comparison.Measure(f"{task}_f1", f"{task} F1 (%)") for task in TASKS]


def read_columns(path):
    """Reads a file with a word and its tag a line, and a blank line behind each sentence."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: the folder needs {list(WNUT17.values())}.")
    words, tags = [[]], [[]]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split()
        if fields and len(fields) != 2:
            raise ValueError(f"{path}, line {number}: a word and its tag, received {line!r}.")
        if fields:
            words[-1].append(fields[0])
            tags[-1].append(fields[1])
        elif words[-1]:
            words.append([])
            tags.append([])
    kept = len(words) if words[-1] else len(words) - 1
    return sentences.Sentences(words[:kept], tags[:kept], [None] * kept)


def read(options):
    """Reads the three splits of both tasks."""
    names, commands = pathlib.Path(options.data), pathlib.Path(options.slots)
    return {
        "entities": {split: read_columns(names / file) for split, file in WNUT17.items()},
        "slots": {split: sentences.read_snips(commands / file) for split, file in SNIPS.items()},
    }


class Corpus:
    """The sentences of both tasks, and what ids stand for.

    Args:
        parts: Dict from task to a dict from split to its `Sentences`.
        limit: Optional integer. How many sentences of each split are used.
    """

    def __init__(self, parts, limit=None):
        train = [splits["train"] for splits in parts.values()]
        self.vocabulary = sentences.collect_vocabulary([s for part in train for s in part.words])
        self.tags = {
            task: sorted(set(sentences.flat(splits["train"].tags)))
            for task, splits in parts.items()
        }
        self.parts = {
            task: {split: part[:limit] for split, part in splits.items()}
            for task, splits in parts.items()
        }
        self.rows = {
            task: {split: self._encode(task, part) for split, part in splits.items()}
            for task, splits in self.parts.items()
        }

    def _encode(self, task, part):
        labels = {task: sentences.encode_tags(part, self.tags[task])}
        inputs = sentences.encode_words(part.words, self.vocabulary)
        return tf.data.Dataset.from_tensor_slices((inputs, labels))

    def train(self, tasks, seed):
        """Mixes training batches of some tasks, as many of each in the mean.

        By the batch, since posts are several times as long as commands, which would be mostly
        padding beside them.
        """
        rows = {
            task: self.rows[task]["train"].shuffle(20_000).map(sentences.forget_words)
            for task in tasks
        }
        steps = -(-len(self.rows["entities"]["train"]) // BATCH_SIZE)
        return keras_mtl.data.mix(
            rows,
            "uniform",
            by="batch",
            batch_size=BATCH_SIZE,
            steps_per_epoch=steps * len(tasks),
            seed=seed,
        )

    def batches(self, tasks, split):
        """Returns every row of a split once, in the order of the file, task by task."""
        rows = {task: self.rows[task][split] for task in tasks}
        return keras_mtl.data.concatenate(rows, batch_size=64)


def make_model(corpus, tasks):
    """Builds a model for some of the tasks; every one has a trunk of the same size."""
    heads = {
        task: keras_mtl.heads.Tagging(len(corpus.tags[task]), tags=corpus.tags[task], crf=True)
        for task in tasks
    }
    trunk = sentences.make_trunk(corpus.vocabulary)
    return keras_mtl.architectures.hard_sharing(sentences.make_inputs(), trunk, heads)


def train(corpus, tasks, epochs, seed, title):
    """Trains a model and keeps its best epoch on validation; returns it and the minutes."""
    keras.utils.set_random_seed(seed)
    model = make_model(corpus, tasks)
    batches = corpus.train(tasks, seed)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * len(batches), alpha=0.01)
    model.compile(keras.optimizers.Adam(rate, clipnorm=5.0))
    # The first task is what counts, the other one is to help.
    best = keras.callbacks.EarlyStopping(
        f"val_{tasks[0]}_f1", mode="max", patience=epochs, restore_best_weights=True
    )
    _, minutes = comparison.fit(
        model,
        batches,
        title=f"{title}: {', '.join(tasks)}",
        validation_data=corpus.batches(tasks, "validation"),
        epochs=epochs,
        callbacks=[best],
    )
    return model, minutes


def count_entities(true, found):
    """Returns how many entities of a sentence are right, found and true."""
    true, found = set(get_entities(true)), set(get_entities(found))
    return len(true & found), len(found), len(true)


def measure(corpus, model, task, split):
    """Returns the counts of `count_entities` for each sentence of a split: `(sentences, 3)`."""
    names, tags = np.array(corpus.tags[task]), []
    for inputs, labels in corpus.batches([task], split):
        answers = model.predict_on_batch(inputs)[task].argmax(-1)
        for answer, truth in zip(answers, labels[task].numpy(), strict=True):
            tags.append(names[answer[truth >= 0]].tolist())
    pairs = zip(corpus.parts[task][split].tags, tags, strict=True)
    return np.array([count_entities(true, found) for true, found in pairs])


def f1(counts):
    """Returns the F1 of entities in percent from counts `(..., 3)`: micro, as conlleval's."""
    right, found, true = np.moveaxis(counts, -1, 0)
    return 200 * right / np.maximum(found + true, 1)


def run_seed(corpus, epochs, seed):
    """Trains every model once; returns what they reach on test sentences, and the counts."""
    single, counts = {comparison.MINUTES: 0.0}, {}
    for task in TASKS:
        model, minutes = train(corpus, [task], epochs, seed, comparison.SINGLE)
        found = measure(corpus, model, task, "test")
        single[f"{task}_f1"] = float(f1(found.sum(axis=0)))
        single[comparison.MINUTES] += minutes
        counts[comparison.SINGLE, task] = found
    model, minutes = train(corpus, TASKS, epochs, seed, MULTI)
    shared = {comparison.MINUTES: minutes}
    for task in TASKS:
        counts[MULTI, task] = measure(corpus, model, task, "test")
        shared[f"{task}_f1"] = float(f1(counts[MULTI, task].sum(axis=0)))
    return {comparison.SINGLE: single, MULTI: shared}, counts


def bootstrap(single, shared):
    """Draws the test sentences anew, the same ones for both models and all seeds.

    Args:
        single: Array `(seeds, sentences, 3)` of counts.
        shared: The same of the other model.

    Returns:
        95 % intervals of the mean F1 over seeds: of either model, and of the difference.
    """
    number = single.shape[1]
    rng = np.random.default_rng(0)
    times = rng.multinomial(number, np.full(number, 1 / number), size=DRAWS)
    single, shared = (f1(np.tensordot(times, x, (1, 1))).mean(axis=1) for x in (single, shared))
    return [np.percentile(x, (2.5, 97.5)) for x in (single, shared, shared - single)]


def make_intervals(counts):
    """Writes the intervals of both tasks as a Markdown table."""
    head = ["task", comparison.SINGLE, MULTI, "difference"]
    lines = [head, ["---"] * len(head)]
    for task in TASKS:
        arrays = [np.stack(counts[method, task]) for method in (comparison.SINGLE, MULTI)]
        intervals = bootstrap(*arrays)
        signs = ("", "", "+")
        cells = [f"{a:{s}.1f} to {b:{s}.1f}" for s, (a, b) in zip(signs, intervals, strict=True)]
        lines.append([f"{task} F1 (%)", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def add_arguments(parser):
    """Adds what only this example asks for."""
    parser.add_argument("--slots", required=True, help="folder of SNIPS: train, valid and test")


def main(arguments=None):
    """Trains and compares on each seed; returns the rows, the tables and the folder."""
    options = comparison.parse(
        __doc__.splitlines()[0],
        arguments,
        data="folder of WNUT17",
        epochs=20,
        add_arguments=add_arguments,
    )
    corpus = Corpus(read(options), QUICK_ROWS if options.quick else None)
    counts = {}

    def run(seed):
        rows, found = run_seed(corpus, options.epochs, seed)
        for key, value in found.items():
            counts.setdefault(key, []).append(value)
        return rows

    rows, folder = comparison.repeat("entities", run, options.seeds)
    result = comparison.report("entities", rows, MEASURES, folder)
    intervals = make_intervals(counts)
    (folder / "intervals.md").write_text(intervals + "\n")
    print(f"95 % intervals over test sentences, of the mean over the seeds:\n\n{intervals}\n")
    return {**result, "intervals": intervals}


if __name__ == "__main__":
    main()
