"""The checkpoint that a command was given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detrkit.models.detector import Detector


@contextmanager
def loading(path: Path) -> Iterator[None]:
    """Says on a terminal that a model is being loaded, from the start: PyTorch itself takes seconds. Nothing of it remains."""
    from detrkit.terminal import terminal

    console = terminal(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(f"loading {path}"):
        yield


def load(path: Path, *, variant: str | None = None) -> Detector:
    """The detector in a file, as `detrkit.load`; says which file of a folder it is.

    Raises:
        CheckpointError: see `detrkit.load`.
        ConfigurationError: there is no such variant.
    """
    import detrkit
    from detrkit.checkpoints.places import find_weights
    from detrkit.files import expanded
    from detrkit.terminal import terminal

    file = find_weights(path)
    if file != expanded(path):
        terminal().print(f"Note: {path} is a folder, its {file.name} is used.")
    return detrkit.load(file, variant=variant)
