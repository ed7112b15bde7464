"""Figures as SVG that takes the colours and the typeface of its page, and as PNG."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, StringIO
from typing import Any

import matplotlib
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from detrkit.evaluation.report.colors import INK, PAPER

CHART_WIDTH = 5.0  # inches of a chart: so narrow that its text can be read on a phone
_TEXT = 10.0  # points
_LONGEST_NAME = 26
_SCREEN = 100  # pixels per inch in a notebook,
_COLORS = 128  # and how many colours lines and letters have there


class ShownFigure(Figure):
    """A figure that notebooks show; others they show only if `matplotlib.pyplot` is in use."""

    def _repr_png_(self) -> bytes:
        return small_png_of(self)


def chart(height: float = 3.4, *, width: float = CHART_WIDTH) -> Figure:
    """An empty figure.

    Args:
        height: in inches.
        width: in inches.
    """
    return ShownFigure(figsize=(width, height), layout="constrained", facecolor="none")


def on_white(figure: Figure) -> Figure:
    """The same figure on white, for whoever shows or saves it: its ink is dark, and a notebook may be dark, too."""
    figure.set_facecolor("white")
    return figure


def finish(axes: Axes, horizontal: str, vertical: str) -> None:
    """The look that all charts share: labels, a faint grid, no box around."""
    axes.set_xlabel(horizontal, fontsize=_TEXT, color=INK)
    axes.set_ylabel(vertical, fontsize=_TEXT, color=INK)
    axes.tick_params(labelsize=_TEXT - 1, colors=INK)
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.grid(color=INK, alpha=0.15)
    axes.set_axisbelow(True)


def legend(axes: Axes, **options: Any) -> None:
    """A legend without a frame, if there is anything to name."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=_TEXT - 1, labelcolor=INK, **options)


def plain(name: str, longest: int = _LONGEST_NAME) -> str:
    """A name as it is written in a chart: on one line, shortened, and without the meaning that "$" and a first "_" have for matplotlib."""
    name = " ".join(name.split())
    name = name if len(name) <= longest else f"{name[: longest - 1]}…"
    name = name.replace("$", r"\$")
    return f"\N{NO-BREAK SPACE}{name}" if name.startswith("_") else name  # legends leave out what begins with "_"


def png_of(figure: Figure, dpi: int = 150) -> bytes:
    """A figure as PNG on white, sharp in print.

    Args:
        figure: is drawn.
        dpi: pixels per inch.
    """
    buffer = BytesIO()
    with _without_warnings():
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def small_png_of(figure: Figure) -> bytes:
    """A figure for the screen, with few colours: a third of the bytes, which notebooks store."""
    buffer = BytesIO()
    with Image.open(BytesIO(png_of(figure, dpi=_SCREEN))) as picture:
        picture.convert("RGB").quantize(_COLORS).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def svg_of(figure: Figure, name: str, words: str) -> str:
    """A figure as an SVG element whose text is text, in the page's typeface, and whose ink and paper are the page's.

    Args:
        figure: drawn with `INK` and `PAPER` where the page's colours are meant.
        name: unique on the page, since parts of an SVG refer to each other by id.
        words: what the figure shows, for people who cannot see it.
    """
    text = StringIO()
    with _without_warnings(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
    svg = _opening(float(width), float(height), words) + svg[svg.index(">") + 1 :]
    svg = re.sub(r'<g id="(?!choice-)[^"]*">', "<g>", svg)  # not referred to, and the same in every chart
    svg = re.sub(r"font-family: [^;\"]+;?", "", svg)
    svg = re.sub(INK, "currentColor", svg, flags=re.IGNORECASE)
    svg = re.sub(PAPER, "var(--ground)", svg, flags=re.IGNORECASE)
    svg = re.sub(r'\b(?:d|x|y|transform)="[^"]*"', _rounded, svg).replace("xlink:href", "href")
    return re.sub(r"\s*\n\s*", "\n", svg)


def _opening(width: float, height: float, words: str) -> str:
    # A CSS pixel is 3/4 of a point.
    return (
        f'<svg role="img" aria-label="{escape(words)}" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width: {width / 0.75:.0f}px; aspect-ratio: {width:g} / {height:g}">'
    )


def _rounded(attribute: re.Match[str]) -> str:
    """An attribute with coordinates, to a tenth of a point, below which nothing can be seen."""
    return re.sub(r"(\d\.\d)\d+", r"\1", attribute[0])


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silences the warning that a typeface lacks letters of a name: browsers have them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield
