"""Files of a folder and of a tar file are the same ones."""

import tarfile

import pytest


@pytest.fixture
def archives(example):
    return example("archives")


def test_a_tar_file_is_read_as_its_folder_is(archives, tmp_path):
    folder = tmp_path / "data"
    (folder / "part").mkdir(parents=True)
    (folder / "list.txt").write_bytes(b"b, a")
    (folder / "part" / "b.wav").write_bytes(b"\x00\x01")
    (folder / "part" / "a.wav").write_bytes(b"")
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        archive.add(folder, "outer")
    from_folder = {str(name): content for name, content in archives.read_files(folder)}
    from_tar = {str(name): content for name, content in archives.read_files(tmp_path / "data.tar")}
    assert from_folder == {"list.txt": b"b, a", "part/b.wav": b"\x00\x01", "part/a.wav": b""}
    assert list(from_folder) == sorted(from_folder)
    assert from_tar == {f"outer/{name}": content for name, content in from_folder.items()}


@pytest.mark.parametrize("name", ["notes", "nothing"])
def test_what_is_neither_folder_nor_tar_file_is_refused(archives, tmp_path, name):
    (tmp_path / "notes").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=rf"{name} is neither a folder nor a tar file"):
        list(archives.read_files(tmp_path / name))
