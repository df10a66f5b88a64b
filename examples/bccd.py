"""Reads BCCD: photographs of blood, with a box around each cell, in the official splits."""

import xml.etree.ElementTree as ET

import archives  # the file next to this one
import numpy as np
import tensorflow as tf

import keras_mtl

SPLITS = {"train": "train", "validation": "val", "test": "test"}  # and their files in ImageSets
CLASSES = ("RBC", "WBC", "Platelets")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
SIZE = (192, 256)  # pixels of height and width, from 480 x 640


def find(files, name, needed_by):
    """Returns the content of a file."""
    if name not in files:
        raise ValueError(f"{name} is missing, which {needed_by} needs.")
    return files[name]


def resize(image):
    """Returns an image in the size that the network reads."""
    return tf.cast(tf.round(tf.image.resize(image, SIZE, method="area")), "uint8").numpy()


def decode_image(name, content):
    """Returns the pixels of a JPEG file."""
    try:
        return resize(tf.io.decode_jpeg(content, channels=3))
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"{name} is no JPEG image that can be decoded.") from error


def read_objects(name, content):
    """Returns relative boxes and class ids from an annotation as in Pascal VOC."""
    try:
        root = ET.fromstring(content)  # noqa: S314 (its parser, expat, refuses exploding entities)
        size = [float(root.findtext(f"size/{side}")) for side in ("width", "height")]
        objects = root.findall("object")
        boxes = [[float(x.findtext(f"bndbox/{key}")) for key in CORNERS] for x in objects]
    except (ET.ParseError, TypeError, ValueError) as error:
        raise ValueError(f"{name} is no annotation that can be read: {error}.") from error
    classes = [x.findtext("name") for x in objects]
    if unknown := set(classes) - set(CLASSES):
        raise ValueError(f"{name} names the classes {sorted(unknown)}, expected {CLASSES}.")
    relative = np.reshape(boxes, (-1, 4)) / (size + size)
    return {"boxes": relative, "labels": [CLASSES.index(x) for x in classes]}


def read_photographs(files, stems):
    """Yields pixels and objects of the photographs that a split lists."""
    for stem in stems:
        image, annotation = f"JPEGImages/{stem}.jpg", f"Annotations/{stem}.xml"
        objects = read_objects(annotation, find(files, annotation, "its split"))
        yield decode_image(image, find(files, image, annotation)), objects


def read_lists(files):
    """Returns the photographs of each split, none of which is in two."""
    lists, seen = {}, {}
    for split, name in SPLITS.items():
        lists[split] = find(files, f"Main/{name}.txt", "the example").decode().split()
        if not lists[split]:
            raise ValueError(f"Main/{name}.txt lists no photographs.")
        for stem in lists[split]:
            if seen.setdefault(stem, split) != split:
                raise ValueError(f"{stem} is in two splits, '{seen[stem]}' and '{split}'.")
    return lists


def read_by_name(split):
    """Yields pixels and objects of photographs that TensorFlow Datasets downloads."""
    objects = {"boxes": "objects/bbox", "labels": "objects/label"}
    rows = keras_mtl.data.from_tfds("bccd", split, inputs="image", targets=objects)
    for image, labels in rows.as_numpy_iterator():
        # There a box is top, left, bottom, right.
        yield resize(image), {**labels, "boxes": labels["boxes"][:, [1, 0, 3, 2]]}


def read(path):
    """Returns the photographs of each split, from a folder or tar file or, without one, by name.

    A photograph is its pixels, and a dict of `boxes`, left, top, right, bottom in parts of the
    image, and of `labels`. All are read at once, so that a bad file is found before training.
    """
    if path is None:
        return {split: list(read_by_name(split)) for split in SPLITS}
    # By folder and name, whatever is around the folders.
    files = {"/".join(file.parts[-2:]): content for file, content in archives.read_files(path)}
    return {
        split: list(read_photographs(files, stems)) for split, stems in read_lists(files).items()
    }
