"""Output files: whole or absent, and refused before the work where they cannot be written."""

import os
import stat

import pytest

from unisrec.data import atomic
from unisrec.data.atomic import check_output_file, whole_file


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_replaces_the_one_before(tmp_path):
    file = tmp_path / "out.json"
    for text in ("first", "second"):
        with whole_file(file) as draft:
            draft.write_text(text)
            assert draft.suffix == ".json"
            assert not file.exists() or file.read_text() == "first"
        assert file.read_text() == text
    assert names(tmp_path) == ["out.json"]


def test_after_an_error_the_file_is_as_it_was_and_no_draft_is_left(tmp_path):
    file = tmp_path / "out.json"
    file.write_text("old")

    def fail(name: str) -> None:
        with whole_file(tmp_path / name) as draft:
            draft.write_text("half")
            raise ZeroDivisionError

    for name in ("out.json", "new.json"):
        with pytest.raises(ZeroDivisionError):
            fail(name)
    assert names(tmp_path) == ["out.json"]
    assert file.read_text() == "old"


def test_the_file_has_the_rights_that_a_new_file_has(tmp_path):
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "out") as draft:
            draft.write_text("x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


def test_a_symbolic_link_goes_on_to_point_to_the_file(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    for text in ("first", "second"):
        with whole_file(tmp_path / "link") as draft:
            draft.write_text(text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real" / "file").read_text() == text
    assert names(tmp_path) == ["link", "real"]
    assert names(tmp_path / "real") == ["file"]


def test_devices_and_pipes_are_written_to_and_never_replaced(tmp_path):
    before = os.stat("/dev/null")
    with whole_file("/dev/null") as draft:
        draft.write_text("x")
    assert os.stat("/dev/null").st_rdev == before.st_rdev
    reader, writer = os.pipe()
    with whole_file(f"/dev/fd/{writer}") as draft:
        draft.write_text("{}")
    os.close(writer)
    assert os.read(reader, 9) == b"{}"
    os.close(reader)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "error", "line"),
    [
        ("", ValueError, "the name of the output file is empty"),
        ("folder", IsADirectoryError, "this is a folder"),
        ("none/out", FileNotFoundError, "there is no folder none to write to"),
        ("file/out", NotADirectoryError, "file is not a folder"),
        ("x" * 300, OSError, "File name too long"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch, path, error, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(error, match=line):
        check_output_file(path)
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    for name in ("model", ".model.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    atomic.replace_folder(tmp_path / ".model.tmp", tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "name").read_text() == ".model.tmp"
    with pytest.raises(OSError, match="missing"):
        atomic.replace_folder(tmp_path / "missing", tmp_path / "model")
    assert (tmp_path / "model" / "name").read_text() == ".model.tmp"
