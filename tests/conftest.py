"""Fixtures that more than one test file needs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from detrkit.data import read_digits

REPOSITORY = Path(__file__).resolve().parent.parent


def shared_folder() -> Path | None:
    """Where real data, weights and reference values lie, or None where this checkout has none."""
    folder = Path(os.environ.get("DETRKIT_SHARED", REPOSITORY.parent / "shared"))
    return folder if (folder / "golden").is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = shared_folder()
    if folder is None:
        pytest.skip("needs the shared reference data: set DETRKIT_SHARED to its folder")
    return folder


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set small enough to train on in a test: built-in digits as files in COCO's layout."""
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
