"""What the examples on files share: a folder of files and a tar file of it are read alike."""

import pathlib
import tarfile


def read_files(path):
    """Yields name, as a path below the given one, and content of the files there.

    The order is that of the names as text, from a folder as from a tar file, so that a row has the
    same number in both.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        files = {file.relative_to(path).as_posix(): file for file in path.rglob("*")}
        for name in sorted(files):
            if files[name].is_file():
                yield pathlib.Path(name), files[name].read_bytes()
    elif path.is_file() and tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            # Read in its own order: in a compressed archive going back means to begin again.
            contents = {x.name: archive.extractfile(x).read() for x in archive if x.isfile()}
        for name in sorted(contents):
            yield pathlib.Path(name), contents[name]
    else:
        raise ValueError(f"{path} is neither a folder nor a tar file.")
