"""The lines of YOLO label files: a class and a box, or a class and an outline, as fractions of the picture.

- `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 …` for an outline, whose box is its hull; both may occur in one file. Nine numbers are an
  outline of four corners, as oriented boxes have.
- Six numbers are a box and a confidence or the number of a track, which is left out with a note. They are no outline, which has an odd
  number of numbers; and Ultralytics writes them itself (`save_conf`, tracking), so annotators who start from predictions have them.
- With `kpt_shape` in the YAML file, key points follow the box and are left out.
- Numbers up to a hundredth outside 0..1 are rounding and are clipped. More than that is an error, and if most numbers are, then their unit.
- A line that repeats the class and box of another in its file is left out, as Ultralytics does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detrkit.data.findings import Changes, Faults, Note, Sentence
from detrkit.data.text_files import read_lines
from detrkit.data.wording import agreeing, counted, have, some_of, were
from detrkit.errors import DataError

_TOLERANCE = 0.01  # by which a fraction may leave 0..1 through rounding
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_ENOUGH = 4  # boxes from which on another meaning of the four numbers can be told
_FEW, _FAR = 2, 0.05  # so many boxes tell it, too, if they leave their picture by so much
_PERCENT_LIMIT = 100 * (1 + _TOLERANCE)
_LARGE, _LARGER = (
    202,
    404,
)  # pixels: pictures in which it is hardly a chance that all numbers lie in the first 100 pixels: in large ones
_MANY_NUMBERS = 80  # so many numbers, in larger ones any
_NAMES_SHOWN = 5
_SENTENCES: dict[str, Sentence] = {
    "clipped": lambda number, first: (
        f"{counted(number, 'line')} {have(number)} numbers that leave 0..1 by no more than a hundredth; they were clipped (the first: {first})."
    ),
    "sixth number": lambda number, first: (
        f"{counted(number, 'line')} {have(number)} a sixth number, a confidence or the number of a track, which was left out (the first: {first})."
    ),
    "key points": lambda number, first: (
        f"{counted(number, 'line')} {have(number)} key points, which were left out (the first: {first})."
    ),
    "repeated": lambda number, first: (
        f"{counted(number, 'line')} {agreeing(number, 'repeats another line of its file', 'repeat another line of their file')} and "
        f"{were(number)} left out (the first: {first})."
    ),
    "no area": lambda number, first: (
        f"{counted(number, 'box', 'boxes')} {have(number)} no area and {were(number)} left out (the first: {first})."
    ),
}

Box = tuple[float, float, float, float]
Extent = tuple[float, float]  # the largest number for x and for y


@dataclass(frozen=True)
class LabelledObject:
    """One line of a label file.

    Attributes:
        number: of its class.
        box_xywh: left, top, width and height as fractions of the picture.
        area: of the outline if the line has one, otherwise of the box, as a fraction of the picture.
    """

    number: int
    box_xywh: Box
    area: float


@dataclass
class _Units:
    """How many numbers there are and how many are too large for fractions, over a whole split."""

    numbers: int = 0
    beyond: int = 0
    largest: float = 0.0
    first: str = ""
    _extents: dict[int, Extent] = field(default_factory=dict)

    def count(self, coordinates: Sequence[float], file_number: int, where: str) -> None:
        """Adds the numbers of one line, x and y in turn, of the label file with this number."""
        beyond = [number for number in coordinates if number > 1 + _TOLERANCE]
        if beyond and not self.beyond:
            self.first = where
        self.numbers += len(coordinates)
        self.beyond += len(beyond)
        self.largest = max(self.largest, *coordinates)
        width, height = self._extents.get(file_number, (0.0, 0.0))
        self._extents[file_number] = (max(width, *coordinates[::2]), max(height, *coordinates[1::2]))

    def check(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Nothing, unless most numbers are too large for fractions.

        Args:
            sizes: height and width of the picture of each label file.

        Raises:
            DataError: they are; the message says what they may be, and the remedy.
        """
        if self.beyond <= self.numbers / 2:
            return
        percent, pixels = self._may_be_percent(sizes), self._may_be_pixels(sizes)
        if percent and pixels:
            meaning = "percent or pixels"
            remedy = "divide them by 100 if they are percent, and by the picture's width and height if they are pixels"
        elif percent:
            meaning, remedy = "percent", "divide them by 100"
        else:
            meaning, remedy = "pixels", "divide them by the picture's width and height"
        raise DataError(
            f"{self.first} has numbers above 1, as most of the labels have ({self.beyond} of {self.numbers} numbers): they are {meaning}, "
            f"not fractions of the picture; {remedy}."
        )

    def _may_be_percent(self, sizes: Sequence[tuple[int, int]]) -> bool:
        if self.largest > _PERCENT_LIMIT:
            return False
        # In pictures of fewer than 100 pixels, percent shows by numbers that are no pixels.
        return min(max(size) for size in sizes) > _PERCENT_LIMIT or self.largest > 50 or not self._fit(sizes)

    def _may_be_pixels(self, sizes: Sequence[tuple[int, int]]) -> bool:
        if self.largest > _PERCENT_LIMIT:
            return True
        smallest = min(max(size) for size in sizes)
        by_chance = smallest <= _LARGE or (smallest <= _LARGER and self.numbers < _MANY_NUMBERS)
        return by_chance and self._fit(sizes)

    def _fit(self, sizes: Sequence[tuple[int, int]]) -> bool:
        """Whether the numbers of every file are pixels of its picture; one more is rounding."""
        return all(
            extent[0] <= sizes[number][1] + 1 and extent[1] <= sizes[number][0] + 1
            for number, extent in self._extents.items()
        )


