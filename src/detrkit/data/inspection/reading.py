"""Opens the splits of a data set for an inspection, and turns what the readers say into findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detrkit.data.coco_frames import Orientation
from detrkit.data.dataset import NoImagesError
from detrkit.data.findings import Note
from detrkit.data.inspection.finding import Finding, Split, finding
from detrkit.data.opening import Masks, available_splits, name_in_data, open_dataset, splits_without_pictures
from detrkit.data.split_names import ASSUMED_SPLIT, TOGETHER, plain_split
from detrkit.errors import DataError

# What readers' notes of these kinds are as findings; all others are "changed-in-reading". None: a check of its own says it.
_NOTES: dict[str, str | None] = {
    "no area": "boxes-without-area",
    "outside": "boxes-off-picture",
    "repeated": "duplicate-boxes",
    "over the edge": None,
    "segment box": "segments-unlike-pixels",
    "segment area": "segments-unlike-pixels",
}


@dataclass(frozen=True)
class Opened:
    """The splits of a data set.

    Attributes:
        splits: those that could be opened.
        findings: about those that could not, and what the readers note about the others.
    """

    splits: tuple[Split, ...]
    findings: tuple[Finding, ...]


def open_splits(
    path: str | Path,
    asked: Sequence[str] = (),
    *,
    orientation: Orientation = "auto",
    stretch_16bit: bool = False,
    masks: Masks | None = None,
) -> Opened:
    """Opens splits of a data set; one that cannot be read does not keep the others from being inspected.

    Args:
        path: as for `open_dataset`.
        asked: the splits; empty means all.
        orientation: as for `open_dataset`.
        stretch_16bit: as for `open_dataset`.
        masks: as for `open_dataset`.

    Raises:
        DataError: there is no data set at this path, or it has no split of a name that was asked for.
    """
    names, findings = _names(path, asked, masks)
    splits: list[Split] = []
    for name in names:
        training = plain_split(name) in (ASSUMED_SPLIT, TOGETHER)
        try:
            dataset = open_dataset(path, name, orientation=orientation, stretch_16bit=stretch_16bit, masks=masks)
        except NoImagesError as problem:
            findings.append(finding("nothing-to-learn" if training else "split-without-images", name, str(problem)))
        except DataError as problem:
            findings.append(finding("unreadable", name, str(problem), files=_files_named(str(problem), path)))
        else:
            splits.append(Split(name, dataset, training))
    for split in splits:
        findings += reader_notes(split)
    return Opened(tuple(splits), tuple(findings))


def reader_notes(split: Split) -> list[Finding]:
    """What a reader dropped or changed, as findings."""
    found = []
    for note in split.dataset.notes:
        known = note if isinstance(note, Note) else Note(note)
        kind = _NOTES.get(known.kind, "changed-in-reading")
        if kind is not None:
            found.append(finding(kind, split.name, str(known), count=known.number, files=known.files))
    return found


def _names(path: str | Path, asked: Sequence[str], masks: Masks | None) -> tuple[list[str], list[Finding]]:
    """The splits to open, each once, although it may be asked for by several names; and what to say about the others."""
    available = available_splits(path, masks)
    without_pictures = splits_without_pictures(path, masks)
    if asked:
        names = {name_in_data(path, split, masks): split for split in reversed(asked)}
        for name, given in names.items():
            if available and name not in (*available, *without_pictures):
                open_dataset(path, given, masks=masks)  # which says why there is no such split
        return list(names.values())[::-1], []
    findings = [finding("split-without-images", name, sentence) for name, sentence in without_pictures.items()]
    if not available:
        return [ASSUMED_SPLIT], findings
    if {"train", "val", TOGETHER} <= set(available):
        message = f"The split '{TOGETHER}' was not inspected, since 'train' and 'val' were."
        findings.append(finding("split-left-out", TOGETHER, message, values={"split": TOGETHER}))
        available = [name for name in available if name != TOGETHER]
    return available, findings


def _files_named(message: str, path: str | Path) -> list[str]:
    """The files that a message names, or the data set."""
    words = [word.strip("'\"(),;:") for word in message.split()]
    return list(dict.fromkeys(word for word in words if "/" in word and Path(word).is_file())) or [str(path)]
