"""Files of trained weights that others offer: where they are, what they are called in the cache, and how they are checked."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from detrkit.backbones.timm_networks import PREFIX, pretrained_settings
from detrkit.cards import PublishedWeights
from detrkit.models.catalog import find_variant

# Google shows a page before it gives a large file, so only a browser gets it.
_BY_HAND = ("drive.google.com",)
# torchvision's first ImageNet weights of each network, those that the papers began with. Names end with what the SHA-256 begins with.
_TORCHVISION = "https://download.pytorch.org/models/"
_IMAGENET = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "mobilenet_v2": "mobilenet_v2-b0353104.pth",
}
_HUB_FILE = "model.safetensors"  # in each of timm's repositories on the Hugging Face hub
_CHECKSUM = re.compile("-([0-9a-f]{8,})$")  # at the end of the name of a file of timm's that is elsewhere


@dataclass(frozen=True)
class Offer:
    """A file of weights that others offer.

    Attributes:
        what: what it holds, in words that follow "the".
        address: where it is offered.
        file: its name in the cache.
        licence: SPDX name of its licence.
        sha256_prefix: what its SHA-256 begins with, in hexadecimal; None where its authors publish nothing of it.
    """

    what: str
    address: str
    file: str
    licence: str
    sha256_prefix: str | None = None

    @property
    def downloadable(self) -> bool:
        """Whether a program can download it."""
        return urlsplit(self.address).hostname not in _BY_HAND


def imagenet_offer(backbone: str) -> Offer | None:
    """ImageNet weights of a backbone; None for one that has no such file. Of timm's networks the weights that timm offers, on whatever images.

    Args:
        backbone: a name as `build_backbone` takes it; `-c4` and `-dc5` take the weights of the plain network, and
            `-caffe`, which is another network, has none.

    Raises:
        ConfigurationError: timm has no such network or weights, or is needed and not installed.
    """
    if backbone.startswith(PREFIX):
        return _timm_offer(backbone)
    network, _, form = backbone.partition("-")
    if network not in _IMAGENET or form == "caffe":
        return None
    file = _IMAGENET[network]
    prefix = PurePosixPath(file).stem.rpartition("-")[2]
    return Offer(f"ImageNet weights of {network}", _TORCHVISION + file, file, "BSD-3-Clause", prefix)


def _timm_offer(backbone: str) -> Offer | None:
    settings = pretrained_settings(backbone)
    name = ".".join(part for part in (settings.architecture, settings.tag) if part)
    what, licence = f"pretrained weights of {PREFIX}{name}", settings.license or "its licence is not stated"
    if settings.hf_hub_id:
        from huggingface_hub import hf_hub_url  # a dependency of timm

        repository, _, revision = settings.hf_hub_id.partition("@")
        file = settings.hf_hub_filename or _HUB_FILE
        address = hf_hub_url(repository, file, revision=revision or None)
        return Offer(what, address, f"timm-{name}{PurePosixPath(file).suffix}", licence)
    if not isinstance(settings.url, str) or not settings.url:
        return None
    file = PurePosixPath(urlsplit(settings.url).path).name
    checksum = _CHECKSUM.search(PurePosixPath(file).stem)
    return Offer(what, settings.url, file, licence, None if checksum is None else checksum[1])


def coco_offer(variant: str) -> Offer | None:
    """The best COCO weights that the authors of a variant published; None where they published none.

    Raises:
        ConfigurationError: there is no such variant.
    """
    published = find_variant(variant).weights
    if not published:
        return None
    best: PublishedWeights = published[-1]
    tag = f", {best.tag}" if best.tag else ""
    offer = Offer(
        f"COCO weights of {variant} (AP {best.ap:.3f}{tag})",
        best.address,
        PurePosixPath(urlsplit(best.address).path).name,
        best.licence,
        best.sha256_prefix,
    )
    # Addresses for browsers do not end with the name of a file.
    return offer if offer.downloadable else replace(offer, file=f"{variant}.pth")