@dataclass(frozen=True)
class _OtherMeaning:
    """What the numbers of boxes may be instead of centre and size.

    Attributes:
        words: what they would be.
        leaving: how far boxes leave their pictures as they are, and where they are; at least one.
        total: the number of all boxes, which would all lie inside.
    """

    words: str
    leaving: list[tuple[float, str]]
    total: int

    @property
    def is_sure(self) -> bool:
        """Whether it is more than chance: most boxes leave their pictures, and they are many or leave them by far."""
        far = [overhang for overhang, _ in self.leaving if overhang > _FAR - 1e-9]
        is_most = 2 * len(self.leaving) > self.total
        return is_most and (len(self.leaving) >= _ENOUGH or (len(far) >= _FEW and 2 * len(far) > self.total))

    def refusal(self) -> DataError:
        return DataError(
            f"{self.leaving[0][1]} and others ({some_of(len(self.leaving), self.total, 'box', 'boxes')}) leave their pictures, but would lie inside if "
            f"the numbers were {self.words}: YOLO's are the centre, width and height; export the labels again, or clip the boxes if they do "
            "reach beyond their pictures."
        )

    def doubt(self) -> str:
        number = len(self.leaving)
        verb = agreeing(number, "leaves its picture", "leave their pictures")
        note = (
            f"{some_of(number, self.total, 'box', 'boxes')} {verb}, but would lie inside if the numbers were {self.words} (the first: "
            f"{self.leaving[0][1]}); that may be chance, so all were read as YOLO's centre, width and height."
        )
        return Note(note, "perhaps corners", count=number, files=[_file(where) for _, where in self.leaving])


