"""Output does not fail for its characters or for its reader, and no file waits for it."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.progress import track

import detrkit
from detrkit.__main__ import main
from detrkit.terminal import terminal


def run(*arguments: object, folder: Path, encoding: str, errors: str = "strict") -> tuple[int, str, str]:
    """A command in this process whose streams have an encoding."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors) for _ in range(2)]
    code = 0
    with contextlib.chdir(folder), contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
    for stream in streams:
        stream.flush()
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)  # type: ignore[attr-defined]
    return code, out, err


@pytest.fixture
def cats(digits_folder: Path, tmp_path: Path) -> Path:
    """A data set with a class that few encodings have, in a folder that few have."""
    data = shutil.copytree(digits_folder, tmp_path / "data 犬")
    for split in ("train", "val"):
        file = data / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        content["categories"][1]["name"] = "猫"
        file.write_text(json.dumps(content))
    return data


SMALL = ("--batch-size", 4, "--short-side", 64, "--steps", 1, "--settings.queries", 5)


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("cp1251", marks=pytest.mark.reports), "cp1252", "utf-8"])
def test_all_commands_print_what_the_encoding_has(cats: Path, tmp_path: Path, encoding: str) -> None:
    cat = "猫" if encoding == "utf-8" else "?"
    code, out, err = run(
        "train", "detr-compact", "--data", cats, "--output", "run", *SMALL, folder=tmp_path, encoding=encoding
    )
    assert code == 0, err
    assert f"10 classes: 0, {cat}, 2" in out
    best = tmp_path / "run" / "best.safetensors"
    assert detrkit.load(best).card.categories[1].name == "猫"
    code, out, err = run(
        "evaluate",
        best,
        "--data",
        cats,
        "--output",
        "figures.json",
        "--report",
        "report.html",
        folder=tmp_path,
        encoding=encoding,
    )
    assert (code, err) == (0, "")
    assert cat in out
    assert json.loads((tmp_path / "figures.json").read_text())["classes"][1]["name"] == "猫"
    code, out, err = run("predict", best, cats / "val", "--output", "found", folder=tmp_path, encoding=encoding)
    assert (code, err) == (0, "")
    code, out, err = run("convert", cats, "--to", "coco", "--output", "copy", folder=tmp_path, encoding=encoding)
    assert (code, err) == (0, "")
    for command in (("models",), ("doctor",), ("train", "--help")):
        assert run(*command, folder=tmp_path, encoding=encoding)[0] == 0
    code, out, err = run("train", "detr-compact", "--data", "猫", folder=tmp_path, encoding=encoding)
    assert (code, err.startswith(f"detrkit: {cat} does not exist")) == (2, True)


def test_the_console_of_the_library_leaves_streams_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    terminal().print("64 × 64: 猫 [a]")
    with pytest.raises(UnicodeEncodeError):
        print("猫")
    stream.flush()
    assert (stream.errors, stream.buffer.getvalue()) == ("strict", "64 × 64: ? [a]\n".encode("cp1252"))  # type: ignore[attr-defined]


def test_a_console_made_while_a_bar_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar puts something in the stream's place that prints through the bar's own console."""
    text = io.StringIO()
    monkeypatch.setattr(sys, "stdout", text)
    for _ in track([1], console=Console(file=sys.stdout, force_terminal=True, width=60)):
        terminal().print("within")
    assert "within" in text.getvalue()
    monkeypatch.setattr(sys, "stdout", None)  # as in a process without a console on Windows
    terminal().print("nowhere")


def test_replacing_modes_that_a_user_chose_are_kept(tmp_path: Path) -> None:
    _, _, err = run("predict", "猫", "x.png", folder=tmp_path, encoding="ascii", errors="backslashreplace")
    assert err.startswith("detrkit: there is no weight file \\u732b")
    _, _, err = run("train", "猫", "--data", "digits", folder=tmp_path, encoding="ascii", errors="backslashreplace")
    assert err.startswith("detrkit: there is no variant '\\u732b'")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise there")
def test_a_reader_that_goes_away(digits_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = detrkit.build("detr-compact", classes=list("0123456789"), preprocessing=detrkit.Preprocessing(64, 64))
    detrkit.save(model, tmp_path / "model.safetensors")
    evaluate = ["evaluate", "model.safetensors", "--data", str(digits_folder), "--output", "figures.json"]
    inspect = ["inspect", str(digits_folder), "--quick", "--json", "inspection.json"]
    for arguments in (["models"], evaluate, inspect):
        command = subprocess.Popen(
            [sys.executable, "-m", "detrkit", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
        )
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        errors = command.stderr.read().decode()
        assert command.wait() == 1
        assert "Traceback" not in errors
        assert "BrokenPipe" not in errors
    assert json.loads((tmp_path / "inspection.json").read_text())["quick"] is True
    assert len(json.loads((tmp_path / "figures.json").read_text())["figures"]) == 12
