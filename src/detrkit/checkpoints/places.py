"""Where the weights are that a user names; nothing is read here, so that a wrong path is told at once."""

from __future__ import annotations

import os
from pathlib import Path

from detrkit.checkpoints.mistaken import no_such_file, no_weights_in
from detrkit.errors import CheckpointError
from detrkit.files import expanded

# What a folder is asked for: the best model of a run, otherwise its last, and the weights of a Hugging Face repository.
_FILES_OF_FOLDERS = ("best.safetensors", "last.safetensors", "model.safetensors", "pytorch_model.bin")


def find_weights(path: str | Path) -> Path:
    """The weight file that a user means: the file itself, or in the folder of a run its best model, otherwise its last.

    Args:
        path: a file, the folder of a run, or a folder as Hugging Face writes it; `~` is the user's folder.

    Raises:
        CheckpointError: there is no such file, or the folder has none.
    """
    if not isinstance(path, str | os.PathLike):
        raise CheckpointError(
            f"a weight file is given by its path, not by an object of type {type(path).__name__}: give the file's name"
        )
    given, path = str(path), expanded(path)
    if path.is_file():
        return path
    if path.is_dir():
        files = [path / name for name in _FILES_OF_FOLDERS if (path / name).is_file()]
        if not files:
            raise CheckpointError(no_weights_in(path, _FILES_OF_FOLDERS))
        return files[0]
    raise CheckpointError(no_such_file(given, path))
