"""Tensors out of weight files of any layout, without ever running what a file says."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from detrkit.errors import CheckpointError

# Where files that hold more than weights keep them.
_WEIGHT_ENTRIES = ("model", "state_dict", "model_state_dict")


@dataclass(frozen=True)
class WeightFile:
    """What was found in a file.

    Attributes:
        path: the file.
        tensors: by the names of whoever wrote it.
        metadata: the JSON header's texts of a safetensors file.
        arguments: options that the training code stored beside the weights, or the settings in a `config.json` beside the file.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: str | Path) -> WeightFile:
    """Reads a `.safetensors` file, or a `.pth` / `.pt` / `.bin` file that holds tensors and plain values only.

    Raises:
        CheckpointError: the file is missing, damaged, holds no tensors, or holds objects that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no weight file {path}: check the path")
    try:
        return _read_safetensors(path) if _looks_like_safetensors(path) else _read_torch(path)
    except OSError as problem:
        raise CheckpointError(f"{path} cannot be read ({problem.strerror or problem}): check its rights") from problem


def _looks_like_safetensors(path: Path) -> bool:
    """The format begins with eight bytes of length and then the JSON header's brace, whatever the file's name."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or start[8:] == b"{"


def _read_safetensors(path: Path) -> WeightFile:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as problem:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({problem}): copy or download it again"
        ) from problem
    if not tensors:
        raise CheckpointError(f"{path} holds no weights: give a file with a model's tensors")
    return WeightFile(path, tensors, metadata, {} if "detrkit" in metadata else _settings_beside(path))


def _read_torch(path: Path) -> WeightFile:
    damaged = f"{path} is damaged or not a weight file: copy or download it again"
    if not _looks_like_torch(path):
        raise CheckpointError(damaged)
    try:
        # The authors' training files keep their options as a namespace, which is as harmless as a dictionary.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # whatever the parser stumbles over is the file's fault
        if isinstance(problem, pickle.UnpicklingError) and "GLOBAL" in str(problem):
            raise CheckpointError(
                f"{path} holds Python objects besides tensors, which could run code when loaded: keep the weights alone in it, "
                "with torch.save({'model': model.state_dict()}, file)"
            ) from problem
        raise CheckpointError(damaged) from problem
    return WeightFile(path, _weights_in(path, content), {}, _arguments_in(content) or _settings_beside(path))


def _looks_like_torch(path: Path) -> bool:
    """Torch writes a zip archive, or in its old format a pickle."""
    with path.open("rb") as file:
        return file.read(4).startswith((b"PK\x03\x04", b"\x80"))


def _weights_in(path: Path, content: Any) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for entry in _WEIGHT_ENTRIES:
            if isinstance(content.get(entry), Mapping):
                content = content[entry]
                break
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors and all(name.startswith("module.") for name in tensors):  # as DistributedDataParallel names them
            return {name.removeprefix("module."): value for name, value in tensors.items()}
        if tensors:
            return tensors
    raise CheckpointError(f"{path} holds no weights: expected tensors by name, alone or under 'model' or 'state_dict'")


def _arguments_in(content: Any) -> dict[str, Any]:
    arguments = content.get("args") if isinstance(content, Mapping) else None
    if isinstance(arguments, argparse.Namespace):
        return vars(arguments)
    return dict(arguments) if isinstance(arguments, Mapping) else {}


def _settings_beside(path: Path) -> dict[str, Any]:
    """Hugging Face keeps a model's settings in a file beside its weights."""
    file = path.with_name("config.json")
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise CheckpointError(f"{file} is not whole JSON ({problem}): copy or download it again") from problem
    return settings if isinstance(settings, dict) else {}
