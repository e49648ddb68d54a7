import os
import resource

import pytest

from ropesearch.core.files import check_output, new_folder, write_whole
from ropesearch.core.machine import available_memory, readable_size, require_memory


def test_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "one")
    assert path.read_text() == "one"

    def broken():
        yield b"two"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, broken(), overwrite=True)
    assert path.read_text() == "one"
    write_whole(path, [b"t", b"wo"], overwrite=True)
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_any_new_file(tmp_path):
    write_whole(tmp_path / "a", b"")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "file").write_text("one")
    (tmp_path / "link").symlink_to("file")
    write_whole(tmp_path / "link", "two", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "two"


def test_outputs_that_are_refused(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, error, message in [
        ("file", FileExistsError, "exists already"),
        ("pipe", FileExistsError, "is not a regular file"),
        ("nowhere/file", FileNotFoundError, "the folder .*nowhere of file does not exist"),
        ("file/file", NotADirectoryError, "is not a folder"),
        ("", IsADirectoryError, "is a folder"),
        (f"{'x' * 300}/file", FileNotFoundError, "does not exist"),
    ]:
        with pytest.raises(error, match=message):
            check_output(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="cannot be written"):
        check_output(tmp_path / "file")


def test_memory():
    assert readable_size(999) == "999 bytes"
    assert readable_size(1_234_567_890) == "1.2 GB"
    available = available_memory()
    assert available is not None
    assert 10**7 < available < 10**14
    require_memory(1000, "this")
    with pytest.raises(MemoryError, match=r"this needs 1 EB of memory, and .* is free"):
        require_memory(10**18, "this")


def test_a_limit_of_the_address_space_counts(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10**6, 10**6))
    with pytest.raises(MemoryError, match="this needs 2 MB of memory, and 0 bytes is free"):
        require_memory(2 * 10**6, "this")


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    with new_folder(tmp_path / "out") as temporary:
        (temporary / "file").write_text("content")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "file").read_text() == "content"


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()

    def interrupted():
        with new_folder(tmp_path / "other") as temporary:
            (temporary / "file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(FileExistsError, match="out exists already"), new_folder(tmp_path / "out"):
        pytest.fail("it was given a folder to fill")
    with pytest.raises(FileExistsError), new_folder(tmp_path / "late"):
        (tmp_path / "late").mkdir()  # by somebody else
    (tmp_path / "late").rmdir()
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileExistsError), new_folder(tmp_path / "link"):
        pytest.fail("it was given a folder to fill")
    with pytest.raises(NotADirectoryError), new_folder(tmp_path / "out" / "file" / "out"):
        pytest.fail("it was given a folder to fill")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]
