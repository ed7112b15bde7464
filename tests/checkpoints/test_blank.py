"""Models that are loaded draw no random values, and have every value that was saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import detrkit
from detrkit.checkpoints.blank import WithoutRandomValues
from detrkit.models.catalog import CATALOG, FAMILIES

SMALLEST = {
    family: min(
        (name for name, entry in CATALOG.items() if entry.family == family),
        key=lambda name: (CATALOG[name].config.width, CATALOG[name].config.backbone != "compact"),
    )
    for family in FAMILIES
}


@pytest.mark.parametrize("variant", SMALLEST.values())
def test_loading_draws_nothing_and_gives_everything(variant: str, tmp_path: Path) -> None:
    model = detrkit.build(variant, classes=["cat", "dog"])
    path = detrkit.save(model, tmp_path / "model.safetensors")
    before = torch.get_rng_state()
    loaded = detrkit.load(path)
    assert torch.equal(torch.get_rng_state(), before)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}  # also those that are not saved
    found = {**dict(loaded.named_parameters()), **dict(loaded.named_buffers())}
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("variant", ["detr-compact", "deformable-detr-compact"])
def test_authors_files_neither(variant: str, tmp_path: Path) -> None:
    model = detrkit.build(variant, classes=["cat", "dog"])
    content = detrkit.checkpoints.to_official(model.state_dict(), model)
    torch.save({"model": content}, tmp_path / "authors.pth")
    before = torch.get_rng_state()
    loaded = detrkit.load(tmp_path / "authors.pth", variant=variant)
    assert torch.equal(torch.get_rng_state(), before)
    state = loaded.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_only_draws_are_left_out() -> None:
    layer = nn.Linear(3, 4)
    weight = layer.weight.detach().clone()
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    with WithoutRandomValues():
        nn.init.xavier_uniform_(layer.weight)
        nn.init.kaiming_normal_(layer.weight)
        nn.init.constant_(layer.bias, 3.0)
        nn.MultiheadAttention(8, 2)
        nn.Embedding(3, 4)
        nn.init.trunc_normal_(torch.zeros(3))
    assert torch.equal(layer.weight, weight)
    assert layer.bias.tolist() == [3.0] * 4
    assert torch.equal(torch.rand(2), expected)
