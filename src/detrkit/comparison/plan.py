"""What a comparison is about, kept in its folder, so that it goes on where it was and is not mixed with another one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from detrkit.comparison.contestants import Contestant
from detrkit.data import DetectionDataset, open_dataset
from detrkit.errors import ConfigurationError, DataError, OptionError, closest
from detrkit.evaluation.classes import MatchBy
from detrkit.files import expanded, prepare_folder, write_json
from detrkit.training.options import located
from detrkit.training.run import new_options
from detrkit.training.training_options import TrainingOptions

LENGTHS = ("epochs", "steps", "minutes")
# What a comparison decides itself.
OWN = ("variant", "data", "output", "seed")
# What may change on the way: no figure depends on it but the speed.
_FREE = ("workers", "loggers", "checkpoint_minutes", "memory_probe")
_KNOWN = tuple(entry.name for entry in fields(TrainingOptions))
# What is about the images that all are evaluated on, and about the machine.
_OF_ALL = ("val_split", "orientation", "stretch_16bit", "masks", "device", "workers")
_FILE = "plan.json"


@dataclass(frozen=True)
class Plan:
    """A comparison before its runs.

    Attributes:
        contestants: who is compared.
        data: the data set's path, or "digits".
        seeds: number of trainings of each variant, with the seeds from 0 on.
        options: training options for all variants; others are those of their recipes.
        folder: of the comparison.
        match_by: how classes of checkpoints find those of the data.
    """

    contestants: tuple[Contestant, ...]
    data: str
    seeds: int
    options: dict[str, Any]
    folder: Path
    match_by: MatchBy = "auto"

    @property
    def file(self) -> Path:
        """What the folder is for."""
        return self.folder / _FILE

    def options_of(self, contestant: Contestant, seed: int) -> TrainingOptions:
        """The resolved options of a run.

        Raises:
            ConfigurationError: an option or setting that the variant does not have, or an impossible value.
        """
        assert contestant.variant is not None
        output = self.folder / contestant.run_name(seed)
        return new_options(contestant.variant, self.data, {**self.options, "output": output, "seed": seed})

    def check(self) -> None:
        """Refuses what can be refused before anything is read.

        Raises:
            ConfigurationError: no length for variants that are trained, an impossible number, or options that a variant does not take.
        """
        if self.seeds < 1:
            raise ConfigurationError(f"seeds must be at least 1, not {self.seeds}")
        own = [name for name in OWN if name in self.options]
        if own:
            raise ConfigurationError(f"a comparison chooses {own[0]} itself: leave it out")
        if (self.options.get("nodes") or 1) > 1:
            raise OptionError("a comparison runs on one machine, so nodes must be 1", "nodes")
        trained = [each for each in self.contestants if each.variant is not None]
        lengths = [name for name in LENGTHS if self.options.get(name) is not None]
        if trained and len(lengths) != 1:
            given = "none is given" if not lengths else f"{' and '.join(lengths)} are given"
            raise ConfigurationError(
                f"{trained[0].name} has to be trained, for the same epochs, steps or minutes as all others, and {given}: give one of the three"
            )
        for each in trained:
            self.options_of(each, 0)
        unknown = [name for name in self.options if name not in _KNOWN]
        if unknown:  # where nothing is trained
            raise OptionError(f"there is no option '{unknown[0]}': {closest(unknown[0], _KNOWN)}", unknown[0])

    @property
    def unused_options(self) -> list[str]:
        """The options that change nothing, since nothing is trained."""
        trained = any(each.variant is not None for each in self.contestants)
        return [] if trained else [name for name in self.options if name not in _OF_ALL]

    def open(self, dataset: DetectionDataset) -> None:
        """Creates the folder, or checks that it is this comparison's.

        Args:
            dataset: what all are evaluated on.

        Raises:
            ConfigurationError: it holds another comparison, or something else.
            OutputError: it cannot be written to.
        """
        content = {
            "data": located(self.data),
            "match_by": self.match_by,
            "options": {name: plain(value) for name, value in sorted(self.options.items()) if name not in _FREE},
            "images": len(dataset),
            "objects": int((~dataset.crowd).sum()),
            "classes": [category.name for category in dataset.categories],
            "annotations": dataset.annotation_digest,
        }
        if not self.file.is_file():
            if self.folder.is_dir() and any(self.folder.iterdir()):
                raise ConfigurationError(
                    f"{self.folder} holds other files, and no comparison: choose another output, such as a new folder"
                )
            prepare_folder(self.folder)
            write_json(self.file, content)
            return
        before = {"match_by": "auto", **_read(self.file)}  # older ones do not say
        for name, value in content.items():
            if before.get(name) != value:
                raise ConfigurationError(
                    f"{self.folder} holds another comparison, with {_shown(name, before.get(name), value)}: choose another output, "
                    "or what it was begun with"
                )


def validation_of(data: str, options: Mapping[str, Any]) -> DetectionDataset:
    """What all are evaluated on: boxes, also of models with masks.

    Args:
        data: the data set's path, or "digits".
        options: those of training that say which split it is and how its files are read.

    Raises:
        DataError: there is no such split, or nothing in it that could be found.
    """
    opened = open_dataset(
        data,
        options.get("val_split", "val"),
        orientation=options.get("orientation", "auto"),
        stretch_16bit=options.get("stretch_16bit", False),
        masks=options.get("masks"),
    )
    if opened.crowd.all():
        raise DataError(f"{opened.name} has no objects, so nothing can be compared: give annotated images.")
    return replace(opened, masks=None)


def new_folder_for(output: str | Path | None) -> Path:
    """The folder that was given, or a new one under runs/."""
    if output is not None:
        return expanded(output)
    return Path("runs") / f"comparison-{datetime.now().astimezone():%Y-%m-%d-%H%M%S}"


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ConfigurationError(
            f"{file} cannot be read, so its comparison cannot go on: choose another output"
        ) from problem
    return content if isinstance(content, dict) else {}


def _shown(name: str, before: Any, now: Any) -> str:
    """How two comparisons differ, in a few words."""
    if name == "annotations":
        return "other annotations of the same images"
    if name != "options":
        return f"{name} {before}, not {now}"
    earlier = before if isinstance(before, dict) else {}
    keys = [key for key in sorted({*earlier, *now}) if earlier.get(key) != now.get(key)]
    return ", ".join(f"{key} {_value(earlier, key)}, not {_value(now, key)}" for key in keys)


def _value(options: dict[str, Any], key: str) -> str:
    return str(options[key]) if key in options else "not given"


def plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
