"""Where the weights are that a user names; nothing is read here, so that a wrong path is told at once."""

from __future__ import annotations

import os
from pathlib import Path

from detrkit.errors import CheckpointError
from detrkit.files import expanded
from detrkit.models.listing import listed_variants

# What a folder is asked for: the best model of a run, and the weights of a Hugging Face repository.
_FILES_OF_FOLDERS = ("best.safetensors", "model.safetensors", "pytorch_model.bin")


def find_weights(path: str | Path) -> Path:
    """The weight file that a user means: the file itself, or in the folder of a run its best model.

    Args:
        path: a file, the folder of a run, or a folder as Hugging Face writes it; `~` is the user's folder.

    Raises:
        CheckpointError: there is no such file, or the folder has none.
    """
    if not isinstance(path, str | os.PathLike):
        raise CheckpointError(f"a weight file is given by its path, not by {_described(path)}: give the file's name")
    given, path = str(path), expanded(path)
    if path.is_file():
        return path
    if path.is_dir():
        files = [path / name for name in _FILES_OF_FOLDERS if (path / name).is_file()]
        if not files:
            raise CheckpointError(
                f"{path} is a folder without {', '.join(_FILES_OF_FOLDERS[:-1])} or {_FILES_OF_FOLDERS[-1]}: give a weight file"
            )
        return files[0]
    if given in listed_variants():
        raise CheckpointError(
            f"'{given}' is the name of a variant, but a weight file is needed: give one that training wrote, or that was downloaded "
            "(`detrkit models` lists the addresses of published ones)"
        )
    raise CheckpointError(f"there is no weight file {path}: check the path")


def _described(value: object) -> str:
    return f"an object of type {type(value).__name__}"
