"""Explanations as files: figures as PNG, numbers as JSON, large arrays as `.npz`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from detrkit.evaluation.report.drawing import png_of
from detrkit.explaining.drawing import place_figure, query_figure
from detrkit.explaining.records import Explanation, Maps, Points
from detrkit.files import write_bytes, write_json

JSON_FILE = "explanation.json"
_DPI = 130


def write_explanation(explanation: Explanation, folder: Path, name: str) -> tuple[dict[str, Any], list[Path]]:
    """Writes the figures and the arrays of one picture.

    Args:
        explanation: of the picture.
        folder: for the files.
        name: what their names begin with.

    Returns:
        The numbers for a JSON file, see `to_json`, and the files of the figures.

    Raises:
        OutputError: a file cannot be written.
    """
    numbers, arrays = to_json(explanation)
    numbers["arrays"] = write_arrays(folder / f"{name}.npz", arrays).name
    drawn = []
    for query in explanation.queries:
        ending = f"query{query.query}" if query.detection is None else f"detection{query.detection}"
        drawn.append(write_figure(folder / f"{name}_{ending}.png", query_figure(explanation, query)))
    if explanation.place is not None:
        drawn.append(write_figure(folder / f"{name}_place.png", place_figure(explanation)))
    return numbers, drawn


def write_all(folder: Path, pictures: Sequence[dict[str, Any]]) -> Path:
    """Writes the numbers of several pictures to the folder's JSON file.

    Args:
        folder: for the file.
        pictures: of each what it is called and what `write_explanation` returned.

    Raises:
        OutputError: the file cannot be written.
    """
    return write_json(folder / JSON_FILE, {"pictures": list(pictures)})


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Arrays by their names in one compressed file."""
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return write_bytes(path, buffer.getvalue())


def write_figure(path: Path, figure: Figure) -> Path:
    """A figure as PNG."""
    return write_bytes(path, png_of(figure, dpi=_DPI))


def to_json(explanation: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A record of this package as plain values, and its large arrays.

    Args:
        explanation: a record; its fields are the keys. Pictures are left out but for their size.

    Returns:
        Values for a JSON file, in which names stand for the arrays of maps and points; and the arrays by these names.
    """
    arrays: dict[str, np.ndarray] = {}
    numbers: dict[str, Any] = _plain(explanation, "", arrays)
    return numbers, arrays


def _plain(value: Any, name: str, arrays: dict[str, np.ndarray], *, large: bool = False) -> Any:
    if isinstance(value, Image.Image):
        return {"width": value.width, "height": value.height}
    if isinstance(value, np.ndarray) and large:
        arrays[name] = value
        return name
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple | list):
        return [_plain(each, f"{name}.{place}", arrays, large=large) for place, each in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        large = isinstance(value, Maps | Points)
        inner = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        return {key: _plain(each, f"{name}.{key}".lstrip("."), arrays, large=large) for key, each in inner.items()}
    return value
