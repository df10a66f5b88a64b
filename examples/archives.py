"""What the examples on files share: a folder of files is read as a tar file of it is."""

import pathlib
import tarfile


def read_files(path):
    """Yields name, as a path below the given one, and content of the files there, by name."""
    path = pathlib.Path(path)
    if path.is_dir():
        for file in sorted(path.rglob("*.*")):
            if file.is_file():
                yield file.relative_to(path), file.read_bytes()
    elif path.is_file() and tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    yield pathlib.Path(member.name), archive.extractfile(member).read()
    else:
        raise ValueError(f"{path} is neither a folder nor a tar file.")
