"""What one XML file of a Pascal VOC data set says about its picture.

Tags count in any case and namespace. Only objects directly below the annotation are objects; the parts of an object are not. A polygon is
used only for an object that has no `bndbox`. The encoding is the one that the file declares or whose byte order mark it begins with,
otherwise UTF-8.
"""

from __future__ import annotations

import codecs
import math
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

from detrkit.errors import DataError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DECLARED = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""")
_DIFFICULT, _NOT_DIFFICULT = ("1", "true", "yes"), ("", "0", "false", "no", "unspecified")


@dataclass(frozen=True)
class VocObject:
    """One object as its file describes it.

    Attributes:
        name: of its class.
        corners: xmin, ymin, xmax, ymax as the file has them: pixels count from 1, and both corners belong to the box. They are decimal
            numbers, so that subtracting the first pixel's 1 loses nothing.
        difficult: whether it is marked so.
        from_polygon: whether the corners are those of a polygon, for want of a box.
        decimal_commas: whether a corner is written with a comma instead of a point.
    """

    name: str
    corners: tuple[Decimal, Decimal, Decimal, Decimal]
    difficult: bool
    from_polygon: bool = False
    decimal_commas: bool = False

    @property
    def has_area(self) -> bool:
        """Whether its corners differ in x and in y; otherwise it is a click without a drag."""
        left, top, right, bottom = self.corners
        return left != right and top != bottom

    @property
    def is_swapped(self) -> bool:
        """Whether it has an area and xmin is above xmax or ymin above ymax."""
        left, top, right, bottom = self.corners
        return self.has_area and (left > right or top > bottom)

    @property
    def box_xyxy(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels that count from 0, with swapped corners swapped back."""
        left, top, right, bottom = self.corners
        return (
            float(min(left, right) - 1),
            float(min(top, bottom) - 1),
            float(max(left, right)),
            float(max(top, bottom)),
        )


@dataclass(frozen=True)
class Annotation:
    """What an annotation file says about its image.

    Attributes:
        file_name: of the picture, often from another computer; empty if it is not given.
        height: of the picture, or None if the size is not given or 0.
        width: the same.
        objects: in the order of the file.
    """

    file_name: str
    height: int | None
    width: int | None
    objects: tuple[VocObject, ...]


def read_annotation(file: Path) -> Annotation:
    """Reads one file.

    Raises:
        DataError: it cannot be read or parsed, or an object has no name or no upright box.
    """
    root = _parsed(file)
    objects = tuple(_read_object(each, number, file) for number, each in enumerate(root.findall("object"), start=1))
    return Annotation(_text(root, "filename"), *_size(root, file), objects)


class _WithoutDoctype(ElementTree.TreeBuilder):
    """Builds a tree, but refuses a DOCTYPE: it could define entities that expand without end or fetch files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:  # noqa: ARG002 - the parser passes them
        raise ValueError("it has a DOCTYPE, which annotations do not need")


def _parsed(file: Path) -> ElementTree.Element:
    """The root element, with all tags in lower case and without namespaces."""
    try:
        text = _decoded(file.read_bytes()).lstrip()
        root = ElementTree.fromstring(text, ElementTree.XMLParser(target=_WithoutDoctype()))
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): make it a readable file.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not text in {error.encoding}: save it as UTF-8, or declare its encoding.") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last: an unknown encoding
        raise DataError(f"{file} cannot be parsed ({error}): copy or export the file again.") from None
    shown = root.tag
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2].lower()
    if root.tag != "annotation":
        raise DataError(
            f"{file} holds <{shown}>, not <annotation>: export the annotations as Pascal VOC, or move it away."
        )
    return root


def _decoded(content: bytes) -> str:
    """The text of a file. Python knows more encodings than the XML parser."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    if content[:2] in (b"<\0", b"\0<"):
        return content.decode("utf-16-le" if content[:1] == b"<" else "utf-16-be")
    declared = _DECLARED.match(content.removeprefix(codecs.BOM_UTF8).lstrip())
    encoding = declared[1].decode("ascii") if declared else "utf-8"
    if content.startswith(codecs.BOM_UTF8) or encoding.lower().startswith(("utf-16", "utf16")):
        encoding = "utf-8"  # whatever it declares: a file in UTF-16 has returned above
    if encoding.lower() in ("gb2312", "gbk"):
        encoding = "gb18030"  # tools that declare the smaller sets write characters of this one
    return content.decode(encoding).removeprefix("\ufeff")


