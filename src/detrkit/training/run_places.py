"""Where runs are, found out without PyTorch, so that a wrong path is told at once."""

from __future__ import annotations

from pathlib import Path

from detrkit.errors import ConfigurationError
from detrkit.files import expanded

CONFIG = "config.json"


def check_is_run(path: str | Path) -> None:
    """Refuses a folder that no run was written to.

    Raises:
        ConfigurationError: it has no configuration.
    """
    if not (expanded(path) / CONFIG).is_file():
        raise no_run(path)


def no_run(path: str | Path) -> ConfigurationError:
    """What is wrong with a path that is not the folder of a run."""
    return ConfigurationError(
        f"{path} is not the folder of a run (no readable {CONFIG}): name the folder that training wrote to"
    )
