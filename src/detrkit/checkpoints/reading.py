"""Reads tensors from weight files of any layout without ever running code from a file."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from detrkit.checkpoints.mistaken import mistaken_file
from detrkit.checkpoints.names import without_wrappers
from detrkit.checkpoints.places import find_weights
from detrkit.checkpoints.plain_pickle import NumPyType, numpy_scalar, read_plain_pickle
from detrkit.errors import CheckpointError

# Where files with other content keep the weights. The running average, which authors release and evaluate, comes first: RT-DETR and its
# descendants keep it under `ema`, DINO under `ema_model`.
_WEIGHT_ENTRIES = (("ema", "module"), ("ema_model",), ("model",), ("state_dict",), ("model_state_dict",))


# Objects in authors' files that are as harmless as a dictionary: options in a namespace, paths (read as pure paths, which cannot access
# files) and NumPy scalars (read as numbers). Newer releases of Python and NumPy have moved the modules that pickles name.
_HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    *(
        (PurePosixPath, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath")
    ),
    *(
        (PureWindowsPath, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for name in ("WindowsPath", "PureWindowsPath")
    ),
    *((numpy_scalar, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")),
    (NumPyType, "numpy.dtype"),
]


@dataclass(frozen=True)
class WeightFile:
    """The content of a weight file.

    Attributes:
        path: the file.
        tensors: the tensors by their names in the file.
        metadata: the strings in the JSON header of a safetensors file, or beside the weights of another.
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
    """Reads a `.safetensors` file, or a `.pth` / `.pt` / `.bin` / `.pkl` file that holds tensors and plain values only.

    Raises:
        CheckpointError: the file is missing, damaged, holds no tensors, or holds objects that would run code.
    """
    path = find_weights(path)
    try:
        return _read_safetensors(path) if _looks_like_safetensors(path) else _read_torch(path)
    except OSError as problem:
        raise CheckpointError(
            f"{path} cannot be read ({problem.strerror or problem}): check its permissions"
        ) from problem


def check_finite(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuses weights that are no numbers, before they become the start of something.

    Args:
        path: where they come from, for the message.
        tensors: by name.

    Raises:
        CheckpointError: one of them has NaN or infinity.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(
                f"{path} has NaN or infinity in '{name}': give a checkpoint from before its training went wrong"
            )


def _looks_like_safetensors(path: Path) -> bool:
    """The format starts with the header's length in eight bytes and the JSON header's brace, whatever the file's name."""
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
            f"{path} is not a complete safetensors file ({problem}): copy or download it again"
        ) from problem
    if not tensors:
        raise CheckpointError(f"{path} holds no weights: give a file with a model's tensors")
    if "detrkit" in metadata:
        return WeightFile(path, tensors, metadata)
    return WeightFile(path, without_wrappers(tensors), metadata, _settings_beside(path))


def _read_torch(path: Path) -> WeightFile:
    damaged = f"{path} is damaged or not a weight file: copy or download it again"
    if not _looks_like_torch(path):
        raise CheckpointError(mistaken_file(path) or damaged)
    try:
        if _looks_like_plain_pickle(path):
            content = read_plain_pickle(path)
        else:
            with torch.serialization.safe_globals(_HARMLESS):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # any error of the parser means a damaged file
        if isinstance(problem, pickle.UnpicklingError) and "GLOBAL" in str(problem):
            remedy = "keep the weights alone in it, with torch.save({'model': model.state_dict()}, file)"
            if "detrkit." in str(problem):
                remedy = "write the model with detrkit.save(model, file)"
            raise CheckpointError(
                f"{path} holds Python objects besides tensors, which could run code when loaded: {remedy}"
            ) from problem
        raise CheckpointError(damaged) from problem
    texts = (
        {key: value for key, value in content.items() if isinstance(value, str)} if isinstance(content, dict) else {}
    )
    return WeightFile(path, _weights_in(path, content), texts, _arguments_in(content) or _settings_beside(path))


def _looks_like_torch(path: Path) -> bool:
    """PyTorch writes a zip archive, or a pickle in its old format."""
    with path.open("rb") as file:
        return file.read(4).startswith((b"PK\x03\x04", b"\x80"))


def _looks_like_plain_pickle(path: Path) -> bool:
    """Whether it is a pickle of other code, such as detectron2's `.pkl`: PyTorch's old format begins with a number of its own."""
    with path.open("rb") as file:
        start = file.read(4)
    return start[:1] == b"\x80" and start[2:] != b"\x8a\n"


def _weights_in(path: Path, content: Any) -> dict[str, Tensor]:
    entries = (_entry(content, names) for names in _WEIGHT_ENTRIES)
    weights = next((entry for entry in entries if entry is not None), content)
    tensors = _named_tensors(weights)
    if not tensors:
        raise CheckpointError(
            f"{path} holds no weights: expected tensors by name, alone or under 'model' or 'state_dict'"
        )
    return without_wrappers(tensors)


def _entry(content: Any, names: tuple[str, ...]) -> Mapping[Any, Any] | None:
    """The entry under these nested names, or None if it holds no tensors."""
    for name in names:
        if not isinstance(content, Mapping):
            return None
        content = content.get(name)
    return content if _named_tensors(content) else None


def _named_tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


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
        settings = json.loads(file.read_bytes())
    except ValueError as problem:
        raise CheckpointError(f"{file} is not complete JSON ({problem}): copy or download it again") from problem
    return settings if isinstance(settings, dict) else {}
