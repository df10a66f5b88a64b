"""Files of a folder and of a tar file are the same ones."""

import tarfile

import pytest


@pytest.fixture
def archives(example):
    return example("archives")


# In the order of names as text, where `-` comes before `/`; parts of a path would sort otherwise.
FILES = {
    "README": b"no suffix",
    "part-1/c.wav": b"c",
    "part/a.wav": b"",
    "part/b.wav": b"\x00\x01",
    "zones.txt": b"b, a",
}


@pytest.fixture
def folder(tmp_path):
    """A folder whose files were not written in the order of their names."""
    for name in reversed(FILES):
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(FILES[name])
    return tmp_path / "data"


def test_files_of_a_folder_are_in_the_order_of_their_names(archives, folder):
    read = [(name.as_posix(), content) for name, content in archives.read_files(folder)]
    assert read == list(FILES.items())


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_a_tar_file_is_read_as_its_folder_is(archives, folder, tmp_path, suffix):
    path = tmp_path / f"data.{suffix}"
    with tarfile.open(path, "w:gz" if suffix == "tar.gz" else "w") as archive:
        for name in reversed(FILES):
            archive.add(folder / name, f"outer/{name}")
        archive.add(folder / "part", "outer/part", recursive=False)  # a folder is no file
    read = [(name.as_posix(), content) for name, content in archives.read_files(path)]
    assert read == [(f"outer/{name}", content) for name, content in FILES.items()]


@pytest.mark.parametrize("name", ["notes", "nothing"])
def test_what_is_neither_folder_nor_tar_file_is_refused(archives, tmp_path, name):
    (tmp_path / "notes").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=rf"{name} is neither a folder nor a tar file"):
        list(archives.read_files(tmp_path / name))
