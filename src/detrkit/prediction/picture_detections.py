"""supervision's detections that know their picture: their `repr` is a line, and notebooks show the picture with its boxes."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from PIL import Image

from detrkit.data.images import to_pil
from detrkit.data.wording import counted
from detrkit.errors import DataError
from detrkit.notebooks import shown, table
from detrkit.prediction.quiet_supervision import sv

if TYPE_CHECKING:
    from detrkit.prediction.streaming import Picture

_NAMED = 5  # detections in a `repr`
_SIDES = (480, 1000)  # pixels of the longer side in a notebook: at least, so that labels can be read, and at most
_SHEET, _COLUMN = 12, 320  # pictures on a sheet, and pixels of the width of each


class PictureDetections(sv.Detections):
    """The detections of one picture, with all that `supervision.Detections` has.

    A part of them (`found[found.confidence > 0.5]`) knows the picture, too; what supervision makes of them otherwise does not, nor do copies
    and pickles. A picture that was given by its file name is read again when it is shown. Another one is kept as long as this object is:
    `without_picture` lets go of it.
    """

    _open: Callable[[], Image.Image] | None = None

    @classmethod
    def of(cls, detections: sv.Detections, opened: Callable[[], Image.Image] | None = None) -> Self:
        """Detections with their picture.

        Args:
            detections: boxes in pixels of the picture, `class_id`, `data["class_name"]` and, for predictions, `confidence`.
            opened: gives the picture in RGB; None where it is not known.
        """
        known = cls(**{field.name: getattr(detections, field.name) for field in dataclasses.fields(sv.Detections)})
        known._open = opened
        return known

    @classmethod
    def in_picture(cls, detections: sv.Detections, picture: Picture, *, stretch_16bit: bool) -> Self:
        """The same with a picture as a predictor takes it."""
        return cls.of(detections, partial(to_pil, picture, stretch_16bit=stretch_16bit))

    def without_picture(self) -> Self:
        """The same detections, which do not keep the picture in memory."""
        return self.of(self)

    def plot(self) -> Image.Image:
        """The picture with its boxes, in its own size.

        Raises:
            DataError: the picture is not known, or cannot be read any more.
        """
        from detrkit.prediction.drawing import draw  # not above: most detections are not drawn

        return draw(self._picture(), self)

    def _picture(self) -> Image.Image:
        if self._open is None:
            raise DataError(
                "These detections do not know their picture: use detrkit.prediction.draw(picture, detections)."
            )
        return self._open()

    def __getitem__(self, index: Any) -> Any:
        """Some of the detections, or the values in `data` under a name."""
        part = super().__getitem__(index)
        return self.of(part, self._open) if isinstance(part, sv.Detections) else part

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles have."""
        return {**self.__dict__, "_open": None}

    def __repr__(self) -> str:
        names = self._labels()
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        found = f": {', '.join(names[:_NAMED])}{more}" if names else ""
        return f"<{type(self).__name__} {counted(len(self), 'detection')}{found}>"

    def _labels(self) -> list[str]:
        from detrkit.prediction.drawing import labels_of

        return [" ".join(label.split()) for label in labels_of(self)]

    def _repr_jpeg_(self) -> bytes | None:
        """What notebooks show: the picture with its boxes; nothing where it is not known or gone, which `_repr_html_` makes up for."""
        try:
            return jpeg_of(self._picture(), self)
        except DataError:
            return None

    def _repr_html_(self) -> str | None:
        """What notebooks show where there is no picture: a table. Of two forms they would show this one alone."""
        try:
            self._picture()
        except DataError:
            scores = [None] * len(self) if self.confidence is None else map(float, self.confidence)
            names = self.data.get("class_name", self.class_id if self.class_id is not None else [""] * len(self))
            rows = [
                (str(name), score, *map(float, box))
                for name, score, box in zip(names, scores, self.xyxy.tolist(), strict=True)
            ]
            boxes = table(("class", "score", "left", "top", "right", "bottom"), rows) if rows else ""
            return shown(counted(len(self), "detection"), boxes)
        return None


class DetectionsOfPictures(list[PictureDetections]):
    """The detections of several pictures: a list, which notebooks show as one sheet of pictures."""

    def __repr__(self) -> str:
        found = counted(sum(map(len, self)), "detection")
        return f"<{type(self).__name__} {counted(len(self), 'picture')}, {found}>"

    def _repr_jpeg_(self) -> bytes | None:
        """What notebooks show: the first twelve pictures with their boxes; nothing where one is gone."""
        from detrkit.prediction.drawing import captioned, contact_sheet

        try:
            cells = [_enlarged(each._picture(), each, _COLUMN, _COLUMN) for each in self[:_SHEET]]
        except DataError:
            return None
        if not cells:
            return None
        sheet = contact_sheet(cells, width=_COLUMN, columns=min(len(cells), 3))
        if len(self) > _SHEET:
            sheet = captioned(sheet, f"the first {_SHEET} of {len(self)} pictures")
        return _jpeg(sheet)


def jpeg_of(picture: Image.Image, detections: sv.Detections) -> bytes:
    """A picture with its boxes in a size that suits a notebook, as a JPEG file.

    Args:
        picture: in RGB.
        detections: boxes in its pixels.
    """
    return _jpeg(_enlarged(picture, detections, *_SIDES))


def _enlarged(picture: Image.Image, detections: sv.Detections, least: int, most: int) -> Image.Image:
    """The picture, resized so that its longer side is within limits, with its boxes."""
    from detrkit.prediction.drawing import draw, resized

    longer = max(picture.size)
    scale = min(max(longer, least), most) / longer
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    if scale == 1:
        return draw(picture, detections)
    return draw(picture.resize(size, Image.Resampling.BICUBIC), resized(detections, scale, size))


def _jpeg(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=85)
    return content.getvalue()
