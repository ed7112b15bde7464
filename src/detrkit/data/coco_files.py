"""Which JSON files of a folder are COCO annotations: told by their beginning and end, since parsing large files takes long.

Result files (lists), captions, and panoptic annotations, whose objects are in pictures, are no data sets of boxes.
"""

from __future__ import annotations

import re
from pathlib import Path

from detrkit.data.split_names import SPLIT_NAME, usual_name

_LOOKED_AT = 32 * 1024  # bytes of the beginning, and of the end
_MOST_UNNAMED = 50  # a folder with more files has one for each picture, in another format
_IGNORED = ("captions_", "panoptic_", "stuff_", "image_info_")  # official files beside instances_
_KEYPOINTS = "person_keypoints_"
_MARKS = b"\xef\xbb\xbf\xff\xfe \t\r\n"  # byte order marks and blanks
_LIST = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_ENTRY = re.compile(rb'"(file_name|image_id|category_id)"\s*:')
_OTHER_CONTENTS = re.compile(rb'"(segments_info|caption)"\s*:')
_SPLIT = re.compile(rf"(?:^|[\s_.-]){SPLIT_NAME}(?=$|[\s_.-])")
_KINDS = re.compile(r"(?:[\s_.-]+(?:annotations?|coco|instances|labels?|bbox|boxes|gt|json))*")


def annotation_files(folder: Path) -> list[Path]:
    """The JSON files directly in a folder that look like COCO annotations, sorted by name; hidden ones are passed over.

    Keypoints of persons count only where there is nothing else: they are some of the objects of another file.
    """
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".json" and file.is_file())
    except OSError:  # whoever opens the folder for its pictures says so
        return []
    files = [file for file in files if not file.name.startswith((".", *_IGNORED))]
    if len(files) > _MOST_UNNAMED:
        files = [file for file in files if split_in_name(file.stem) is not None]
    found = [file for file in files if looks_like_coco(file)]
    return [file for file in found if not file.name.startswith(_KEYPOINTS)] or found


def looks_like_coco(file: Path) -> bool:
    """Whether the beginning and the end of a file are those of COCO annotations with boxes."""
    try:
        with file.open("rb") as opened:
            beginning = opened.read(_LOOKED_AT)
            opened.seek(max(len(beginning), file.stat().st_size - _LOOKED_AT))
            end = opened.read()
    except OSError:
        return False
    beginning, end = beginning.replace(b"\0", b"").lstrip(_MARKS), end.replace(b"\0", b"")  # UTF-16 has zeros
    if not beginning.startswith(b"{") or any(map(_OTHER_CONTENTS.search, (beginning, end))):
        return False
    lists = {*_LIST.findall(beginning), *_LIST.findall(end)}
    return len(lists) > 1 or (bool(lists) and any(map(_ENTRY.search, (beginning, end))))


def split_in_name(name: str) -> str | None:
    """The split that a file's name ends with, in lower case and with its year, or None.

    "train" for `Train`, `cats-train`, `instances_train` and `train_annotations.coco`; None for `train_small` and `train_val`.
    """
    found = list(_SPLIT.finditer(name.lower()))
    return usual_name(found[0]) if len(found) == 1 and _KINDS.fullmatch(name.lower(), found[0].end()) else None
