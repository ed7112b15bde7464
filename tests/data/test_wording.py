"""Counts and their verbs, and notes that say what they are about."""

from __future__ import annotations

import copy
import pickle

import pytest

from detrkit.data.findings import Changes, Note
from detrkit.data.wording import agreeing, are, counted, have, some_of, were


@pytest.mark.parametrize(
    ("number", "box", "verbs"),
    [(0, "0 boxes", "are were have"), (1, "1 box", "is was has"), (2, "2 boxes", "are were have")],
)
def test_counts_and_verbs(number: int, box: str, verbs: str) -> None:
    assert counted(number, "box", "boxes") == box
    assert counted(number, "class name") == f"{number} class name{'' if number == 1 else 's'}"
    assert " ".join((are(number), were(number), have(number))) == verbs
    assert agreeing(number, "lies", "lie") == ("lies" if number == 1 else "lie")


def test_parts_agree_with_the_whole() -> None:
    assert some_of(1, 7, "picture") == "1 of 7 pictures"
    assert some_of(1, 1, "box", "boxes") == "1 of 1 box"
    assert some_of(0, 1, "image") == "0 of 1 image"


def test_changes_become_notes() -> None:
    changes = Changes()
    changes.add("odd", "a.txt, line 3", "a.txt")
    changes.add("odd", "a.txt, line 5", "a.txt")
    changes.add("odd", "{first}.txt")
    changes.add("rare", "b.txt")
    sentences = {
        "never": lambda number, first: "",
        "rare": lambda number, first: f"{counted(number, 'line')} {are(number)} rare (the first: {first}).",
        "odd": lambda number, first: f"{counted(number, 'line')} {are(number)} odd (the first: {first}).",
    }
    notes = changes.notes(sentences)
    assert notes == ["1 line is rare (the first: b.txt).", "3 lines are odd (the first: a.txt, line 3)."]
    assert [(note.kind, note.number, note.files) for note in notes] == [
        ("rare", 1, ("b.txt",)),
        ("odd", 3, ("a.txt", "{first}.txt")),
    ]


def test_notes_are_texts_and_keep_what_they_know() -> None:
    note = Note("Two boxes.", "no area", count=2, files=["a", "b", "a"])
    assert note == "Two boxes."
    assert f"Note: {note}" == "Note: Two boxes."
    for other in (copy.deepcopy(note), pickle.loads(pickle.dumps(note))):
        assert (other, other.kind, other.number, other.files) == (note, "no area", 2, ("a", "b"))
    assert (Note("Plain.").kind, Note("Plain.").number, Note("Plain.").files) == ("", 1, ())
