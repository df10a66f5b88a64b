"""Finds names in noisy text, with and without the help of another data set: one network by `mix`.

    python examples/entities.py --data wnut17 --slots snips             # one seed
    python examples/entities.py --data wnut17 --slots snips --seeds 3   # mean and deviation

The names are those of WNUT17 (Derczynski et al. 2017, aclanthology.org/W17-4418; CC BY 4.0): posts
and comments, tagged with six types (BIO), most of those of the test are in no training sentence;
https://github.com/leondz/emerging_entities_17. `--data` is the folder with `wnut17train.conll`,
`emerging.dev.conll` and `emerging.test.annotated`. The helping data set is SNIPS, as in
`intent_and_slots.py`. No sentence has labels of both: `keras_mtl.data.mix` draws each batch from
one of the two, and its task learns from it. Models of one task see as many rows of it in the mean,
and know its words only; no vectors are pretrained. The epoch is chosen on validation. For the
intervals sentences are drawn anew, with replacement (Efron, Tibshirani 1993, chapter 13).
Everything is written below `keras_mtl_runs/`.
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
    return sentences.Sentences(words[:kept], tags[:kept])


def read(options):
    """Reads the three splits of both tasks."""
    names, commands = pathlib.Path(options.data), pathlib.Path(options.slots)
    return {
        "entities": {split: read_columns(names / file) for split, file in WNUT17.items()},
        "slots": {split: sentences.read_snips(commands / file) for split, file in SNIPS.items()},
    }


class Corpus:
    """The sentences of some tasks, and what ids stand for: a model has what its tasks have.

    Args:
        parts: Dict from task to a dict from split to its `Sentences`.
        limit: Optional integer. How many sentences of each split are used.
    """

    def __init__(self, parts, limit=None):
        self.tasks = list(parts)
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

    def train(self, steps, seed):
        """Mixes training batches of the tasks, `steps` of each in the mean.

        By the batch, since posts are twice as long as commands, which would be mostly padding
        beside the longest of them.
        """
        rows = {
            task: self.rows[task]["train"].shuffle(20_000).map(sentences.forget_words)
            for task in self.tasks
        }
        return keras_mtl.data.mix(
            rows,
            "uniform",
            by="batch",
            batch_size=BATCH_SIZE,
            steps_per_epoch=steps * len(rows),
            seed=seed,
        )

    def batches(self, split, tasks=None):
        """Returns every row of a split once, in the order of the file, task by task."""
        rows = {task: self.rows[task][split] for task in tasks or self.tasks}
        return keras_mtl.data.concatenate(rows, batch_size=64)


def make_model(corpus):
    """Builds a model; every one has layers of the same sizes behind the words."""
    heads = {
        task: keras_mtl.heads.Tagging(len(tags), tags=tags, crf=True)
        for task, tags in corpus.tags.items()
    }
    trunk = sentences.make_trunk(corpus.vocabulary)
    return keras_mtl.architectures.hard_sharing(sentences.make_inputs(), trunk, heads)


def train(corpus, steps, epochs, seed, title, baselines=None):
    """Trains a model and keeps its best epoch on validation; returns also history and minutes."""
    keras.utils.set_random_seed(seed)
    model = make_model(corpus)
    batches = corpus.train(steps, seed)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * len(batches), alpha=0.01)
    model.compile(keras.optimizers.Adam(rate, clipnorm=5.0), baselines=baselines)
    # With several tasks, by the mean gain over the single-task models.
    monitor = "val_delta_m" if baselines else f"val_{corpus.tasks[0]}_f1"
    history, minutes = comparison.fit(
        model,
        batches,
        title=f"{title}: {', '.join(corpus.tasks)}",
        validation_data=corpus.batches("validation"),
        epochs=epochs,
        callbacks=[comparison.keep_best(monitor, epochs)],
    )
    return model, history, minutes


def count_entities(true, found):
    """Returns how many entities of a sentence are right, found and true."""
    true, found = set(get_entities(true)), set(get_entities(found))
    return len(true & found), len(found), len(true)


def measure(corpus, model, task):
    """Returns the counts of `count_entities` for each test sentence: `(sentences, 3)`."""
    names, tags = np.array(corpus.tags[task]), []
    for inputs, labels in corpus.batches("test", [task]):
        answers = model.predict_on_batch(inputs)[task].argmax(-1)
        for answer, truth in zip(answers, labels[task].numpy(), strict=True):
            tags.append(names[answer[truth >= 0]].tolist())
    pairs = zip(corpus.parts[task]["test"].tags, tags, strict=True)
    return np.array([count_entities(true, found) for true, found in pairs])


def f1(counts):
    """Returns the F1 of entities in percent from counts `(..., 3)`: micro, as conlleval's."""
    right, found, true = np.moveaxis(counts, -1, 0)
    return 200 * right / np.maximum(found + true, 1)


def run_seed(parts, options, seed):
    """Trains every model once; returns what they reach on test sentences, and the counts."""
    limit = QUICK_ROWS if options.quick else None
    steps = -(-len(parts["entities"]["train"].words[:limit]) // BATCH_SIZE)
    single, shared, baselines, counts = {comparison.MINUTES: 0.0}, {}, {}, {}
    for task in TASKS:
        corpus = Corpus({task: parts[task]}, limit)
        given = (corpus, steps, options.epochs, seed, comparison.SINGLE)
        model, history, minutes = train(*given)
        counts[comparison.SINGLE, task] = measure(corpus, model, task)
        single[comparison.MINUTES] += minutes
        # Above 0, since gains are relative to it, and an F1 of 0 is what it begins with.
        baselines[f"{task}_f1"] = max(0.01, *history[f"val_{task}_f1"])
    corpus = Corpus(parts, limit)
    given = (corpus, steps, options.epochs, seed, MULTI)
    model, _, shared[comparison.MINUTES] = train(*given, baselines)
    for task in TASKS:
        counts[MULTI, task] = measure(corpus, model, task)
    rows = {comparison.SINGLE: single, MULTI: shared}
    for (method, task), found in counts.items():
        rows[method][f"{task}_f1"] = float(f1(found.sum(axis=0)))
    return rows, counts


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
    parts, counts = read(options), {}

    def run(seed):
        rows, found = run_seed(parts, options, seed)
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
