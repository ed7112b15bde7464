"""How long a run was: its last epoch may have ended early, and then counts by its share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from detrkit.errors import ConfigurationError
from detrkit.training.options import plan
from detrkit.training.run_folder import read_run

Rows = list[dict[str, float]]


def epoch_steps_of(path: Path) -> int | None:
    """Optimizer steps of a whole epoch of a run; None where its folder does not say it.

    Args:
        path: the run's folder.
    """
    try:
        folder, options = read_run(path)
        noted = json.loads(folder.config.read_text(encoding="utf-8")).get("learned_from", {})
    except ConfigurationError:
        return None
    images = noted.get("images_per_epoch", noted.get("images"))
    return plan(options, images).steps_per_epoch if isinstance(images, int) and images > 0 else None


def epochs_at(row: Mapping[str, float], epoch_steps: int | None) -> float:
    """Passes over the training images up to a row of a log.

    Args:
        row: with the number of the epoch, and the steps so far where they are known.
        epoch_steps: of a whole epoch; None where that is not known.
    """
    if epoch_steps is None or "step" not in row:
        return row["epoch"]
    return min(row["epoch"], row["step"] / epoch_steps)
