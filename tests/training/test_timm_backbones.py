"""Training with a network of timm as the backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from training.small_runs import SMALL, run
from training.test_starting import resolved

import detrkit
from detrkit.backbones import build_backbone
from detrkit.checkpoints.published import imagenet_offer
from detrkit.errors import ConfigurationError
from detrkit.models.catalog import CATALOG
from detrkit.training import dry_run
from detrkit.training.pieces import BACKBONE_COSTS, BACKWARD, count_cost, step_memory
from detrkit.training.starting import missing_offer

BACKBONE = "timm/test_resnet"
SETTINGS = {**SMALL["settings"], "backbone": BACKBONE}


def test_a_run_starts_from_a_file_of_timm(digits_folder: Path, tmp_path: Path) -> None:
    network, file = timm.create_model("test_resnet"), tmp_path / "timm.safetensors"
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, file)
    result, text = run(digits_folder, tmp_path / "run", steps=2, settings=SETTINGS, backbone_weights=str(file))
    assert f"Starts from the backbone's weights in {file}; everything else at random." in text.replace("\n", " ")
    model = detrkit.load(result.folder)
    assert model.card.config["backbone"] == BACKBONE
    assert (model.card.preprocessing.mean, model.card.preprocessing.deviation) == ((0.5,) * 3, (0.5,) * 3)
    trained = load_file(result.folder / "last.safetensors")
    assert torch.equal(trained["backbone.net.bn1.running_mean"], weights["bn1.running_mean"])
    assert torch.equal(trained["backbone.net.bn1.weight"], weights["bn1.weight"])
    moved = (trained["backbone.net.conv1.0.weight"] - weights["conv1.0.weight"]).abs().max()
    assert 0 < moved < 0.01  # it began there, and has learned


def test_what_timm_offers_is_downloaded_as_other_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DETRKIT_CACHE", str(tmp_path))
    offer = imagenet_offer("timm/resnet50.a1_in1k-c4")
    assert offer is not None
    assert offer.address == "https://huggingface.co/timm/resnet50.a1_in1k/resolve/main/model.safetensors"
    assert (offer.file, offer.licence) == ("timm-resnet50.a1_in1k.safetensors", "apache-2.0")
    assert offer.what == "pretrained weights of timm/resnet50.a1_in1k"
    chosen = resolved("detr-r50", settings={"backbone": "timm/resnet50.a1_in1k"})
    assert chosen.weights == "backbone"
    assert missing_offer(chosen) == offer
    (tmp_path / offer.file).touch()
    assert missing_offer(chosen) is None


def test_a_network_without_published_weights_starts_at_random() -> None:
    assert imagenet_offer("timm/convnextv2_small") is None
    assert resolved("detr-r50", settings={"backbone": "timm/convnextv2_small"}).weights == "none"
    with pytest.raises(
        ConfigurationError, match="there are no published ImageNet weights of the backbone timm/convnextv2_sm"
    ):
        resolved("detr-r50", settings={"backbone": "timm/convnextv2_small"}, backbone_weights="imagenet")


def test_batch_norms_cannot_start_at_random(digits_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="has frozen norms, and such a backbone cannot learn from random"):
        dry_run("detr-compact", digits_folder, weights="none", **SMALL | {"settings": SETTINGS})


def test_memory_is_counted() -> None:
    own_config = CATALOG["deformable-detr-compact"].config
    config = replace(own_config, backbone="timm/test_convnext")
    before = torch.random.get_rng_state()
    memory = step_memory(config, 1, 640, 640)
    assert torch.equal(torch.random.get_rng_state(), before)
    cost = count_cost(build_backbone("timm/test_convnext"))
    assert (cost.stride, cost.parameters) == (
        32,
        sum(p.numel() for p in build_backbone("timm/test_convnext").parameters()),
    )
    more = memory - step_memory(own_config, 1, 640, 640)
    kept = (cost.bytes_per_pixel - BACKBONE_COSTS["compact"].bytes_per_pixel) * 640**2
    assert more == pytest.approx(BACKWARD * kept / 1e9, abs=0.02)