@dataclass
class LabelReader:
    """Reads the label files of one split; at the end, `check` raises what cannot be used and `notes` says what was changed.

    Attributes:
        names: the classes by their numbers.
        key_points: how many numbers for key points follow the box; 0 for none.
        source: what gives the names, for messages.
    """

    names: dict[int, str]
    key_points: int
    source: Path
    _faults: Faults = field(default_factory=Faults)
    _changes: Changes = field(default_factory=Changes)
    _units: _Units = field(default_factory=_Units)
    _centred: list[tuple[Box, str]] = field(default_factory=list)
    _files: int = 0

    def read(self, file: Path) -> list[LabelledObject]:
        """The objects of a label file that can be used, in the order of its lines; faults are kept for `check`."""
        objects: list[LabelledObject] = []
        seen: set[tuple[int, Box]] = set()
        for line_number, line in enumerate(_lines(file, self._faults), start=1):
            if not line or line.isspace():
                continue
            where = f"{file}, line {line_number}"
            numbers = self._numbers(line, where)
            found = self._object(numbers, where) if numbers else None
            if found is None:
                continue
            key = (found.number, found.box_xywh)
            if key in seen:
                self._changes.add("repeated", where, str(file))
            elif min(found.box_xywh[2:]) <= 0:
                self._changes.add("no area", where, str(file))
            else:
                objects.append(found)
            seen.add(key)
        self._files += 1
        return objects

    def check(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Nothing, if every line could be used.

        Args:
            sizes: height and width of the picture of each file that was read, in that order.

        Raises:
            DataError: the numbers have another unit or meaning, or lines are wrong; the message names the first and counts them.
        """
        self._units.check(sizes)
        self._faults.check()
        meaning = self._other_meaning()
        if meaning is not None and meaning.is_sure:
            raise meaning.refusal()

    def notes(self) -> list[str]:
        """What was changed, in plain sentences."""
        return self._changes.notes(_SENTENCES)

    def doubts(self) -> list[str]:
        """A sentence if boxes may be meant otherwise than they were read, but too few say so."""
        meaning = self._other_meaning()
        return [] if meaning is None else [meaning.doubt()]

    def _numbers(self, line: str, where: str) -> list[float] | None:
        """The numbers of a line, however they are separated; None if there is something else, which is a fault."""
        try:
            numbers = [float(word) for word in line.split()]
        except ValueError:
            words = _words(line)
            try:
                numbers = [float(word) for word in words]
            except ValueError:
                word = next(word for word in words if not _is_number(word))
                what = "class" if word == words[0] else "number"
                self._faults.add(
                    "text", where, f"has the {what} {word!r}: write the number of the class and fractions."
                )
                return None
        if not all(map(math.isfinite, numbers)):
            self._faults.add(
                "not finite", where, f"is {line.strip()[:60]!r}, which is not finite: correct or remove it."
            )
            return None
        return numbers

    def _object(self, numbers: list[float], where: str) -> LabelledObject | None:
        """The object of a line; None where something is wrong, which is kept as a fault."""
        coordinates = self._coordinates(numbers, where)
        if coordinates is None:
            return None
        self._units.count(coordinates, self._files, where)
        if not self._is_class(numbers[0], where):
            return None
        if min(coordinates) < 0 or max(coordinates) > 1:
            if not self._is_rounding(coordinates, numbers, where):
                return None
            coordinates = [min(max(number, 0.0), 1.0) for number in coordinates]
        if len(coordinates) == 4:
            center_x, center_y, width, height = coordinates
            box = (center_x - width / 2, center_y - height / 2, width, height)
            self._centred.append(((center_x, center_y, width, height), where))
            return LabelledObject(int(numbers[0]), box, width * height)
        xs, ys = coordinates[::2], coordinates[1::2]
        box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        return LabelledObject(int(numbers[0]), box, _outline_area(xs, ys) or box[2] * box[3])

    def _coordinates(self, numbers: list[float], where: str) -> list[float] | None:
        """The numbers of the box or the outline; None if their count fits neither."""
        count = len(numbers)
        if self.key_points and count == 5 + self.key_points:
            self._changes.add("key points", where, _file(where))
            return numbers[1:5]
        if count == 5 or (count >= 7 and count % 2 == 1 and not self.key_points):
            return numbers[1:]
        if count == 6 and not self.key_points:
            sixth = numbers[5]
            if 0 <= sixth <= 1 or (sixth > 0 and sixth.is_integer()):
                self._changes.add("sixth number", where, _file(where))
                return numbers[1:5]
            sentence = (
                f"has the sixth number {sixth:g}, neither a confidence nor the number of a track: export oriented boxes as four corners, "
                "or leave it out."
            )
            self._faults.add("sixth", where, sentence)
            return None
        sentence = (
            f"has {count} numbers: a box has 5 (class, centre x, centre y, width, height), an outline the class and pairs of at least three "
            "corners, and key points need their kpt_shape in the YAML file"
        )
        if self.key_points:
            sentence = (
                f"has {count} numbers: with this kpt_shape a line has {5 + self.key_points}, or 5 without key points"
            )
        self._faults.add("count", where, f"{sentence}; correct or remove it.")
        return None

    def _is_class(self, number: float, where: str) -> bool:
        if number in self.names:  # 3.0 is 3
            return True
        if not number.is_integer():
            self._faults.add("class", where, f"has the class {number:g}: give a whole number.")
            return False
        known = ", ".join(f"{key} {name}" for key, name in list(self.names.items())[:_NAMES_SHOWN])
        known += f", … up to {max(self.names)}" if len(self.names) > _NAMES_SHOWN else ""
        sentence = f"has the class {number:.0f}, which {self.source} does not name ({known}): correct the line, or add the name."
        self._faults.add("class", where, sentence)
        return False

    def _is_rounding(self, coordinates: Sequence[float], numbers: Sequence[float], where: str) -> bool:
        """Whether numbers outside 0..1 are so only by rounding; otherwise they are a fault."""
        worst = max(coordinates, key=lambda number: abs(number - 0.5))
        if -_TOLERANCE <= worst <= 1 + _TOLERANCE:
            self._changes.add("clipped", where, _file(where))
            return True
        sentence = f"has the number {worst:g} outside 0..1: give fractions of the picture's width and height."
        if len(coordinates) > 4 and _look_like_key_points(numbers):
            sentence = f"has {len(numbers)} numbers that look like a box and key points: write their kpt_shape into the YAML file."
        self._faults.add("outside", where, sentence)
        return False

    def _other_meaning(self) -> _OtherMeaning | None:
        """What the four numbers may be instead of centre and size, if some boxes leave their pictures and none would by that meaning."""
        leaving = [(_overhang(box), where) for box, where in self._centred if _overhang(box) > _TOLERANCE + 1e-9]
        boxes = [box for box, _ in self._centred]
        meanings = {
            "left, top, right, bottom": lambda box: box[2] > box[0] and box[3] > box[1],
            "left, top, width, height": lambda box: max(box[0] + box[2], box[1] + box[3]) <= 1 + _TOLERANCE,
        }
        fitting = [words for words, fits in meanings.items() if all(map(fits, boxes))] if leaving else []
        return _OtherMeaning(" or ".join(fitting), leaving, len(boxes)) if fitting else None


def class_numbers(files: Collection[Path]) -> set[int]:
    """The classes that occur in label files; lines without one are ignored, reading the file names them."""
    numbers = set()
    for file in files:
        for line in _lines(file, Faults()):
            word = next(iter(_words(line)), "")
            if _is_number(word) and float(word).is_integer() and float(word) >= 0:
                numbers.add(int(float(word)))
    return numbers


def _lines(file: Path, faults: Faults) -> list[str]:
    try:
        return read_lines(file)
    except DataError as error:
        faults.add("unreadable", str(file), str(error).removeprefix(f"{file} "))
        return []


def _words(line: str) -> list[str]:
    """What stands between blanks, commas and semicolons; a comma inside a number is a decimal point."""
    words = line.split()
    with_comma = [word for word in words if "," in word]
    if len(words) > 1 and with_comma and "." not in line and all(map(_DECIMAL_COMMA.fullmatch, with_comma)):
        return [word.replace(",", ".") for word in words]
    return line.replace(",", " ").replace(";", " ").split()


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _outline_area(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The area inside an outline."""
    following = zip(xs, ys, [*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=True)
    return abs(sum(x * next_y - next_x * y for x, y, next_x, next_y in following)) / 2


def _look_like_key_points(numbers: Sequence[float]) -> bool:
    """Whether triples with a visibility of 0, 1 or 2 follow a box, and some point is visible."""
    visible = numbers[7::3]
    return (len(numbers) - 5) % 3 == 0 and 2 in visible and all(number in (0, 1, 2) for number in visible)


def _overhang(box_cxcywh: Box) -> float:
    """By how much a box leaves its picture, as a fraction of it; below 0 inside."""
    center_x, center_y, width, height = box_cxcywh
    low, high = min(center_x - width / 2, center_y - height / 2), max(center_x + width / 2, center_y + height / 2)
    return max(-low, high - 1)


def _file(where: str) -> str:
    """The file of a place such as "a.txt, line 3"."""
    return where.rpartition(", line ")[0]
