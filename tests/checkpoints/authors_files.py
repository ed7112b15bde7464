"""Files as the authors write them, for tests of tables: whole ones from the reference data, and hollow ones of small models."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detrkit.checkpoints import load, to_official
from detrkit.errors import CheckpointError
from detrkit.models.catalog import build
from detrkit.models.detector import Detector

SMALL = {"width": 64, "hidden": 48, "attention_heads": 4, "encoder_layers": 1, "decoder_layers": 2, "queries": 6}


def manifest_of(shared: Path, case: str) -> dict[str, Any]:
    return dict(json.loads((shared / "golden" / case / "manifest.json").read_text()))


def published(shared: Path, case: str) -> dict[str, Tensor]:
    """The authors' names and shapes; each tensor is full of a number of its own that is stored once, and aliases are equal."""
    manifest = manifest_of(shared, case)
    weights = {
        name: torch.full((1,) * len(shape), float(index)).expand(shape)
        for index, (name, shape) in enumerate(manifest["tensors"].items())
    }
    if "refpoint_embed.weight" in weights:  # whose columns have two places
        weights["refpoint_embed.weight"] = torch.randn(weights["refpoint_embed.weight"].shape)
    return weights | {alias: weights[name] for alias, name in manifest["aliases"].items()}


def skeleton(variant: str, **changes: Any) -> Detector:
    """A model without memory for its weights: names and shapes only."""
    with torch.device("meta"):
        return build(variant, **changes)


def hollow(variant: str, **changes: Any) -> dict[str, Tensor]:
    """A whole model under the authors' names; all its zeros share one stored number, so that the file is tiny."""
    model = skeleton(variant, **{**SMALL, **changes})
    zero = torch.zeros(())
    return {name: zero.expand(tensor.shape) for name, tensor in to_official(model.state_dict(), model).items()}


def write(path: Path, weights: dict[str, Tensor], **arguments: Any) -> Path:
    """A file such as the authors' training code writes."""
    torch.save({"model": weights, "args": argparse.Namespace(**arguments), "epoch": 49}, path)
    return path


def complaint(path: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path, **options)
    return str(caught.value)


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name