def _read_object(element: ElementTree.Element, number: int, file: Path) -> VocObject:
    name = _text(element, "name")
    if not name:
        raise DataError(f"{file}: object {number} has no name; give it one.")
    where = f"{file}: object {number} ({name})"
    boxes = [box for box in element.findall("bndbox") if len(box)]
    polygons = element.findall("polygon")
    if len(boxes) > 1:
        raise DataError(f"{where} has {len(boxes)} bndbox; make it one object for each.")
    if not boxes and element.find("robndbox") is not None:
        raise DataError(
            f"{where} has a rotated box (robndbox), but detectors here find upright ones; export bndbox instead."
        )
    if not boxes and not polygons:
        raise DataError(f"{where} has no bndbox; give it one with {', '.join(_CORNERS)}.")
    if boxes:
        texts = [_text(boxes[0], corner) for corner in _CORNERS]
        left, top, right, bottom = (
            _number(text, f"bndbox/{corner}", where) for text, corner in zip(texts, _CORNERS, strict=True)
        )
    else:
        (left, right), (top, bottom), texts = _polygon_range(polygons, where)
    return VocObject(
        name,
        (left, top, right, bottom),
        _is_difficult(_text(element, "difficult"), where),
        from_polygon=not boxes,
        decimal_commas=any("," in text for text in texts),
    )


def _polygon_range(
    polygons: list[ElementTree.Element], where: str
) -> tuple[tuple[Decimal, Decimal], tuple[Decimal, Decimal], list[str]]:
    """The smallest and largest x and y of polygons, whose points tools write as x1, y1, x2, … or as elements with x and y; and their texts."""
    texts: dict[str, list[str]] = {"x": [], "y": []}
    for element in (inner for polygon in polygons for inner in polygon.iter()):
        if re.fullmatch(r"[xy]\d*", element.tag):
            texts[element.tag[0]].append((element.text or "").strip())
    if len(texts["x"]) < 2 or len(texts["x"]) != len(texts["y"]):
        raise DataError(
            f"{where} has neither a bndbox nor a polygon with an x and a y for each point; give it one of them."
        )
    values_x, values_y = ([_number(text, f"polygon/{axis}", where) for text in texts[axis]] for axis in ("x", "y"))
    return (min(values_x), max(values_x)), (min(values_y), max(values_y)), texts["x"] + texts["y"]


def _is_difficult(text: str, where: str) -> bool:
    word = text.lower()
    number = _as_number(word)
    if word in _DIFFICULT or number == 1:
        return True
    if word in _NOT_DIFFICULT or number == 0:
        return False
    raise DataError(f"{where} has difficult {text!r}; give 0 or 1.")


def _size(root: ElementTree.Element, file: Path) -> tuple[int | None, int | None]:
    """Height and width; tools write 0 or nothing for an unknown size."""
    texts = [_text(root, f"size/{side}") for side in ("height", "width")]
    height, width = (
        round(_number(text, f"size/{side}", str(file))) if text else 0
        for text, side in zip(texts, ("height", "width"), strict=True)
    )
    return (height, width) if height and width else (None, None)


def _text(element: ElementTree.Element, path: str) -> str:
    """The text of an element below, without blanks around it; empty if there is none."""
    return (element.findtext(path) or "").strip()


def _number(text: str, what: str, where: str) -> Decimal:
    value = _as_number(text)
    if value is None:
        raise DataError(
            f"{where} has the {what} {text!r}; give a number of pixels."
            if text
            else f"{where} has no {what}; give a number of pixels."
        )
    return value


def _as_number(text: str) -> Decimal | None:
    """A finite number, which may have a decimal comma."""
    if "_" in text:  # Python allows it inside numbers
        return None
    try:
        value = Decimal(text.replace(",", ".", 1))
    except InvalidOperation:
        return None
    return value if value.is_finite() and math.isfinite(float(value)) else None
