"""Explanations as one interactive HTML file that loads nothing else: a reader chooses detection, layer and head, and reads weights under the pointer."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from PIL import Image

from detrkit.errors import ConfigurationError
from detrkit.evaluation.report.colors import LINE_COLORS
from detrkit.explaining.missed import Answers, ObjectAnswer
from detrkit.explaining.records import (
    ExplainedQuery,
    Explanation,
    Floats,
    LayerLook,
    LayerPrediction,
    Maps,
    Points,
    Start,
)
from detrkit.files import write_text

PAGE = "explanation.html"
LARGEST_FILE = 5_000_000  # bytes
# Longest side in pixels and quality of photos, best first: the first with which the page is small enough is taken.
_PHOTOS = ((1280, 85), (960, 75), (640, 65), (480, 50))


def write_page(path: Path, pictures: Sequence[tuple[str, Explanation | Answers]]) -> tuple[Path, int]:
    """Writes the page, of as many pictures as five megabytes have room for; one that alone is too large is left out where there are others.

    Args:
        path: the file.
        pictures: the name of each picture, and its explanation, or what became of its objects; all of one kind.

    Returns:
        The file, and how many of the pictures it shows.

    Raises:
        ConfigurationError: each picture would be too much, although its photo is small; then an earlier file is gone, too.
        OutputError: the file cannot be written.
    """
    everything = [(explanation, _picture(name, explanation)) for name, explanation in pictures]
    shown = everything
    page = _page(shown)
    if not _fits(page):  # which pictures do so alone?
        shown = [each for each in shown if _fits(_page([each]))]
        if not shown:
            path.unlink(missing_ok=True)  # it would be of other pictures
            size = len(_page(everything[:1]).encode()) / 1e6
            raise ConfigurationError(
                f"the page of {pictures[0][0]} would have {size:.1f} MB, more than {LARGEST_FILE / 1e6:g}: choose layers or heads"
            )
        while not _fits(page := _page(shown)):
            shown = shown[: (len(shown) + 1) // 2] if len(shown) > 2 else shown[:1]
    return write_text(path, page), len(shown)


def _fits(page: str) -> bool:
    return len(page.encode()) <= LARGEST_FILE


def _page(shown: Sequence[tuple[Explanation | Answers, dict[str, Any]]]) -> str:
    """The page of some pictures, with photos as large as there is room for, or else with the smallest ones.

    Args:
        shown: the explanation of each picture, and all that the page has of it but its photo.
    """
    page = ""
    for side, quality in _PHOTOS:
        contents = [{**content, **_photo(explanation.picture, side, quality)} for explanation, content in shown]
        page = _rendered(*_words(shown[0][0]), contents)
        if _fits(page):
            break
    return page


def _words(shown: Explanation | Answers) -> tuple[str, str]:
    """The title, and what is said of a picture that has nothing to choose from."""
    if isinstance(shown, Answers):
        return f"What became of the objects, and where {shown.variant} looked", "No object is annotated in this picture"
    return f"Where {shown.variant} looked", "Nothing is found in this picture"


def _rendered(title: str, nothing: str, contents: list[dict[str, Any]]) -> str:
    """The file's text."""
    loader = PackageLoader("detrkit.explaining", "")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)

    def part(name: str) -> Markup:
        return Markup(loader.get_source(environment, name)[0])

    data = json.dumps(
        {"pictures": contents, "colors": LINE_COLORS, "nothing": nothing}, separators=(",", ":"), allow_nan=False
    )
    return environment.get_template("page.html.jinja").render(
        title=title,
        subtitle="Attention says where a layer took something from, not what it made of it.",
        note="Layers, heads, levels, queries and detections are counted from 0, detections in the order of their scores; one that is missing here is "
        "not reported, since its score is below the threshold of its class. Places are in pixels of the original picture.",
        style=part("page.css"),
        script=part("page.js"),
        data=Markup(data.replace("<", "\\u003c")),  # so that no name can end the element
    )


def _picture(name: str, shown: Explanation | Answers) -> dict[str, Any]:
    """All of a picture but its photo."""
    names = [category.name for category in shown.categories]
    if isinstance(shown, Answers):
        subjects = [_object(number, answer, names) for number, answer in enumerate(shown.objects)]
    else:
        subjects = _subjects(shown, names)
    return {"name": name, "width": shown.picture.width, "height": shown.picture.height, "subjects": subjects}


