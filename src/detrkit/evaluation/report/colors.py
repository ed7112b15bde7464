"""Colours that colour-blind people can tell apart; the first four have enough contrast on white and on dark paper."""

from __future__ import annotations

# Okabe and Ito's palette without black and yellow: 0 blue, 1 vermilion, 2 green, 3 purple, 4 orange, 5 sky blue.
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Colour is never the only difference: lines also differ in dashes and markers.
LINE_STYLES = ("solid", (0, (5, 2)), (0, (1, 1.3)), (0, (6, 2, 1, 2)), (0, (9, 3)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")

# Stand for the page's own colours of text and paper; SVG charts get them from the page, light or dark.
INK, PAPER = "#1F2328", "#FEFEFE"

# Drawn on photos: bright enough for black text.
CORRECT = "#3FC79A"
MISSED = "#F0E442"
WRONG_CLASS = "#E69F00"
WRONG_PLACE = "#56B4E9"
WRONG_BOTH = "#FFFFFF"
DUPLICATE = "#E08BC0"
BACKGROUND = "#F0641E"
MISTAKEN = "#B8A8FF"
NEUTRAL = "#B4BAC0"


def line_color(number: int) -> str:
    """The colour of the line with this number."""
    return LINE_COLORS[number % len(LINE_COLORS)]


def line_style(number: int) -> str | tuple[int, tuple[float, ...]]:
    """The dashes of the line with this number."""
    return LINE_STYLES[number % len(LINE_STYLES)]
