"""What a report is made of, and how it becomes one HTML file that loads nothing else: it can be mailed and archived."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from PIL import Image

from detrkit.evaluation.report.drawing import png_of, svg_of
from detrkit.evaluation.report.photo_files import sheet
from detrkit.files import write_bytes, write_text
from detrkit.prediction.results import save_image

LARGEST_FILE = 5_000_000  # bytes
# What photos take of it at first: base64 makes four bytes of three, and charts and tables need room, too.
PHOTO_BYTES = 2_600_000
LARGEST_SVG = 500_000  # bytes of a chart; a larger one becomes a PNG
MISSING = "–"  # stands in a table where there is no number
# Width in pixels and quality of photos, best first: the first that fits into the limit is taken.
_PHOTO_SIZES = ((800, 82), (800, 70), (640, 70), (480, 65), (360, 55))


@dataclass(frozen=True)
class Cell:
    """A cell of a table that shows more than its text.

    Attributes:
        text: what it shows.
        share: length of a bar behind the text, in [0, 1]; None for no bar.
        order: number by which a column is sorted; None for the text.
        link: where it leads, such as a file beside the report; empty for nowhere.
    """

    text: str
    share: float | None = None
    order: float | None = None
    link: str = ""

    @property
    def key(self) -> str:
        """What its column is sorted by; empty where a number is missing."""
        if self.order is not None:
            return f"{self.order:g}"
        return "" if self.text == MISSING else self.text


@dataclass(frozen=True)
class Table:
    """A table; readers can sort it where a script may run.

    Attributes:
        columns: headings.
        rows: one cell for each column; the first names the row.
        caption: what the table shows, for people who cannot see it and those who can.
        numbers: whether all columns but the first are numbers, written flush right.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    caption: str = ""
    numbers: bool = False


