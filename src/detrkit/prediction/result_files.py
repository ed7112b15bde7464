"""Files that grow with every picture: what is written stays valid and complete whenever the process ends."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

import numpy as np
from PIL import Image

from detrkit.cards import Category
from detrkit.data.wording import counted
from detrkit.files import write_text
from detrkit.panoptic import PanopticSegmentation
from detrkit.prediction.growing import GrowingList, opened, written
from detrkit.prediction.panoptic_files import category_records, write_map
from detrkit.prediction.results import image_ids, is_drawing, named_entries, output_names, save_image, to_entries

if TYPE_CHECKING:
    import supervision as sv

ResultFormat = Literal["json", "panoptic", "csv", "yolo", "images", "crops"]

JSON_FILE, IMAGES_FILE, CSV_FILE = "detections.json", "images.json", "detections.csv"
PANOPTIC_FILE = "panoptic.json"  # the PNG files lie in the folder of this name beside it
LABELS, CLASSES, CROPS = "labels", "classes.txt", "crops"
# How files begin, which tells them from a user's.
IMAGES_BEGIN = '{"info": {"description": "Images in which detrkit looked for objects"}'
PANOPTIC_BEGIN = '{"info": {"description": "Segments that detrkit found"}'
CSV_COLUMNS = ("file", "class", "category_id", "score", "x1", "y1", "x2", "y2")
_DRAWERS = 2  # threads
_DRAWINGS_WAITING = 4


@dataclass(frozen=True)
class Result:
    """What was found in one of the images.

    Attributes:
        place: of the image in the list of all.
        picture: in RGB.
        detections: in pixels of the picture.
        segmentation: its segments; None from models without them.
    """

    place: int
    picture: Image.Image
    detections: sv.Detections
    segmentation: PanopticSegmentation | None = None


class ResultFile(Protocol):
    """One format of results."""

    def add(self, result: Result) -> None:
        """Writes the results of one more image.

        Raises:
            OutputError: they cannot be written.
        """

    def finish(self) -> None:
        """Waits until all is written, and closes the files.

        Raises:
            OutputError: something could not be written.
        """


class JsonFile:
    """COCO result entries in one list, and beside it the images, also those without objects, and the categories.

    Both files are complete after every image. The second has the form of COCO's annotation files, so that COCO's tools can load the first on
    top of it.
    """

    def __init__(self, folder: Path, images: Sequence[Path], categories: Sequence[Category]) -> None:
        self._images = images
        self._ids, self._named = image_ids(images)
        known = [{"id": category.id, "name": category.name} for category in categories]
        begin = f'{IMAGES_BEGIN},\n"categories": {json.dumps(known)},\n"images": ['
        self._listed = GrowingList(folder / IMAGES_FILE, begin, "]}")
        self._entries = GrowingList(folder / JSON_FILE, "[", "]")

    def add(self, result: Result) -> None:
        """Adds an image and its entries."""
        name, number = self._images[result.place].as_posix(), self._ids[result.place]
        size = {"width": result.picture.width, "height": result.picture.height}
        self._listed.extend([{"id": number, "file_name": name, **size, "detections": len(result.detections)}])
        self._entries.extend(named_entries(result.detections, number, {"file_name": name} if self._named else {}))

    def finish(self) -> None:
        """Closes the files."""
        self._listed.close()
        self._entries.close()


class PanopticFiles:
    """The segments of each image as a PNG file, and one JSON file, in COCO's form.

    That file is complete JSON after every image; the list of images, which is not needed to read it back, follows when it is closed, so that
    the file grows by one entry at a time.
    """

    def __init__(self, path: Path, images: Sequence[Path], categories: Sequence[Category]) -> None:
        self.path = path
        self._images = images
        self._ids, self._named = image_ids(images)
        self._names = [f"{Path(name).stem}.png" for name in output_names(images)]
        begin = f'{PANOPTIC_BEGIN},\n"categories": {json.dumps(category_records(categories))},\n"annotations": ['
        self._entries = GrowingList(path, begin, "]}")
        self._seen: list[dict[str, int | str]] = []

    def add(self, result: Result) -> None:
        """Writes the image's PNG file, and adds its entry."""
        if result.segmentation is None:
            return
        number, name = self._ids[result.place], self._names[result.place]
        entry = write_map(self.path, result.segmentation, number, name)
        file_name = self._images[result.place].as_posix()
        self._entries.extend([entry | ({"image": file_name} if self._named else {})])
        height, width = result.segmentation.ids.shape
        self._seen.append({"id": number, "file_name": file_name, "height": height, "width": width})

    def finish(self) -> None:
        """Adds the list of images and closes the file."""
        self._entries.close(f'],\n"images": {json.dumps(self._seen)}}}')


