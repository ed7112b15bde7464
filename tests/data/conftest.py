"""Fixtures of the tests of data sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coco_files import Contents, write_pictures

from detrkit.data import DetectionDataset, read_coco

Read = Callable[..., DetectionDataset]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Writes contents, and three pictures of the size they state unless there are some, and reads them."""

    def write_and_read(contents: Contents, **options: Any) -> DetectionDataset:
        if not list(tmp_path.rglob("*.png")):
            first = contents["images"][0]
            write_pictures(tmp_path, ["1.png", "2.png", "3.png"], (first["width"], first["height"]))
        (tmp_path / "truth.json").write_text(json.dumps(contents))
        return read_coco(tmp_path / "truth.json", tmp_path, **options)

    return write_and_read