@dataclass(frozen=True)
class Chart:
    """A diagram.

    Attributes:
        name: of its PNG file, without suffix; unique in a report.
        figure: what is drawn.
        words: what it shows, for people who cannot see it.
        caption: a sentence below it.
        wide: whether it needs the whole width of the page; it then scrolls sideways on a phone.
    """

    name: str
    figure: Figure
    words: str
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Chooser:
    """A chart with curves of many classes, of which a reader sees one at a time; without a script, the first.

    Attributes:
        chart: its figure has lines with the gid "choice-NUMBER-name" for each choice, counted from 0.
        label: what is chosen.
        choices: names.
        words: a sentence for each choice.
    """

    chart: Chart
    label: str
    choices: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Photo:
    """A photo, or several that belong together and stand beside each other where there is room.

    Attributes:
        name: of its file, without suffix; unique in a report.
        caption: of all of them.
        images: one or more.
        labels: a few words above each image.
        words: what each shows, for people who cannot see it.
        key: what the colours of its boxes stand for: colour (as "#RRGGBB") and meaning.
    """

    name: str
    caption: str
    images: tuple[Image.Image, ...]
    labels: tuple[str, ...]
    words: tuple[str, ...]
    key: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Tile:
    """A figure in large type.

    Attributes:
        label: above the figure.
        value: the figure.
        note: below the figure.
    """

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Tiles:
    """Figures in large type, beside each other."""

    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Points:
    """A list of sentences, each with a key word in bold type.

    Attributes:
        points: key word (may be empty) and sentence.
        kinds: for each point the severity that colours its edge ("error", "warning" or ""); empty for none.
    """

    points: tuple[tuple[str, str], ...]
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Key:
    """What colours stand for.

    Attributes:
        entries: colour (as "#RRGGBB") and meaning.
    """

    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Folded:
    """Blocks that stay hidden until a reader unfolds them; on paper they are shown."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Beside:
    """Groups of blocks that stand beside each other where there is room, and below each other on a phone."""

    columns: tuple[tuple[Block, ...], ...]


# A text is a paragraph.
Block = str | Table | Chart | Chooser | Photo | Tiles | Points | Key | Folded | Beside


@dataclass(frozen=True)
class Section:
    """A part of a report under one heading.

    Attributes:
        title: the heading.
        blocks: shown in this order; charts that follow one another stand side by side where there is room.
        short: the title in the navigation; by default the title.
    """

    title: str
    blocks: tuple[Block, ...] = ()
    short: str = ""

    @property
    def anchor(self) -> str:
        """The name for links, of letters, digits and hyphens."""
        return re.sub(r"[^a-z0-9]+", "-", (self.short or self.title).lower()).strip("-") or "section"


def write_report(path: str | Path, title: str, sections: Iterable[Section], *, subtitle: str = "") -> Path:
    """Writes a report as one self-contained HTML file of at most five megabytes, unless its tables and charts alone need more.

    Photos are made smaller, and at last left out from the end, until the file fits; a line in the report says so.

    Args:
        path: of the file.
        title: of the whole report.
        sections: its parts, in order.
        subtitle: a line below the title.

    Raises:
        OutputError: the file cannot be written.
    """
    return write_text(Path(path), page(title, sections, subtitle=subtitle))


def page(title: str, sections: Iterable[Section], *, subtitle: str = "") -> str:
    """A whole report as HTML; see `write_report`."""
    parts = _unique(list(sections))
    photos = [photo for section in parts for photo in _photos(section.blocks)]
    diagrams = {id(chart): _svg_or_png(chart) for section in parts for chart in _all_charts(section.blocks)}
    limit = PHOTO_BYTES
    while True:
        encoded = _encoded(photos, limit)
        text = _rendered(title, subtitle, parts, diagrams, encoded)
        excess = len(text.encode()) - LARGEST_FILE
        taken = sum(len(address) for addresses in encoded.values() for address in addresses)
        if excess <= 0 or not taken:
            return text
        limit = max(0, (taken - excess) * 3 // 4 - 1)  # base64 makes four bytes of three


def _rendered(
    title: str,
    subtitle: str,
    parts: Sequence[Section],
    diagrams: Mapping[int, Markup],
    photos: Mapping[int, tuple[str, ...]],
) -> str:
    """The page with these charts and addresses of photos, by their identity."""
    environment = Environment(
        loader=PackageLoader("detrkit.evaluation.report", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["svg"] = lambda chart: diagrams[id(chart)]
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["grouped"] = _grouped
    environment.filters["foldable"] = _foldable
    environment.filters["cell"] = lambda cell: cell if isinstance(cell, Cell) else Cell(cell)
    environment.filters["addresses"] = lambda photo: photos.get(id(photo), ())
    missing = sum(1 for addresses in photos.values() if not addresses)
    return environment.get_template("report.html.jinja").render(
        title=title, subtitle=subtitle, sections=parts, missing=missing
    )


def _foldable(text: str) -> Markup:
    """A text that may break behind the slashes of paths; what is copied has no break."""
    return Markup("/<wbr>").join(map(escape, re.split(r"(?<=[^\s/])/(?=[^/])", text)))


def write_charts(folder: Path, sections: Iterable[Section]) -> list[Path]:
    """Saves every chart of a report as a PNG file in a folder.

    Raises:
        OutputError: a file cannot be written.
    """
    written = []
    for section in sections:
        for chart in _charts(section.blocks):
            written.append(_write_png(folder / f"{chart.name}.png", chart.figure))
    return written


def write_photos(folder: Path, sections: Iterable[Section]) -> list[Path]:
    """Saves every photo of a report as a JPEG file in a folder; photos that belong together become one picture, with caption and legend.

    Raises:
        OutputError: a file cannot be written.
    """
    photos = [photo for section in sections for photo in _photos(section.blocks)]
    return [
        save_image(folder / f"{photo.name}.jpg", sheet(photo.images, photo.labels, photo.caption, photo.key))
        for photo in photos
    ]


def _write_png(path: Path, figure: Figure) -> Path:
    written = write_bytes(path, png_of(figure))
    figure.set_layout_engine("none")  # the page draws it again, and finding places for axes takes longer than drawing
    return written


def _unique(sections: Sequence[Section]) -> list[Section]:
    """The sections, with a number at the short titles of those whose anchor another has."""
    anchors: dict[str, int] = {}
    unique = []
    for section in sections:
        count = anchors[section.anchor] = anchors.get(section.anchor, 0) + 1
        unique.append(section if count == 1 else replace(section, short=f"{section.short or section.title} {count}"))
    return unique


def _leaves(blocks: Iterable[Block]) -> Iterator[Block]:
    """The blocks, with what is inside others in their place."""
    for block in blocks:
        if isinstance(block, Folded):
            yield from _leaves(block.blocks)
        elif isinstance(block, Beside):
            for column in block.columns:
                yield from _leaves(column)
        else:
            yield block


def _photos(blocks: Iterable[Block]) -> Iterator[Photo]:
    return (block for block in _leaves(blocks) if isinstance(block, Photo))


def _charts(blocks: Iterable[Block]) -> Iterator[Chart]:
    """Charts that make sense on paper; in that of a chooser the curves of all classes lie over each other."""
    return (block for block in _leaves(blocks) if isinstance(block, Chart))


def _all_charts(blocks: Iterable[Block]) -> Iterator[Chart]:
    for block in _leaves(blocks):
        if isinstance(block, Chart):
            yield block
        elif isinstance(block, Chooser):
            yield block.chart


def _grouped(blocks: Iterable[Block]) -> list[Block | list[Chart]]:
    """The blocks, with charts that follow one another in a list."""
    groups: list[Block | list[Chart]] = []
    for block in blocks:
        if isinstance(block, Chart) and not block.wide:
            if groups and isinstance(groups[-1], list):
                groups[-1].append(block)
            else:
                groups.append([block])
        else:
            groups.append(block)
    return groups


def _svg_or_png(chart: Chart) -> Markup:
    """The chart as inline SVG, which stays sharp and takes the page's colours; as a PNG where that would be large."""
    svg = svg_of(chart.figure, chart.name, chart.words)
    if len(svg.encode()) <= LARGEST_SVG:
        return Markup(svg)
    address = f"data:image/png;base64,{base64.b64encode(png_of(chart.figure)).decode()}"
    return Markup('<img class="diagram" alt="{}" src="{}">').format(chart.words, address)


def _encoded(photos: Sequence[Photo], limit: int) -> dict[int, tuple[str, ...]]:
    """The addresses of all photos, by the photo's identity: as large as the limit in bytes allows; empty for those left out."""
    encoded: list[list[bytes]] = []
    for width, quality in _PHOTO_SIZES:
        encoded = [[_jpeg(image, width, quality) for image in photo.images] for photo in photos]
        if sum(len(data) for group in encoded for data in group) <= limit:
            break
    addresses: dict[int, tuple[str, ...]] = {}
    used = 0
    for photo, group in zip(photos, encoded, strict=True):
        used += sum(map(len, group))
        fits = used <= limit
        addresses[id(photo)] = tuple(
            f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" for data in group if fits
        )
    return addresses


def _jpeg(image: Image.Image, width: int, quality: int) -> bytes:
    picture = image.convert("RGB")
    scale = min(1.0, width / picture.width, width / picture.height)
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = BytesIO()
    picture.save(buffer, format="JPEG", quality=quality, optimize=True, progressive=True)
    return buffer.getvalue()
