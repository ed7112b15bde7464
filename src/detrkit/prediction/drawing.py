"""Detections drawn on pictures, beside the ground truth, and many pictures on one sheet."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detrkit.data.dataset import DetectionDataset
from detrkit.data.masks import Axis
from detrkit.prediction.labels import draw_labels
from detrkit.prediction.mask_drawing import paint_masks
from detrkit.prediction.picture_detections import PictureDetections
from detrkit.prediction.quiet_supervision import sv

BACKGROUND = (255, 255, 255)
INK = (255, 255, 255)  # of labels
CAPTION = (60, 60, 60)
# Colours of the classes, by id; neighbours in the list differ clearly. Dark enough for white text, light enough for dark photos.
COLORS = sv.ColorPalette.from_hex(
    [
        "#D6336C",
        "#1971C2",
        "#2B8A3E",
        "#D9480F",
        "#7048E8",
        "#0B7285",
        "#A61E4D",
        "#5F7A00",
        "#364FC7",
        "#8F5A00",
        "#9C36B5",
        "#087F5B",
    ]
)


def draw(image: Image.Image, detections: sv.Detections) -> Image.Image:
    """A copy of a picture with each detection as a box, or as a mask where there are masks, and a label such as "dog 0.87".

    Lines and text grow with the picture. A class has the same colour in every picture. No label covers another: letters are smaller in dense
    pictures, and boxes without room for a label show their class by their colour alone.

    Args:
        image: in any mode.
        detections: boxes in pixels of the image, `class_id`, `data["class_name"]` and, for predictions, `confidence`; masks have the size of
            the image.
    """
    scene = image.convert("RGB")  # always a copy
    side = (scene.width * scene.height) ** 0.5
    thickness = max(2, round(side / 280))
    fills = _colors(detections)
    if detections.mask is None:
        _draw_boxes(scene, detections, thickness)
    else:
        worst_first = slice(None, None, -1)  # so that the best lie above the others
        paint_masks(scene, np.asarray(detections.mask)[worst_first], fills[worst_first], thickness=thickness)
    surest = np.arange(len(detections)) if detections.confidence is None else np.argsort(-detections.confidence)
    texts = labels_of(detections)
    draw_labels(
        scene,
        detections.xyxy[surest],
        [texts[place] for place in surest],
        [fills[place] for place in surest],
        ink=INK,
        size=max(10, round(side / 44)),
    )
    return scene


def _draw_boxes(scene: Image.Image, detections: sv.Detections, thickness: int) -> None:
    """Boxes with their lines centred on the edges. supervision's annotator converts whole pictures to OpenCV's form and back for this."""
    canvas, outwards = ImageDraw.Draw(scene), (thickness - 1) // 2
    boxes = detections.xyxy.astype(int).tolist()
    for (left, top, right, bottom), color in zip(boxes, _colors(detections), strict=True):
        edges = (left - outwards, top - outwards, max(left, right) + outwards, max(top, bottom) + outwards)
        canvas.rectangle(edges, outline=color, width=thickness)


def _colors(detections: sv.Detections) -> list[tuple[int, int, int]]:
    """The colour of each detection, that of its class."""
    classes = np.arange(len(detections)) if detections.class_id is None else detections.class_id
    return [COLORS.by_idx(int(class_id)).as_rgb() for class_id in classes]


def resized(detections: sv.Detections, scale: float, size: tuple[int, int]) -> sv.Detections:
    """Detections in a picture that was resized.

    Args:
        detections: in pixels of the original.
        scale: what the picture was multiplied with.
        size: its new width and height.
    """
    mask = None if detections.mask is None else np.asarray(detections.mask, dtype=np.bool_)
    if mask is not None:
        width, height = size
        rows = np.arange(height) * mask.shape[1] // height
        columns = np.arange(width) * mask.shape[2] // width
        mask = mask[:, rows[:, None], columns]
    return dataclasses.replace(detections, xyxy=detections.xyxy * scale, mask=mask)


def truth_of(dataset: DetectionDataset, index: int) -> PictureDetections:
    """The annotated objects of an image, which notebooks show with the image; the names of crowd regions end in "(crowd)".

    Masks are among them where the data set was opened with masks.

    Args:
        dataset: the data set that contains the image.
        index: position of the image in the data set.

    Raises:
        DataError: a mask cannot be read.
    """
    height, width = dataset.sizes[index].tolist()
    return PictureDetections.of(truth_at(dataset, index, (width, height)), partial(dataset.image, index))


def truth_at(dataset: DetectionDataset, index: int, size: tuple[int, int]) -> sv.Detections:
    """The same in a picture of another size. Masks are decoded at that size, so large photos with many objects take little memory.

    Args:
        dataset: the data set that contains the image.
        index: position of the image in the data set.
        size: width and height of the picture.

    Raises:
        DataError: a mask cannot be read.
    """
    objects = dataset.objects(index)
    (width, height), (own_height, own_width) = size, dataset.sizes[index].tolist()
    categories = [dataset.categories[label] for label in objects.labels]
    names = [
        f"{entry.name} (crowd)" if crowd else entry.name for entry, crowd in zip(categories, objects.crowd, strict=True)
    ]
    masks = None
    if objects.masks is not None:
        rows, columns = Axis.whole(own_height).resized(height), Axis.whole(own_width).resized(width)
        masks = objects.masks.picked(rows.picked(), columns.picked())
    return sv.Detections(
        xyxy=objects.boxes_xyxy.reshape(-1, 4) * np.array([width / own_width, height / own_height] * 2),
        mask=masks,
        class_id=np.array([category.id for category in categories], dtype=np.int64),
        data={"class_name": np.array(names, dtype=str)},
    )


def labels_of(detections: sv.Detections) -> list[str]:
    """The label of each box: the class name, and the score if there is one."""
    names = [str(name) for name in detections.data.get("class_name", ())]
    if detections.confidence is None:
        return names
    return [f"{name} {score:.2f}" for name, score in zip(names, detections.confidence, strict=True)]


def side_by_side(
    image: Image.Image, predictions: sv.Detections, truth: sv.Detections, *, width: int = 640
) -> Image.Image:
    """Predictions on the left, ground truth on the right, each under its caption.

    Args:
        image: in any mode.
        predictions: boxes in pixels of the image.
        truth: boxes in pixels of the image.
        width: of each half in pixels; small pictures are enlarged to it, so that labels can be read.
    """
    scale = width / image.width
    size = (width, max(1, round(image.height * scale)))
    picture = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    halves = []
    for caption, detections in (("predictions", predictions), ("ground truth", truth)):
        caption = f"{caption}: {len(detections)}"
        halves.append(captioned(draw(picture, resized(detections, scale, size)), caption))
    return contact_sheet(halves, width=width, columns=2)


def contact_sheet(pictures: Sequence[Image.Image], *, width: int = 480, columns: int | None = None) -> Image.Image:
    """Many pictures on one sheet, row by row.

    Args:
        pictures: at least one; each is resized to the width of a column.
        width: of a column in pixels.
        columns: number of columns; by default about as many as rows.
    """
    columns = columns or int(np.ceil(np.sqrt(len(pictures))))
    gap = max(4, width // 60)
    cells = [
        picture.convert("RGB").resize((width, max(1, round(picture.height * width / picture.width))))
        for picture in pictures
    ]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new("RGB", (columns * (width + gap) - gap, sum(heights) + gap * (len(rows) - 1)), BACKGROUND)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (column * (width + gap), top))
        top += height + gap
    return sheet


def captioned(picture: Image.Image, caption: str, *, lines: int = 1) -> Image.Image:
    """A picture below its caption.

    Args:
        picture: in any mode.
        caption: the text.
        lines: at most. It has as many as the text needs; a text that is still too long loses the middle of the last one.
    """
    size = max(12, picture.width // 36)
    font, margin = ImageFont.load_default(size), size // 4
    shown = wrapped(caption, font, picture.width - 2 * margin, lines)
    step = round(1.3 * size)
    top = 2 * size + (len(shown) - 1) * step
    framed = Image.new("RGB", (picture.width, picture.height + top), BACKGROUND)
    framed.paste(picture, (0, top))
    canvas = ImageDraw.Draw(framed)
    for number, line in enumerate(shown):
        canvas.text((margin, size + number * step), line, fill=CAPTION, font=font, anchor="lm")
    return framed


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, lines: int) -> list[str]:
    """A text in lines that are at most so many pixels wide; the last one takes what is left, shortened."""
    found: list[str] = []
    words = text.split(" ")
    while len(found) < lines - 1 and font.getlength(" ".join(words)) > width:
        fitting = next((n for n in range(len(words) - 1, 0, -1) if font.getlength(" ".join(words[:n])) <= width), 1)
        found.append(_shortened(" ".join(words[:fitting]), font, width))
        words = words[fitting:]
    return [*found, _shortened(" ".join(words), font, width)] if words else found


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """A text that is at most so many pixels wide, with "…" for what had to go."""
    shown, kept = text, len(text)
    while font.getlength(shown) > width and kept > 2:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return shown
