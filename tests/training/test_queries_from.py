"""Training that starts with the queries of a trained detector."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from training.small_runs import SMALL, run

import detrkit
from detrkit.errors import CheckpointError, ConfigurationError


@pytest.mark.parametrize(
    "variant",
    ["detr-compact", "conditional-detr-compact", "dab-detr-compact", "smca-detr-compact", "sam-detr-compact"],
)
def test_queries_of_a_trained_detector_are_kept(digits_folder: Path, tmp_path: Path, variant: str) -> None:
    """Neither gradients nor weight decay change them; everything else learns."""
    torch.manual_seed(1)
    trained = detrkit.build(variant, classes=["a"], queries=8)
    detrkit.save(trained, tmp_path / "trained.safetensors")
    options = SMALL | {"settings": {"queries": 8, "learn_queries": False}, "lr": 0.1}
    result = detrkit.train(
        variant, digits_folder, output=tmp_path / "run", queries_from=str(tmp_path / "trained.safetensors"), steps=2,
        console=Console(file=io.StringIO()), **options,
    )  # fmt: skip
    kept = detrkit.load(result.folder / "last.safetensors")
    state = kept.query_source.state_dict()
    for name, value in trained.query_source.state_dict().items():
        assert torch.equal(state[name], value), name
    (_, box_head), (_, before) = kept.heads.pairs()[0], trained.heads.pairs()[0]
    assert not torch.equal(box_head.layers[0].weight, before.layers[0].weight)


@pytest.mark.parametrize(
    ("variant", "settings", "problem"),
    [
        (
            "deformable-detr-compact",
            {"queries": 8},
            r"holds a deformable-detr-compact, whose queries a detr-compact cannot take",
        ),
        ("light-detr-compact", {"queries": 8}, r"holds a light-detr-compact, whose queries"),
        ("detr-compact", {"queries": 9}, r"'position.weight' has the shape \(9, 128\) instead of \(8, 32\)"),
    ],
)
def test_queries_that_do_not_fit_are_refused(
    digits_folder: Path, tmp_path: Path, variant: str, settings: dict[str, Any], problem: str
) -> None:
    detrkit.save(detrkit.build(variant, classes=["a"], **settings), tmp_path / "trained.safetensors")
    with pytest.raises(CheckpointError, match=problem):
        run(digits_folder, tmp_path / "run", queries_from=str(tmp_path / "trained.safetensors"), steps=1)
    assert not (tmp_path / "run").exists()


def test_queries_from_takes_a_file(digits_folder: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        detrkit.train("dab-detr-compact", digits_folder, queries_from=detrkit.build("dab-detr-compact"))
    assert str(caught.value) == (
        "queries_from must be a file, not a model: save the model with detrkit.save and give its path"
    )
