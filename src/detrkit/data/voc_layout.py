"""Where the annotation files, pictures and lists of Pascal VOC data sets lie.

- The official layout: `Annotations/`, `JPEGImages/` and one list of images for each split, `ImageSets/Main/<split>.txt`. Lists may also lie
  in `ImageSets/` or, named after a usual split, beside `Annotations/`.
- A folder for each split: `<split>/*.xml` with the pictures beside them, as Roboflow exports VOC; `<split>/Annotations/` with
  `<split>/JPEGImages/`; `Annotations/<split>/` with `JPEGImages/<split>/`; or `JPEGImages/<split>/` with both.
- One split without a name: `Annotations/` and `JPEGImages/`, or pictures and XML files together in one folder, as labelImg saves them. The
  split is called as its folder if that is the name of a split, otherwise `train`.

A folder such as `VOCdevkit` with the data set of one year, `VOC2012/`, is that data set.

Folders may be written in any case and by their usual synonyms, such as `images` and `xmls`. Hidden files are passed over.
A folder is taken for VOC by its lists or by the beginning of a few of its XML files; no file is parsed for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from detrkit.data.split_names import ASSUMED_SPLIT, plain_split, split_named
from detrkit.data.text_files import read_lines
from detrkit.errors import DataError

SPLIT_LISTS = "ImageSets/Main"
LOOKED_FOR = (f"{SPLIT_LISTS}/<split>.txt", "Annotations/*.xml", "<split>/*.xml", "*.xml")
ANNOTATION_SUFFIXES = (".xml",)
# Of several pictures that differ in their ending only, the first one wins.
PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"),
    *(".jpe", ".jfif", ".gif", ".ppm", ".pgm", ".jp2", ".avif"),
)
_ANNOTATIONS = ("annotations", "annotation", "xmls", "xml", "annots", "labels")
_PICTURES = ("jpegimages", "images", "image", "imgs", "img", "pngimages", "pictures", "photos")
_LISTS = ("imagesets", "imageset")
_DEVKIT, _YEAR = "vocdevkit", re.compile(r"voc[\s_-]?\d{4}.*")
_LEVELS = 4  # how deep below its data set a split's folder can lie, with one to spare
_SNIFFED_FILES, _SNIFFED_BYTES = 5, 4096
_ROOT_ELEMENT = re.compile(rb"<(?:[\w.-]+:)?annotation[\s/>]", re.IGNORECASE)


def find_splits(folder: Path) -> dict[str, Path]:
    """The list or the folder of XML files of each split, keyed by the split's name; empty if it is not a VOC folder.

    Raises:
        DataError: it holds the data sets of several years.
    """
    return _lists(folder) or _split_folders(folder) or _only_split(folder) or _of_only_year(folder)


def splits_beside(source: Path) -> dict[str, Path]:
    """All splits of the data set to which one of `find_splits` belongs: they share their classes."""
    if source.is_file():
        return find_splits(root_of_list(source))
    found = {source.name: source}
    folder = source
    for _ in range(_LEVELS):
        splits = find_splits(folder)
        if source in splits.values():
            found = splits
        if not (is_split(folder.name) or folder.name.lower() in _ANNOTATIONS + _PICTURES):
            break
        folder = folder.parent
    return found


def split_is_assumed(splits: dict[str, Path]) -> bool:
    """Whether the only split is called `train` because nothing says otherwise."""
    sources = list(splits.values())
    if len(sources) != 1 or sources[0].is_file():
        return False
    folder = sources[0].resolve()
    return not is_split(folder.parent.name if folder.name.lower() in _ANNOTATIONS + _PICTURES else folder.name)


def explain_missing_split(splits: dict[str, Path]) -> str:
    """Why a split is missing where the only split's name is assumed, as the end of a message; otherwise empty."""
    if not split_is_assumed(splits):
        return ""
    return (
        f"nothing in it names splits, so all its pictures are the split '{ASSUMED_SPLIT}'; write lists of image names such as "
        f"{SPLIT_LISTS}/val.txt, or put the pictures with their XML files into one folder for each split, such as val/."
    )


