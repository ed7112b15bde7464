"""What is known about how the model of a contestant was made: of a training from its run, of a checkpoint from its card and its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detrkit.comparison.cells import epochs_text
from detrkit.comparison.figures import ContestantFigures
from detrkit.comparison.lengths import epoch_steps_of, epochs_at
from detrkit.data.wording import counted
from detrkit.errors import ConfigurationError
from detrkit.training.run_folder import RunFolder, read_log, read_run
from detrkit.training.training_options import TrainingOptions

_OF_RUNS = ("best.safetensors", "last.safetensors")


@dataclass(frozen=True)
class Origin:
    """How a model was made, as far as its files tell.

    Attributes:
        variant: that it was built from; empty where nothing tells it.
        sides: largest shorter and longer side of its images in pixels; None where nothing tells them.
        options: of its training; None where its run is not known.
        learned_from: what the run noted about its data; empty likewise.
        length: of the training, in words; empty likewise.
        lengthened: whether it got another length after it had begun.
    """

    variant: str = ""
    sides: tuple[int, int] | None = None
    options: TrainingOptions | None = None
    learned_from: dict[str, Any] = field(default_factory=dict)
    length: str = ""
    lengthened: bool = False

    @property
    def sides_in_words(self) -> str:
        """The size of images; empty where it is not known."""
        return "" if self.sides is None else f"{self.sides[0]} × {self.sides[1]}"


def origin_of(contestant: ContestantFigures) -> Origin:
    """How the model of a contestant was made; of several trainings, which differ in their seeds alone, the first.

    Args:
        contestant: with its runs, and a checkpoint with its card.
    """
    if contestant.variant is not None:
        known = of_run(contestant.finished[0].run.folder) if contestant.finished else None
        return known or Origin(contestant.variant)
    card, file = contestant.card, Path(contestant.checkpoint or "")
    if card is None:
        return Origin()
    known = of_run(file.parent) if file.name in _OF_RUNS else None
    if known is not None and known.variant == card.variant:
        return known
    return Origin(card.variant, (card.preprocessing.short_side, card.preprocessing.long_side))


def of_run(path: Path) -> Origin | None:
    """What a run's folder tells; None where there is no run that this version can read.

    Args:
        path: of the folder.
    """
    try:
        folder, options = read_run(path)
    except ConfigurationError:
        return None
    content = json.loads(folder.config.read_text(encoding="utf-8"))
    lengthened = any(not {"epochs", "steps"}.isdisjoint(each["to"]) for each in content.get("changes", ()))
    short, long = options.short_side, options.long_side
    sides = None if short is None or long is None else (short, long)
    return Origin(options.variant, sides, options, content.get("learned_from", {}), _length(path), lengthened)


def _length(path: Path) -> str:
    try:
        rows = read_log(RunFolder(path).log)
    except ConfigurationError:  # it is damaged
        rows = []
    if not rows:
        return ""
    epochs = epochs_text(epochs_at(rows[-1], epoch_steps_of(path)))
    words = f"{epochs} {'epoch' if epochs == '1' else 'epochs'}"
    return words if "step" not in rows[-1] else f"{words}, {counted(int(rows[-1]['step']), 'step')}"
