"""What people give in place of a detector's weight file, and what to give instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from detrkit.checkpoints.names import by_prefix
from detrkit.models.listing import listed_variants

if TYPE_CHECKING:
    from torch import Tensor

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_WEIGHTS = "give the .safetensors or .pth file"
_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\x00", b"MM\x00*")
_LONGEST_START = 40
# A tensor that only this network has, in the names of torchvision.
_NETWORKS = {
    "layer1.0.conv1.weight": "ResNet",
    "features.1.conv.0.0.weight": "MobileNetV2",
    "features.3.squeeze.weight": "SqueezeNet",
}


def no_such_file(given: str, path: Path) -> str:
    """Why there is no weight file under a name, as a sentence.

    Args:
        given: the name as it was given.
        path: the same with the user's folder in the place of `~`.
    """
    if re.match(r"https?:/", given):
        address = re.sub(r"^(https?:)/+", r"\1//", given)
        return f"{address} is an address, and detrkit downloads only what it lists itself: download the file and give its path"
    variants = listed_variants()
    if given in variants:
        return (
            f"'{given}' is the name of a variant, but a weight file is needed: give one that training wrote, or that was downloaded "
            "(`detrkit models` lists the addresses of published ones)"
        )
    if given in {variant.family for variant in variants.values()}:
        return f"'{given}' is the name of a family of models, but a weight file is needed: give one that training wrote, or that was downloaded"
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    names = sorted(each.name for each in beside if each.suffix in WEIGHT_SUFFIXES or each.is_dir())
    similar = difflib.get_close_matches(path.name, names, n=1, cutoff=0.8)
    return f"there is no weight file {path}: " + (f"did you mean '{similar[0]}'?" if similar else "check the path")


def no_weights_in(folder: Path, looked_for: tuple[str, ...]) -> str:
    """Why a folder stands for no model, as a sentence.

    Args:
        folder: an existing folder.
        looked_for: names of the files that would make it stand for one.
    """
    runs = sorted(
        each.name for each in folder.iterdir() if each.is_dir() and any((each / name).is_file() for name in looked_for)
    )
    if runs:
        return f"{folder} holds {len(runs)} folders with models: give one of them, such as {folder / runs[0]}"
    return f"{folder} is a folder without {', '.join(looked_for[:-1])} or {looked_for[-1]}: give a weight file"


def mistaken_file(path: Path) -> str | None:
    """What a file is that holds no weights of PyTorch, and the remedy, as a sentence; None if it is none of the usual mistakes."""
    with path.open("rb") as file:
        start = file.read(_LONGEST_START)
    suffix = path.suffix.lower()
    if suffix in _PICTURE_SUFFIXES or start.startswith(_PICTURE_STARTS):
        return f"{path} is a picture, and a model is needed: {_WEIGHTS} of one, on the command line before the pictures"
    if start.startswith(b"version https://git-lfs"):
        return f"{path} only says where Git LFS keeps the file: fetch it with `git lfs pull`, or download it"
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return f"{path} is a web page, not the file that it leads to: download the weights themselves"
    if suffix == ".onnx":
        return f"{path} is an ONNX model, and detrkit builds its models from weights of PyTorch: {_WEIGHTS} that it was made from"
    if suffix == ".json":
        return f"{path} is a JSON file, and weights are needed: {_WEIGHTS} of a model"
    return None


def other_network(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the network for classifying images that weights belong to, as torchvision names it; None if they are of another."""
    for level in by_prefix(tensors):
        for name, network in _NETWORKS.items():
            if name in level:
                return network
    return None
