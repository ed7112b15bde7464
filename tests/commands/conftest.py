"""A data set small enough to train on in a test: built-in digits as files in COCO's layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detrkit.data import read_digits


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    (folder / "annotations").mkdir()
    for split, count in (("train", 12), ("val", 5)):
        dataset = read_digits(split, images=count, size=64)
        content = dataset.to_coco()
        (folder / split).mkdir()
        for place, entry in enumerate(content["images"]):
            entry["file_name"] = f"{entry['id']:04d}.png"
            dataset.image(place).save(folder / split / entry["file_name"])
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder
