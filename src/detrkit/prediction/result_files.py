"""Files that grow with every picture: what is written stays valid and complete whenever the process ends."""

from __future__ import annotations

import csv
import io
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from PIL import Image

from detrkit.cards import Category
from detrkit.errors import OutputError
from detrkit.files import write_text
from detrkit.prediction.results import image_ids, output_names, save_image, to_entries

if TYPE_CHECKING:
    import supervision as sv

ResultFormat = Literal["json", "csv", "yolo", "images"]

JSON_FILE, CSV_FILE, LABELS, CLASSES = "detections.json", "detections.csv", "labels", "classes.txt"
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
    """

    place: int
    picture: Image.Image
    detections: sv.Detections


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
    """COCO result entries in one list: the file is a complete one after every image."""

    def __init__(self, path: Path, images: Sequence[Path]) -> None:
        self.path = path
        self._images = images
        self._ids, self._named = image_ids(images)
        self._end = 1  # where the next entry begins: behind the opening bracket
        self._file: FileIO | None = None  # an earlier file is replaced once there is a result

    def add(self, result: Result) -> None:
        """Replaces the closing bracket by the image's entries and a new one, in one write."""
        if self._file is None:
            self._file = _opened(self.path)
            self._write(b"[\n]\n", at=0)
        more = {"file_name": self._images[result.place].as_posix()} if self._named else {}
        entries = to_entries(result.detections, self._ids[result.place])
        if not entries:
            return
        text = ",\n".join(json.dumps(entry | more, allow_nan=False) for entry in entries)
        content = f"{',' if self._end > 1 else ''}\n{text}".encode()
        self._write(content + b"\n]\n", at=self._end)
        self._end += len(content)

    def finish(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, content: bytes, at: int) -> None:
        if self._file is None:
            raise ValueError(f"{self.path} is not open")
        with _written(self.path):
            self._file.seek(at)
            while content:
                content = content[self._file.write(content) :]


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
            self._file = _opened(self.path)
            rows.append(CSV_COLUMNS)
        detections, file = result.detections, self._images[result.place].as_posix()
        entries = to_entries(detections, 0)
        rows += [
            (file, name, entry["category_id"], entry["score"], *(f"{value:.9g}" for value in box))
            for entry, name, box in zip(entries, detections.data["class_name"], detections.xyxy.tolist(), strict=True)
        ]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        with _written(self.path):
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


class DrawnImages:
    """Copies of the images with their boxes, drawn and saved by threads of their own."""

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

        save_image(self.folder / self._names[result.place], draw(result.picture, result.detections))


def class_names(categories: Sequence[Category]) -> list[str]:
    """The lines of the file with the names of the classes."""
    return [" ".join(category.name.split()) for category in categories]


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
    output: Path, formats: Sequence[ResultFormat], images: Sequence[Path], categories: Sequence[Category]
) -> Iterator[list[ResultFile]]:
    """The files of all formats, open for results; at the end, also after an error, all that was added is written.

    Args:
        output: the folder for all of them.
        formats: "json", "csv", "yolo", "images".
        images: all images that will be looked at; their number and names decide ids and names of files.
        categories: the model's classes.

    Raises:
        OutputError: a file cannot be written.
    """
    make: dict[ResultFormat, Callable[[], ResultFile]] = {
        "json": lambda: JsonFile(output / JSON_FILE, images),
        "csv": lambda: CsvFile(output / CSV_FILE, images),
        "yolo": lambda: YoloFiles(output / LABELS, images, categories),
        "images": lambda: DrawnImages(output, images),
    }
    with ExitStack() as stack:
        files: list[ResultFile] = []
        for each in dict.fromkeys(formats):
            file = make[each]()
            stack.callback(file.finish)
            files.append(file)
        yield files


def result_places(output: Path, formats: Sequence[ResultFormat]) -> list[Path]:
    """Where the results of each format are: a file, or the folder of several."""
    where: dict[ResultFormat, Path] = {
        "json": output / JSON_FILE,
        "csv": output / CSV_FILE,
        "yolo": output / LABELS,
        "images": output,
    }
    return [where[each] for each in dict.fromkeys(formats)]


def replaced_results(output: Path, formats: Sequence[ResultFormat]) -> list[str]:
    """A note if files or folders of an earlier run are there, which a new one replaces; call it before."""
    there = [str(path) for path in result_places(output, formats) if path != output and path.exists()]
    if not there:
        return []
    return [f"There were results of an earlier run ({', '.join(there)}); files of the same names were replaced."]


def _opened(path: Path) -> FileIO:
    """An empty file whose writes reach the system at once."""
    with _written(path):
        return FileIO(path, "wb")


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise OutputError(
            f"{path} cannot be written ({problem.strerror or problem}): make room, or choose another --output"
        ) from problem
