"""`detrkit inspect` as a user runs it: what it prints and writes, and its exit codes."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
from inspected_data import CAT, GOOD, write_split
from PIL import Image

import detrkit
from detrkit.__main__ import main


def run(*arguments: object) -> tuple[int, str]:
    """The exit code, and what was printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), pytest.raises(SystemExit) as end:
        main(["inspect", *map(str, arguments)])
    assert isinstance(end.value.code, int)
    return end.value.code, printed.getvalue()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_split(tmp_path / "data", "train", [*GOOD, []])
    return write_split(tmp_path / "data", "val", GOOD)


def test_fine(data: Path) -> None:
    code, printed = run(data)
    assert code == 0
    rows = [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines()]
    for row in (
        ["images", "11", "10"],
        ["without objects", "1", "0"],
        ["objects", "20", "20"],
        ["small, medium, large", "0, 20, 0", "0, 20, 0"],
        ["objects per image", "0 · 2 · 2", "2 · 2 · 2"],
        ["AP of the truth itself", "1.0000", "1.0000"],
        ["cat", "10 in 10", "10 in 10"],
    ):
        assert row in rows
    assert (
        "1 note:\n  train: 1 of 11 images has no objects (train_10.jpg). [images-without-objects]\n"
        "      Make sure that nothing in them should have been annotated.\n"
        f"{data}: fine (0 errors, 0 warnings, 1 note; 21 pictures looked at, "
    ) in printed


def test_errors_and_warnings(data: Path) -> None:
    write_split(data, "train", [[*GOOD[0], GOOD[0][0]], [(CAT, [-30, 20, 40, 40])]])
    code, printed = run(data)
    assert code == 1
    assert [line for line in printed.splitlines() if line.endswith(":")] == ["1 error:", "1 warning:", "2 notes:"]
    assert ": training would refuse these data or be spoilt (1 error, 1 warning, 2 notes; 12 pictures" in printed


def test_unreadable(data: Path) -> None:
    (data / "val/val_2.jpg").unlink()
    code, printed = run(data, "--quick")
    assert code == 2
    assert "val: " in printed
    assert "1 of 10 pictures is missing: val_2.jpg" in printed
    assert (
        ": some of it cannot be read (1 error, 0 warnings, 1 note; only headers and annotations were looked at)."
        in printed
    )
    code, printed = run(data / "nowhere")
    assert code == 2
    assert printed.startswith(f"detrkit: {data}/nowhere does not exist: ")
    code, printed = run(data, "--split", "tests")
    assert code == 2
    assert printed == f"detrkit: {data} has no split 'tests': choose one of 'train', 'val'\n"


def test_nothing_is_created_where_nothing_is_written(data: Path, tmp_path: Path) -> None:
    for path, split in ((tmp_path / "none", "val"), (data, "none")):
        code, _ = run(path, "--split", split, "--picture", tmp_path / "new/deep/boxes.png")
        assert (code, (tmp_path / "new").exists()) == (2, False)


@pytest.mark.parametrize("width", [80, 120])
def test_no_number_and_no_name_is_folded(data: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for name in ("train", "val", "test", "holdout"):
        write_split(data, name, GOOD[:1], size=(1777, 1333))
    _, printed = run(data, "--quick")
    lines = printed[: printed.index("note")].splitlines()
    assert max(map(len, lines)) <= width
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines]
    shown = [cell for row in rows if row[0] == "picture size, √area in pixels" for cell in row[1:]]
    assert shown == ["1539 · 1539 · 1539"] * 4
    names = [name for row in rows if row[0] == "figure" for name in row[1:]]
    assert sorted(names) == ["holdout", "test", "train", "val"]


def test_what_splits_have_in_common_is_said_once(shared: Path) -> None:
    _, printed = run(shared / "data" / "roboflow_sample", "--quick")
    assert printed.count("'pieces'") == 1


def test_only_some_splits(data: Path) -> None:
    for names in (["val"], ["validation", "val"]):
        code, printed = run(data, "--quick", *(part for name in names for part in ("--split", name)))
        assert code == 0
        assert re.search(r"^images  ", printed, flags=re.MULTILINE)
        assert "train" not in printed.replace(str(data), "")


def test_json_and_picture(data: Path, tmp_path: Path) -> None:
    file, picture = tmp_path / "new/inspection.json", tmp_path / "boxes.png"
    code, printed = run(data, "--json", file, "--picture", picture, "--variant", "detr-compact")
    assert code == 0
    assert printed.endswith(f"Written to {file}\nWritten to {picture}\nNote: created the folder {file.parent}.\n")
    assert Image.open(picture).size == (1944, 1728)
    contents = json.loads(file.read_text())
    assert list(contents) == [
        "path",
        "quick",
        "exit_code",
        "splits",
        "findings",
        "round_trips",
        "decoded",
        "seconds",
        "pictures",
    ]
    assert contents["findings"] == [
        {
            "kind": "images-without-objects",
            "severity": "note",
            "split": "train",
            "message": "1 of 11 images has no objects (train_10.jpg).",
            "remedy": "Make sure that nothing in them should have been annotated.",
            "files": ["train_10.jpg"],
            "count": 1,
        }
    ]
    train = contents["splits"][0]
    assert (train["split"], train["images"], train["empty"], train["objects"]) == ("train", 11, 1, 20)
    assert train["classes"][0] == {"name": "cat", "id": 1, "objects": 10, "images": 10}
    assert train["box_sides"]["median"] == pytest.approx((3000**0.5 + 2400**0.5) / 2)
    assert (contents["decoded"], contents["round_trips"]) == (21, {"train": 1.0, "val": 1.0})


