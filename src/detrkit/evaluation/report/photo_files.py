"""A photo of a report as one picture: its caption above, and below it what the colours of its boxes stand for."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from detrkit.evaluation.report.colors import INK
from detrkit.prediction.drawing import captioned, contact_sheet

_PAPER = "#FFFFFF"
_MOST_LINES = 3  # of a caption; one that names every kind of error needs them


def sheet(
    images: Sequence[Image.Image], labels: Sequence[str], caption: str, key: Sequence[tuple[str, str]]
) -> Image.Image:
    """Images beside each other, each below its label, with caption and legend.

    Args:
        images: one or more.
        labels: a few words for each image.
        caption: of all of them.
        key: colours (as "#RRGGBB") and their meanings; may be empty.
    """
    named = [captioned(image, label) for image, label in zip(images, labels, strict=True)]
    whole = captioned(contact_sheet(named, width=named[0].width, columns=len(named)), caption, lines=_MOST_LINES)
    if not key:
        return whole
    strip = legend_strip(key, whole.width, size=max(12, images[0].width // 36))
    framed = Image.new("RGB", (whole.width, whole.height + strip.height), _PAPER)
    framed.paste(whole, (0, 0))
    framed.paste(strip, (0, whole.height))
    return framed


def legend_strip(key: Sequence[tuple[str, str]], width: int, *, size: int) -> Image.Image:
    """A legend of as many lines as it needs.

    Args:
        key: colours and their meanings.
        width: of the strip in pixels.
        size: of the letters in pixels.
    """
    font, gap = ImageFont.load_default(size), size // 2
    places: list[tuple[int, int]] = []
    left, top = gap, gap
    for _, meaning in key:
        needed = round(font.getlength(meaning)) + 2 * size + gap
        if left > gap and left + needed > width:
            left, top = gap, top + 2 * size
        places.append((left, top))
        left += needed + gap
    strip = Image.new("RGB", (width, top + size + gap), _PAPER)
    draw = ImageDraw.Draw(strip)
    for (color, meaning), (left, top) in zip(key, places, strict=True):
        draw.rectangle((left, top, left + size, top + size), fill=color, outline=INK)
        draw.text((left + size + gap, top + size // 2), meaning, fill=INK, font=font, anchor="lm")
    return strip
