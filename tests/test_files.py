"""Either the new file is complete or the old one stays; a file that cannot be written is reported in one sentence."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from detrkit.errors import OutputError
from detrkit.files import (
    check_folder,
    created_folders_note,
    new_folder,
    prepare_files,
    prepare_folder,
    remove_unfinished,
    write_atomically,
    write_json,
    write_text,
)


@pytest.fixture
def umask() -> Iterator[int]:
    """A umask that takes all permissions from others, during one test."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def test_text_is_written_in_utf8_and_folders_are_created(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    assert write_text(path, "é × ≤\n") == path
    assert path.read_bytes() == "é × ≤\n".encode()
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": "é"}
    path = write_json(tmp_path / "a.json", value)
    assert json.loads(path.read_text(encoding="utf-8")) == value
    assert path.read_text(encoding="utf-8").endswith("}\n")


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_json_refuses_numbers_that_json_does_not_allow(tmp_path: Path, number: float) -> None:
    path = write_json(tmp_path / "a.json", {"AP": 0.5})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"AP": number})
    assert json.loads(path.read_text()) == {"AP": 0.5}


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = write_text(tmp_path / "weights.safetensors", "old")

    def write(temporary: Path) -> None:
        assert temporary.parent == path.parent  # otherwise the last step would be a copy, which a crash can cut in half
        assert temporary.suffix == ".safetensors"
        temporary.write_text("new")
        assert path.read_text() == "old"

    write_atomically(path, write)
    assert path.read_text() == "new"


@pytest.mark.parametrize("problem", [ValueError("bad value"), KeyboardInterrupt()])
def test_a_writer_that_stops_half_way_changes_nothing(tmp_path: Path, problem: BaseException) -> None:
    path = write_text(tmp_path / "a.txt", "old")

    def write(temporary: Path) -> None:
        temporary.write_text("ha")
        raise problem

    with pytest.raises(type(problem)):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    def killed(path: Path) -> None:
        path.write_text("half")
        path.rename(path.with_suffix(".kept"))  # so that the end of the writer does not remove it
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "resume.ckpt", killed)
    (left,) = tmp_path.iterdir()
    left = left.rename(left.with_suffix(".ckpt"))
    others = [".resume-1.ckpt", f".{'a' * 16}", f"resume-{'a' * 16}.ckpt", f".resume-{'a' * 15}.ckpt", "resume.ckpt"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / f".folder-{'a' * 16}").mkdir()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, f".folder-{'a' * 16}"])


def test_a_full_disk_is_reported_and_the_old_file_stays(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", "old")

    def write(temporary: Path) -> None:
        temporary.write_text("ha")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError) as caught:
        write_atomically(path, write)
    assert str(caught.value) == f"{path} cannot be written (No space left on device): make room, or choose another path"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    path = tmp_path / "runs" / "a.txt"
    with pytest.raises(OutputError) as caught:
        write_text(path, "text")
    assert str(caught.value).startswith(f"{path} cannot be written (")
    assert (tmp_path / "runs").read_text() == "a file"


def test_a_file_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "a.txt", "text")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_files_have_the_permissions_of_the_umask(tmp_path: Path, umask: int) -> None:
    path = write_text(tmp_path / "a.txt", "text")
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert os.umask(umask) == umask


def test_a_prepared_folder_exists_and_is_empty(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "first"
    assert prepare_folder(folder) == folder
    assert list(folder.iterdir()) == []
    (folder / "kept.txt").write_text("kept")
    prepare_folder(folder)
    assert [entry.name for entry in folder.iterdir()] == ["kept.txt"]


def test_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    for folder in (tmp_path / "runs", tmp_path / "runs" / "first"):
        with pytest.raises(OutputError) as caught:
            prepare_folder(folder)
        assert str(caught.value).startswith(f"the folder {folder} cannot be written to (")
        assert str(caught.value).endswith("choose another")


def test_a_new_folder_is_complete_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"), new_folder(tmp_path / "out") as folder:
        (tmp_path / "gone").rename(folder / "half")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as folder:
        (folder / "whole").write_text("x")
        assert list((tmp_path / "out").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/whole").read_text() == "x"
    assert (tmp_path / "out").stat().st_mode & 0o500 == 0o500
    for place, state in (("out", "not empty"), ("out/whole", "a file")):
        with (
            pytest.raises(OutputError, match=f"exists and is {state}: choose a new folder"),
            new_folder(tmp_path / place),
        ):
            pass
    with pytest.raises(OutputError, match="cannot be written"), new_folder(tmp_path / "out/whole/inside"):
        pass


def test_files_that_will_be_written_are_prepared(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text("old")
    new = tmp_path / "new" / "deep"
    files = {"--output": old, "--results": None, "--report": new / "a.html", "--charts": new / "b.png"}
    missing = prepare_files(files, kept=[Path("other")])
    assert (old.read_text(), missing, [path.name for path in tmp_path.iterdir()]) == ("old", [new], ["old.json"])
    assert created_folders_note(missing) == ""
    write_text(new / "a.html", "")
    assert created_folders_note(missing) == f"Note: created the folder {new}."
    assert prepare_files(files) == []
    assert check_folder(tmp_path / "other") == [tmp_path / "other"]
    assert check_folder(new) == []


def test_files_that_cannot_be_written_are_refused_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").write_text("")
    for files, kept, message in (
        (
            {"--output": Path("~")},
            (),
            f"{tmp_path} is a folder, and a file is to be written: name a file, such as one in this folder",
        ),
        (
            {"--output": Path("file")},
            (tmp_path / "file",),
            "--output file would overwrite what is read: choose another file",
        ),
        (
            {"--output": Path("a"), "--report": Path("x/../a")},
            (),
            "--report and --output name the same file, x/../a: choose two",
        ),
        ({"--output": Path("file/a")}, (), "the folder file cannot be written to (File exists): choose another"),
        (
            {"--output": Path("file/a/b")},
            (),
            f"the folder {tmp_path / 'file'} cannot be written to (File exists): choose another",
        ),
    ):
        with pytest.raises(OutputError) as caught:
            prepare_files(dict(files), kept)
        assert str(caught.value) == message