def is_split(name: str) -> bool:
    """Whether this is a usual name of a split, in any case, with or without a year."""
    return split_named(name) is not None


def root_of_list(list_file: Path) -> Path:
    """The data set's folder, from one of its lists of images."""
    above = list_file.parent
    if above.name.lower() == "main" and above.parent.name.lower() in _LISTS:
        above = above.parent
    return above.parent if above.name.lower() in _LISTS else above


def annotation_folder(source: Path) -> Path:
    """The folder that holds the XML files of one of `find_splits`; it may not exist if that is a list."""
    if source.is_dir():
        return source
    root = root_of_list(source)
    return _with_annotations(root) or _subfolder(root, _ANNOTATIONS) or root / "Annotations"


def is_deep(annotations: Path) -> bool:
    """Whether XML files in folders below this one belong to it, too."""
    return bool({annotations.name.lower(), annotations.parent.name.lower()}.intersection(_ANNOTATIONS))


def picture_folders(annotations: Path) -> list[tuple[Path, bool]]:
    """Where the pictures of a folder of XML files may lie, the most usual place first, and whether folders below count, too."""
    above, beside = annotations.parent, (annotations, is_deep(annotations))
    if _is_inside_annotations(annotations):  # Annotations/train and JPEGImages/train
        pictures = _subfolder(above.parent, _PICTURES)
        places = [
            pictures and _of_split(pictures, annotations.name),
            _of_split(above.parent, annotations.name),
            pictures,
        ]
        return [*((place, True) for place in places if place), beside]
    inside = annotations.name.lower() in _ANNOTATIONS
    pictures = _subfolder(above if inside else annotations, _PICTURES)
    named = [(pictures, True)] if pictures else []
    return [*named, beside, (above, False)] if inside else [beside, *named]


def serves_all_splits(pictures: Path, annotations: Path) -> bool:
    """Whether the pictures of all splits lie in one folder, while their XML files lie in a folder for each split."""
    return _is_inside_annotations(annotations) and pictures != annotations and not is_split(pictures.name)