def _object(number: int, answer: ObjectAnswer, names: Sequence[str]) -> dict[str, Any]:
    """An annotated object, and the query that found it or came nearest; of a class that the model does not know, the object alone."""
    query: dict[str, Any] = {"looked_in": "decoder", "predictions": [], "looks": []}
    if answer.explained is not None:
        query = _query(answer.explained, names)
        for prediction, iou in zip(query["predictions"], answer.ious.tolist(), strict=True):
            prediction["iou"] = iou
    said = {"name": f"object {number}, {answer.category}: {answer.verdict.reason}", "said": answer.sentence}
    return {**query, **said, "object": _numbers(answer.box_xyxy)}


def _subjects(explanation: Explanation, names: Sequence[str]) -> list[dict[str, Any]]:
    """The queries and the place that were asked for."""
    subjects = [_query(query, names) for query in explanation.queries]
    if explanation.place is not None:
        x, y = explanation.place.xy
        for token in explanation.place.tokens:
            level = "" if token.level is None else f" of level {token.level}"
            subjects.append(
                {
                    "name": f"the token{level} at {x:g}, {y:g}",
                    "looked_in": "encoder",
                    "xy": _numbers(token.xy),
                    "predictions": [],
                    "looks": [_look(look) for look in token.looks],
                }
            )
    return subjects


def _query(query: ExplainedQuery, names: Sequence[str]) -> dict[str, Any]:
    which = "" if query.detection is None else f"detection {query.detection}, "
    return {
        "name": f"{names[query.label]} {query.score:.2f} ({which}query {query.query})",
        "looked_in": query.looked_in,
        "predictions": [_prediction(each, query.label, names) for each in query.predictions],
        "looks": [_look(look) for look in query.looks],
        "start": None if query.start is None else _start(query.start),
    }


def _prediction(prediction: LayerPrediction, label: int, names: Sequence[str]) -> dict[str, Any]:
    """What a layer said: its best class, with the score of the one that is explained beside it if that is another."""
    best = prediction.label
    other = "" if best == label else f" ({names[label]} {prediction.scores[label]:.2f})"
    return {
        "label": f"{names[best]}{other}",
        "score": float(prediction.scores[best]),
        "box": _numbers(prediction.box_xyxy),
        "reference": None if prediction.reference is None else _numbers(prediction.reference),
    }


def _start(start: Start) -> dict[str, Any]:
    return {
        "level": start.level,
        "xy": _numbers(start.xy),
        "cell": None if start.cell_xyxy is None else _numbers(start.cell_xyxy),
        "box": None if start.box_xyxy is None else _numbers(start.box_xyxy),
    }


def _look(look: LayerLook) -> dict[str, Any]:
    return {
        "layer": look.layer,
        "heads": list(look.heads),
        "seen": None if look.seen is None else _seen(look.seen),
        "gaussian": None if look.gaussians is None else _seen(look.gaussians),
        "salient": None if look.salient is None else _numbers(look.salient.xy),
    }


def _seen(seen: Maps | Points) -> dict[str, Any]:
    """Cells or points; weights are in 255ths of each head's largest one."""
    if isinstance(seen, Maps):
        heads = np.concatenate([each.reshape(len(each), -1) for each in seen.weights], axis=1)
        return {"levels": list(seen.levels), "sizes": [list(each.shape[1:]) for each in seen.weights], **_packed(heads)}
    levels = None if seen.levels is None else seen.levels.tolist()
    return {"xy": _numbers(seen.xy), "point_levels": levels, **_packed(seen.weights)}


def _packed(weights: Floats) -> dict[str, Any]:
    """(M, N) weights as bytes in base64 for each head, and what 255 of them stands for."""
    largest = weights.max(axis=1, initial=1e-12)
    shares = np.round(weights / largest[:, None] * 255).astype(np.uint8)
    return {
        "weights": [base64.b64encode(head.tobytes()).decode("ascii") for head in shares],
        "largest": [float(f"{value:.6g}") for value in largest],
    }


def _numbers(values: Floats) -> Any:
    """Places to a tenth of a pixel."""
    return np.round(values.astype(np.float64), 1).tolist()


def _photo(picture: Image.Image, side: int, quality: int) -> dict[str, Any]:
    """The photo, made smaller if it is larger than a side."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=quality)
    return {"photo": f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"}
