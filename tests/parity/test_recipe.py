"""The rule that makes weights and images from names is the one that the reference values were computed with."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity import recipe


@pytest.fixture(scope="module")
def theirs(shared: Path) -> Any:
    """The recipe beside the reference values."""
    specification = importlib.util.spec_from_file_location("golden_recipe", shared / "golden" / "recipe.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_weights_of_every_case(shared: Path, theirs: Any) -> None:
    """With sides of three at most, since the rule asks for names and numbers of axes; constants keep their shape."""
    manifests = sorted((shared / "golden").glob("*/manifest.json"))
    assert manifests
    for path in manifests:
        manifest = json.loads(path.read_text())
        if "tensors" not in manifest:  # a case of one operator
            continue
        fixed, aliases = manifest.get("fixed", {}), manifest.get("aliases", {})
        shapes = {
            key: tuple(shape) if aliases.get(key, key) in fixed else tuple(min(side, 3) for side in shape)
            for key, shape in manifest["tensors"].items()
        }
        wanted = theirs.weights(manifest | {"tensors": shapes})
        found = recipe.weights(shapes, manifest.get("scale", ()), aliases, fixed)
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            np.testing.assert_allclose(
                found[key].numpy(), value, rtol=1e-12, atol=0, err_msg=f"{path.parent.name} {key}"
            )


def test_images_and_probes(theirs: Any) -> None:
    np.testing.assert_allclose(recipe.image(1, 20, 31).numpy(), theirs.image(1, 20, 31), rtol=1e-12, atol=0)
    gradient = torch.randn(4, 5, dtype=torch.float64)
    norm, probe = recipe.norm_and_probe("head.weight", gradient)
    assert norm == pytest.approx(float(gradient.norm()), rel=1e-12)
    assert probe == pytest.approx(theirs.probe("head.weight", gradient.numpy()), rel=1e-12)