def visible_files(folder: Path, suffixes: tuple[str, ...], *, deep: bool) -> Iterator[Path]:
    """The files with one of these endings (in lower case), in the order of their names.

    Args:
        folder: to look into; one that does not exist has no files.
        suffixes: the endings.
        deep: whether to look into the folders below, too.

    Raises:
        DataError: a folder cannot be read.
    """
    for place, folders, names in os.walk(folder, onerror=_refuse_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if deep else []
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield Path(place, name)


def lines_of(list_file: Path) -> list[str]:
    """The lines of a list of images without blanks around them; empty lines are left out.

    Raises:
        DataError: it cannot be read, or is not text.
    """
    return [line.strip() for line in read_lines(list_file) if line.strip()]


def rating(line: str) -> str | None:
    """The second column of a line in VOC's lists for single classes: 1, 0 or -1 for yes, difficult only, no."""
    columns = line.rsplit(maxsplit=1)
    return columns[1] if len(columns) == 2 and columns[1] in ("-1", "0", "1", "+1") else None


def _lists(folder: Path) -> dict[str, Path]:
    """The lists of images, without those for single classes unless there are no others."""
    sets = _subfolder(folder, _LISTS)
    main = _subfolder(sets, ("main",)) if sets else None
    files = _texts(main) if main else []
    if not files and (sets or any(map(_names_split, _texts(folder)))) and _with_annotations(folder):
        files = (_texts(sets) if sets else []) or [file for file in _texts(folder) if _names_split(file)]
    return _keyed([file for file in files if not _is_class_list(file)] or files)


def _texts(folder: Path) -> list[Path]:
    return list(visible_files(folder, (".txt",), deep=False))


def _names_split(list_file: Path) -> bool:
    return is_split(list_file.stem.removesuffix("_list"))


def _is_class_list(list_file: Path) -> bool:
    """Whether this is one of VOC's lists for a single class, such as `dog_train.txt`, which rates every image and is not a split."""
    name, _, split = list_file.stem.rpartition("_")
    if not name or not is_split(split):
        return False
    lines = lines_of(list_file)
    return bool(lines) and all(map(rating, lines))


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folders named after splits that hold XML files, in the data set's folder or in its folder of annotations or pictures."""
    for parent in (folder, _subfolder(folder, _ANNOTATIONS, _has_voc_below), _subfolder(folder, _PICTURES)):
        named = [child for child in _folders(parent) if is_split(child.name)] if parent else []
        found = _keyed([place for place in map(_with_annotations, named) if place])
        if found:
            return found
    return {}


def _only_split(folder: Path) -> dict[str, Path]:
    place = _with_annotations(folder) or _subfolder(folder, _PICTURES, _has_voc)
    name = folder.resolve().name
    return {} if place is None else {_plain(name) if is_split(name) else ASSUMED_SPLIT: place}


def _of_only_year(folder: Path) -> dict[str, Path]:
    """The splits of the only year in a folder such as `VOCdevkit`, which may itself lie in the given one."""
    kits = [folder, *(child for child in _folders(folder) if child.name.lower() == _DEVKIT)]
    years = [child for kit in kits for child in _folders(kit) if _YEAR.fullmatch(child.name.lower())]
    splits = {year: found for year in years if (found := _lists(year) or _split_folders(year) or _only_split(year))}
    if len(splits) > 1:
        names = ", ".join(year.relative_to(folder).as_posix() for year in splits)
        raise DataError(
            f"{folder} holds {len(splits)} Pascal VOC data sets: {names}; give one of them (--data {next(iter(splits))})."
        )
    return next(iter(splits.values()), {})


def _with_annotations(folder: Path) -> Path | None:
    """The folder itself if XML files lie in it, otherwise its folder of annotations if they lie there."""
    return folder if _has_voc(folder) else _subfolder(folder, _ANNOTATIONS, _has_voc_below)


def _has_voc(folder: Path, *, deep: bool = False) -> bool:
    files = islice(visible_files(folder, ANNOTATION_SUFFIXES, deep=deep), _SNIFFED_FILES)
    return any(map(_begins_like_voc, files))


def _has_voc_below(folder: Path) -> bool:
    return _has_voc(folder, deep=True)


def _begins_like_voc(file: Path) -> bool:
    """Whether an annotation begins here; other tools write XML files, too, for example one file for all pictures."""
    try:
        with file.open("rb") as opened:
            return _ROOT_ELEMENT.search(opened.read(_SNIFFED_BYTES).replace(b"\0", b"")) is not None  # UTF-16 has zeros
    except OSError:
        return False


def _keyed(sources: list[Path]) -> dict[str, Path]:
    """Lists or folders by the name of their split; where two names mean the same, the second one stays as it is."""
    keyed: dict[str, Path] = {}
    for source in sources:
        inside = not source.is_file() and not is_split(source.name)  # train/Annotations
        name = source.parent.name if inside else source.stem if source.is_file() else source.name
        plain = _plain(name.removesuffix("_list"))
        keyed[name if plain in keyed else plain] = source
    return keyed


def _plain(name: str) -> str:
    """A split's name as it is usually written; other names stay as they are."""
    return split_named(name) or name


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError as error:
        raise _unreadable(error) from None


def _is_inside_annotations(folder: Path) -> bool:
    """Whether this is a split's folder in a folder of annotations."""
    return is_split(folder.name) and folder.parent.name.lower() in _ANNOTATIONS


def _of_split(folder: Path, split: str) -> Path | None:
    """The folder below that is named after a split, however it is spelled."""
    wanted = plain_split(_plain(split))
    named = [child for child in _folders(folder) if is_split(child.name)]
    return next((child for child in named if plain_split(_plain(child.name)) == wanted), None)


def _subfolder(folder: Path, names: tuple[str, ...], fits: Callable[[Path], bool] | None = None) -> Path | None:
    """The folder with the first of these names, in any case, that fits."""
    found = [child for child in _folders(folder) if child.name.lower() in names]
    found.sort(key=lambda child: names.index(child.name.lower()))
    return next((child for child in found if fits is None or fits(child)), None)


def _refuse_unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise _unreadable(error) from None


def _unreadable(error: OSError) -> DataError:
    return DataError(f"The folder {error.filename} cannot be read ({error.strerror}): make it a readable folder.")