def test_drawings_of_what_training_does(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--quick", "--variant", "light-detr-compact", "--augmentation", "strong", "--augmented", 2)
    code, printed = run(data, *options, "--output", "drawn", "--json", "a.json")
    assert code == 0
    files = sorted((tmp_path / "drawn").iterdir())
    assert [file.name for file in files] == ["01_train_0.png", "02_train_4.png", "index.html"]
    assert [f"Drawn: drawn/{file.name}" in printed for file in files] == [True, True, False]
    assert "All of them on one page: drawn/index.html\n" in printed
    assert json.loads((tmp_path / "a.json").read_text())["pictures"] == [f"drawn/{file.name}" for file in files[:2]]
    page = files[2].read_text()
    assert page.count("<img ") == 2
    assert '<img src="01_train_0.png"' in page
    assert "<td>images</td><td>11</td>" in page
    assert Image.open(files[0]).width == 3 * 480 + 2 * 8


def test_drawings_are_refused_before_the_data_are_read(tmp_path: Path) -> None:
    code, printed = run("digits", "--augmented", 0)
    assert (code, printed) == (2, "detrkit: --augmented must be at least 1, not 0\n")
    code, printed = run("digits", "--augmentation", "hard")
    assert code == 2
    assert "hard" in printed
    (tmp_path / "file").write_text("")
    code, printed = run("digits", "--augmented", 1, "--output", tmp_path / "file")
    assert (code, "cannot be written to" in printed) == (2, True)
    with pytest.raises(detrkit.errors.ConfigurationError, match="no augmentation 'stronger': did you mean 'strong'"):
        detrkit.inspect_data("nowhere", augmentation="stronger")  # type: ignore[arg-type]


def test_files_that_cannot_be_written(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, printed = run(data, "--json", tmp_path / "file/a.json")
    assert code == 2
    assert printed.startswith(f"detrkit: the folder {tmp_path}/file cannot be written to")
    code, printed = run(data, "--quick", "--picture", tmp_path / "a.txt")
    assert code == 2
    assert "a.txt does not end like an image file that can be written" in printed


def test_the_two_commands_name_each_other() -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for command in ("inspect", "doctor"):
            with pytest.raises(SystemExit):
                main([command, "--help"])
    text = " ".join(printed.getvalue().split())
    assert "What this installation and this computer can do: detrkit doctor." in text
    assert "Exit code 0: fine, warnings and notes at most." in text
    assert "What is wrong with a data set: detrkit inspect." in text


def test_in_a_notebook(data: Path) -> None:
    write_split(data, "val", [[("<b>", [5, 5, 20, 20])]], classes=["<b>"])
    text = detrkit.inspect_data(data, quick=True)._repr_html_()
    assert "<tr><th></th><th>train</th><th>val</th></tr><tr><td>images</td><td>11</td><td>1</td></tr>" in text
    assert "<li><b>error</b> val: No class of &#x27;val&#x27; (&lt;b&gt;) is a class of" in text
    assert text.count("<li>") == 2


def test_files_are_written_before_the_table(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("detrkit.data.inspection.inspection.Inspection.table", closed)
    monkeypatch.setattr("detrkit.__main__._drop_output", lambda: None)
    code, _ = run(data, "--quick", "--json", tmp_path / "a.json", "--picture", tmp_path / "a.png")
    assert code == 1
    assert json.loads((tmp_path / "a.json").read_text())["exit_code"] == 0
    assert Image.open(tmp_path / "a.png").width == 1944


def test_files_are_checked_before_the_data_are_read(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    sentence = f"detrkit: {tmp_path}/folder is a folder, and a file is to be written: name a file, such as one in this folder\n"
    for option in ("--json", "--picture"):
        assert run("nowhere", option, tmp_path / "folder") == (2, sentence)
    code, printed = run(tmp_path / "folder", "--picture", tmp_path / "a.txt")
    assert (code, "a.txt does not end like an image file" in printed) == (2, True)
    code, printed = run("nowhere", "--json", tmp_path / "a.png", "--picture", tmp_path / "a.png")
    assert printed == f"detrkit: --picture and --json name the same file, {tmp_path}/a.png: choose two\n"
    with pytest.raises(detrkit.errors.OutputError, match="folder is a folder"):
        detrkit.inspect_data("nowhere", picture=tmp_path / "folder")