class JsonStream:
    """The entries of a `JsonFile`, each with its `file_name`, as one list on a stream."""

    def __init__(self, stream: TextIO, images: Sequence[Path]) -> None:
        self.stream = stream
        self._images = images
        self._ids, _ = image_ids(images)
        self._between = ""
        stream.write("[")

    def add(self, result: Result) -> None:
        """Writes the entries of an image."""
        name = {"file_name": self._images[result.place].as_posix()}
        for entry in named_entries(result.detections, self._ids[result.place], name):
            self.stream.write(f"{self._between}\n{json.dumps(entry, allow_nan=False)}")
            self._between = ","

    def finish(self) -> None:
        """Ends the list."""
        self.stream.write("\n]\n")
        self.stream.flush()


class CsvFile:
    """A line for each detection, below a line of names."""

    def __init__(self, path: Path, images: Sequence[Path]) -> None:
        self.path = path
        self._images = images
        self._file: FileIO | None = None  # an earlier file is replaced once there is a result

    def add(self, result: Result) -> None:
        """Adds the lines of an image, in one write."""
        rows: list[tuple[object, ...]] = []
        if self._file is None:
            self._file = opened(self.path)
            rows.append(CSV_COLUMNS)
        detections, file = result.detections, self._images[result.place].as_posix()
        entries = to_entries(detections, 0)
        rows += [
            (file, name, entry["category_id"], entry["score"], *(f"{value:.9g}" for value in box))
            for entry, name, box in zip(entries, detections.data["class_name"], detections.xyxy.tolist(), strict=True)
        ]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        with written(self.path):
            # File names of other encodings keep their bytes.
            self._file.write(text.getvalue().encode("utf-8", "surrogateescape"))

    def finish(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


class YoloFiles:
    """A label file for each image, also an empty one where nothing was found, and the names of the classes."""

    def __init__(self, folder: Path, images: Sequence[Path], categories: Sequence[Category]) -> None:
        self.folder = folder
        self._names = [Path(name).stem for name in output_names(images)]
        self._numbers = {category.id: number for number, category in enumerate(categories)}
        self._classes: list[str] | None = class_names(categories)

    def add(self, result: Result) -> None:
        """Writes the image's label file, and the names of the classes with the first."""
        if self._classes is not None:
            write_text(self.folder.parent / CLASSES, "".join(f"{name}\n" for name in self._classes))
            self._classes = None
        lines = yolo_lines(result.detections, result.picture.width, result.picture.height, self._numbers)
        path = self.folder / f"{self._names[result.place]}.txt"
        write_text(path, "".join(f"{line}\n" for line in lines))

    def finish(self) -> None:
        """Nothing is left to do."""


class Crops:
    """Each object as a picture of its own, in a folder for its class."""

    def __init__(self, folder: Path, images: Sequence[Path], categories: Sequence[Category]) -> None:
        self.folder = folder
        self._names = [Path(name) for name in output_names(images)]
        self._folders = crop_folders(categories)

    def add(self, result: Result) -> None:
        """Saves the objects of an image, numbered from the best; what lies outside the picture has no pixels."""
        name, size = self._names[result.place], np.array([result.picture.width, result.picture.height] * 2)
        corners = np.concatenate([np.floor(result.detections.xyxy[:, :2]), np.ceil(result.detections.xyxy[:, 2:])], 1)
        boxes = np.clip(corners, 0, size).astype(int).tolist()
        ids = [] if result.detections.class_id is None else result.detections.class_id.tolist()
        for number, (box, category_id) in enumerate(zip(boxes, ids, strict=True), start=1):
            if box[0] < box[2] and box[1] < box[3]:
                place = self.folder / self._folders[category_id] / f"{name.stem}_{number}{name.suffix}"
                save_image(place, result.picture.crop(box))

    def finish(self) -> None:
        """Nothing is left to do."""


class DrawnImages:
    """Copies of the images with their boxes, masks or segments, drawn and saved by threads of their own."""

    def __init__(self, folder: Path, images: Sequence[Path]) -> None:
        self.folder = folder
        self._names = output_names(images)
        self._pool = ThreadPoolExecutor(_DRAWERS, thread_name_prefix="draw")
        self._waiting: deque[Future[None]] = deque()

    def add(self, result: Result) -> None:
        """Has the image drawn; waits where others are still to be."""
        self._waiting.append(self._pool.submit(self._draw, result))
        while len(self._waiting) > _DRAWINGS_WAITING:
            self._waiting.popleft().result()

    def finish(self) -> None:
        """Waits for all drawings."""
        self._pool.shutdown()
        while self._waiting:
            self._waiting.popleft().result()

    def _draw(self, result: Result) -> None:
        from detrkit.prediction.drawing import draw  # supervision takes a while, and not every run draws
        from detrkit.prediction.mask_drawing import draw_panoptic

        segments = result.segmentation
        drawn = draw(result.picture, result.detections) if segments is None else draw_panoptic(result.picture, segments)
        save_image(self.folder / self._names[result.place], drawn)


def class_names(categories: Sequence[Category]) -> list[str]:
    """The lines of the file with the names of the classes."""
    return [" ".join(category.name.split()) for category in categories]


def crop_folders(categories: Sequence[Category]) -> dict[int, str]:
    """The name of each class's folder for crops, by category id; signs that file systems refuse become underscores."""
    names: dict[int, str] = {}
    for category in categories:
        name = re.sub(r"[^\w .+-]", "_", category.name).strip(" .") or "_"
        taken = {each.casefold() for each in names.values()}
        names[category.id] = f"{name}_{category.id}" if name.casefold() in taken else name
    return names


def yolo_lines(detections: sv.Detections, width: int, height: int, numbers: dict[int, int]) -> list[str]:
    """Lines of a YOLO label file: class, centre and size as shares of the picture, score.

    Args:
        detections: boxes in pixels; they are clipped to the picture, and left out where nothing of them lies in it.
        width: of the picture in pixels.
        height: of the same.
        numbers: the number of each category id in the list of classes.
    """
    if detections.class_id is None or detections.confidence is None:
        raise ValueError("YOLO labels need class_id and confidence")
    scale = np.array([width, height], dtype=np.float64)
    corners = np.clip(detections.xyxy.astype(np.float64).reshape(-1, 2, 2) / scale, 0, 1)
    centres, sizes = corners.mean(axis=1), corners[:, 1] - corners[:, 0]
    rows = zip(
        detections.class_id.tolist(), centres.tolist(), sizes.tolist(), detections.confidence.tolist(), strict=True
    )
    return [
        " ".join([str(numbers[category_id]), *(f"{value:.6f}" for value in (*centre, *size)), f"{score:.6f}"])
        for category_id, centre, size, score in rows
        if min(size) > 0
    ]


@contextmanager
def result_files(
    output: Path,
    formats: Sequence[ResultFormat],
    images: Sequence[Path],
    categories: Sequence[Category],
    more: Sequence[ResultFile] = (),
) -> Iterator[list[ResultFile]]:
    """The files of all formats, open for results; at the end, also after an error, all that was added is written.

    Args:
        output: the folder for all of them.
        formats: "json", "panoptic", "csv", "yolo", "images", "crops".
        images: all images that will be looked at; their number and names decide ids and names of files.
        categories: the model's classes.
        more: other files, open already, which are finished with them.

    Raises:
        OutputError: a file cannot be written.
    """
    make: dict[ResultFormat, Callable[[], ResultFile]] = {
        "json": lambda: JsonFile(output, images, categories),
        "csv": lambda: CsvFile(output / CSV_FILE, images),
        "panoptic": lambda: PanopticFiles(output / PANOPTIC_FILE, images, categories),
        "yolo": lambda: YoloFiles(output / LABELS, images, categories),
        "images": lambda: DrawnImages(output, images),
        "crops": lambda: Crops(output / CROPS, images, categories),
    }
    with ExitStack() as stack:
        files: list[ResultFile] = []
        for file in (*(make[each]() for each in dict.fromkeys(formats)), *more):
            stack.callback(file.finish)
            files.append(file)
        yield files


def result_places(output: Path, formats: Sequence[ResultFormat]) -> list[Path]:
    """Where the results of each format are: a file, or the folder of several."""
    where: dict[ResultFormat, Path] = {
        "json": output / JSON_FILE,
        "csv": output / CSV_FILE,
        "panoptic": output / PANOPTIC_FILE,
        "yolo": output / LABELS,
        "images": output,
        "crops": output / CROPS,
    }
    return [where[each] for each in dict.fromkeys(formats)]


def replaced_results(output: Path, formats: Sequence[ResultFormat], images: Sequence[Path]) -> list[str]:
    """Notes on files and folders of an earlier run: which are replaced, and what stays; to be said before a new one.

    Args:
        output: the folder for the results.
        formats: those that will be written.
        images: all images that will be looked at.
    """
    there = [str(path) for path in result_places(output, formats) if path != output and path.exists()]
    if "images" in formats:
        drawn = sum((output / name).exists() for name in output_names(images))
        there += [f"{counted(drawn, 'picture')} with boxes"] if drawn else []
    notes = []
    if there:
        notes.append(f"There are results of an earlier run ({', '.join(there)}); files of the same names are replaced.")
    return notes + _earlier_crops(output / CROPS, renewed="crops" in formats)


def _earlier_crops(folder: Path, *, renewed: bool) -> list[str]:
    """A note on objects of an earlier run, which are replaced only where an object of the same class and rank is found in their image."""
    if not any(map(is_drawing, folder.glob("*/*"))):
        return []
    if renewed:
        return [f"Nothing is deleted in {folder}, so it may also have objects that only the earlier run found."]
    return [f"{folder} stays as it is, with objects of an earlier run."]
