"""Where published weights are, and how they are told apart."""

from __future__ import annotations

import pytest
import torch
import torchvision

from detrkit.backbones import BACKBONES
from detrkit.checkpoints.published import coco_offer, imagenet_offer
from detrkit.models.catalog import CATALOG


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2"])
def test_addresses_of_backbones_are_those_of_torchvision(name: str) -> None:
    offer = imagenet_offer(name)
    assert offer is not None
    assert offer.address == torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    assert offer.file == f"{name}-{offer.sha256_prefix}.pth"
    assert len(offer.sha256_prefix or "") == 8
    assert offer.downloadable


def test_every_backbone_is_known_to_have_weights_or_trains_without() -> None:
    for name, build in BACKBONES.items():
        with torch.device("meta"):  # without numbers
            backbone = build()
        other_network = name.endswith("-caffe")  # whose weights torchvision does not have
        assert (imagenet_offer(name) is not None) == (backbone.frozen_norms and not other_network), name
    assert imagenet_offer("resnet50-dc5") == imagenet_offer("resnet50-c4") == imagenet_offer("resnet50")


def test_files_of_different_weights_have_different_names() -> None:
    offers = {offer for name in CATALOG if (offer := coco_offer(name)) is not None}
    offers |= {offer for name in BACKBONES if (offer := imagenet_offer(name)) is not None}
    assert len({offer.file for offer in offers}) == len(offers)


def test_what_the_authors_published() -> None:
    offer = coco_offer("detr-r50")
    assert offer is not None
    assert (offer.address, offer.file, offer.sha256_prefix, offer.licence, offer.downloadable) == (
        "https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth",
        "detr-r50-e632da11.pth",
        "e632da11",
        "Apache-2.0",
        True,
    )
    by_hand = coco_offer("deformable-detr-r50")
    assert by_hand is not None
    assert (by_hand.file, by_hand.downloadable) == ("deformable-detr-r50.pth", False)
    assert coco_offer("light-detr-mobilenetv2") is None
    several = coco_offer("sam-detr-r50")
    assert several is not None
    assert several.what == "COCO weights of sam-detr-r50 (AP 0.398, 50 epochs)"
