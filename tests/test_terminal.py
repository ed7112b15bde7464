"""What commands print to a person, who reads whole words, and to a file, whose lines stay whole."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import pytest
from rich.console import Group

from detrkit.terminal import Name, Prose, add_numbers, narrow_table, terminal

SENTENCE = "Note: 3 pictures of /data/a folder/with/a/very/long/path/that/has/no/room.jpg are not in the annotations."


class Screen(io.StringIO):
    """A stream that is a terminal."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def printed(monkeypatch: pytest.MonkeyPatch, what: Any, stream: io.StringIO, width: int = 40, **options: Any) -> str:
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal().print(what, **options)
    return stream.getvalue()


@pytest.mark.parametrize("what", [SENTENCE, Prose(SENTENCE), Group(Prose(SENTENCE))])
def test_a_person_reads_lines_that_break_between_words_and_never_within_a_path(
    what: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert printed(monkeypatch, what, Screen()).splitlines() == [
        "Note: 3 pictures of /data/a",
        "folder/with/a/very/long/path/that/has/no/room.jpg",
        "are not in the annotations.",
    ]


@pytest.mark.parametrize("what", [SENTENCE, Prose(SENTENCE), Group(Prose(SENTENCE))])
def test_in_a_file_no_line_is_broken(what: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(monkeypatch, what, io.StringIO()) == f"{SENTENCE}\n"


def test_what_is_to_be_copied_is_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    command = "Next: detrkit predict 'my runs/first/best.safetensors' IMAGES"
    assert printed(monkeypatch, command, Screen(), soft_wrap=True) == f"{command}\n"


def test_lines_keep_their_indentation(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "  train: two pictures are the same, byte by byte\n      Keep one of them."
    assert printed(monkeypatch, Prose(text), Screen(), width=30).splitlines() == [
        "  train: two pictures are the",
        "  same, byte by byte",
        "      Keep one of them.",
    ]


def test_captions_of_tables_break_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    table = narrow_table("errors", "717 detections from these scores: 600 correct, 117 wrong.")
    table.add_column("kind of error, or none")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", printed(monkeypatch, table, Screen())).splitlines()
    assert lines[-3:] == ["717 detections from", "these scores: 600", "correct, 117 wrong."]


@pytest.mark.parametrize(
    ("name", "width", "lines"),
    [
        ("deformable-detr-compact-two-stage", 34, ["deformable-detr-compact-two-stage"]),
        ("deformable-detr-compact-two-stage", 30, ["deformable-detr-compact-two-", "stage"]),
        ("runs/mine_2.onnx", 9, ["runs/", "mine_2.", "onnx"]),
        ("person", 4, ["pers", "on"]),
    ],
)
def test_names_break_between_their_parts(
    name: str, width: int, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [line.rstrip() for line in printed(monkeypatch, Name(name), Screen(), width=width).splitlines()] == lines


def test_numbers_beside_a_name_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    table = narrow_table("")
    table.add_column("")
    add_numbers(table, "AP", "AP50")
    table.add_row(Name("detr-compact-two-stage"), "0.005 ± 0.001", "0.019")
    text = printed(monkeypatch, table, Screen(), width=36)
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    assert lines[-2:] == ["detr-compact-   0.005 ± 0.001  0.019", "two-stage"]
