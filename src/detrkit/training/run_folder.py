"""The folder of a run: its options, its results, and everything needed to resume it."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import detrkit
from detrkit.cards import Colours, Recipe
from detrkit.checkpoints import load
from detrkit.checkpoints.own_format import frozen
from detrkit.data import DetectionDataset
from detrkit.errors import ConfigurationError
from detrkit.files import expanded, prepare_folder, remove_unfinished, write_json, write_text
from detrkit.measures import FORMER_COLUMNS
from detrkit.models.catalog import CATALOG, find_variant
from detrkit.training.epoch_images import EpochImages
from detrkit.training.run_places import CONFIG, no_run
from detrkit.training.sessions import current_versions
from detrkit.training.training_options import TrainingOptions


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The paths of a run's files.

    Attributes:
        path: the run's folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """Every option with its value, and the versions of the software."""
        return self.path / CONFIG

    @property
    def log(self) -> Path:
        """One row for every epoch."""
        return self.path / "log.csv"

    @property
    def metrics(self) -> Path:
        """Figures of the best and the last epoch."""
        return self.path / "metrics.json"

    @property
    def best(self) -> Path:
        """The model with the highest AP so far, or the lowest loss if nothing is evaluated."""
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        """The model after the last epoch."""
        return self.path / "last.safetensors"

    @property
    def state(self) -> Path:
        """Weights, optimizer and counters, from which the run is resumed."""
        return self.path / "resume.ckpt"

    @property
    def loggers(self) -> Path:
        """What other tools call the run."""
        return self.path / "loggers.json"

    @property
    def curves(self) -> Path:
        """Losses and figures over the epochs."""
        return self.path / "curves.png"

    @property
    def pictures(self) -> Path:
        """Predictions beside the ground truth: examples, and the images with most errors."""
        return self.path / "pictures"

    @property
    def charts(self) -> Path:
        """Every chart of the report as a picture."""
        return self.path / "charts"

    def remove_unfinished(self) -> None:
        """Removes what killed processes left of files that they wrote here."""
        for place in (self.path, self.charts, self.pictures):
            remove_unfinished(place)

    @property
    def report(self) -> Path:
        """Curves, figures and pictures on one page."""
        return self.path / "report.html"

    @property
    def holds_models(self) -> bool:
        """Whether a run has saved anything that another run in the same folder would replace."""
        return any(file.exists() for file in (self.state, self.best, self.last))


def create(
    options: TrainingOptions, training: DetectionDataset, validation: DetectionDataset | None = None
) -> RunFolder:
    """Creates the folder of a new run and writes its configuration, which also shows that the folder is writable.

    Args:
        options: the resolved options.
        training: training images; their number, classes and annotations are noted, so that resuming can tell whether they have changed.
        validation: what it is evaluated on, likewise; None if there is nothing.

    Raises:
        ConfigurationError: the folder holds a run that can be resumed, or models of an earlier run.
        OutputError: the folder cannot be written to.
    """
    folder = RunFolder(_default_path(options.variant) if options.output is None else expanded(options.output))
    prepare_folder(folder.path)
    check_free(folder)
    content = {
        "options": dataclasses.asdict(options),
        "recipe": dataclasses.asdict(find_variant(options.variant).recipe),
        "versions": current_versions(),
        "learned_from": {**learned_from(training), "images_per_epoch": len(EpochImages(options, training))},
    }
    if validation is not None:
        content["evaluated_on"] = {"annotations": [validation.annotation_digest]}
    write_json(folder.config, content)
    return folder


def note_colours(folder: RunFolder, colours: Colours) -> None:
    """Writes into a run's configuration which colours its images have: its options do not say which detector's these are."""
    content = json.loads(folder.config.read_text(encoding="utf-8"))
    write_json(folder.config, {**content, "colours": colours._asdict()})


def colours_of(folder: RunFolder) -> Colours | None:
    """The colours of a run's images; None where a run of an older version noted none and has no model yet."""
    noted = json.loads(folder.config.read_text(encoding="utf-8")).get("colours")
    if noted is None:
        return load(folder.last).card.preprocessing.colours if folder.last.is_file() else None
    return Colours(tuple(noted["mean"]), tuple(noted["deviation"]), noted["channels"])


def check_free(folder: RunFolder) -> None:
    """Refuses a folder that a new run would spoil.

    Raises:
        ConfigurationError: it holds a run that can be resumed, or models of an earlier run.
    """
    if folder.state.exists():
        raise ConfigurationError(
            f"{folder.path} holds a run already: continue it with --resume, or choose another --output"
        )
    if folder.holds_models:
        raise ConfigurationError(f"{folder.path} holds models of an earlier run: choose another --output")


def _default_path(variant: str) -> Path:
    """Creates a folder that no other run has, even if one of the same variant starts in the same second."""
    runs = prepare_folder(Path("runs"))
    name = f"{variant}-{datetime.now().astimezone():%Y-%m-%d-%H%M%S}"
    path, number = runs / name, 1
    while True:
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
            path = runs / f"{name}-{number}"
        else:
            return path


def learned_from(training: DetectionDataset) -> dict[str, Any]:
    """What a run notes about its training images; annotations that were changed while it stood still make a second version, and so on."""
    return {
        "images": len(training),
        "classes": [category.name for category in training.categories],
        "annotations": [training.annotation_digest],
    }


def remove_earlier_demo(path: Path) -> None:
    """Removes an earlier demo from a folder, or marks the folder as one for demos; leaves any other run alone."""
    folder, marker = RunFolder(path), path / "demo"
    if marker.is_file():
        files = [folder.log, folder.metrics, folder.best, folder.last, folder.state, folder.report, folder.curves]
        pictures = (*folder.pictures.glob("*.jpg"), *folder.pictures.glob("*.png"), *folder.charts.glob("*.png"))
        for file in (*files, *pictures, *folder.path.glob("tensorboard/events.*"), folder.config):
            file.unlink(missing_ok=True)
    elif not folder.holds_models:
        write_text(marker, "created by detrkit demo, which replaces this run\n")


def reopen(path: str | Path) -> tuple[RunFolder, TrainingOptions]:
    """The folder and the options of a run that is to be resumed.

    Raises:
        ConfigurationError: as for `read_run`, the run has no checkpoint yet, or a file that it goes on with is damaged.
    """
    folder, options = read_run(path)
    if not folder.state.is_file():
        raise ConfigurationError(
            f"{path} has no checkpoint to continue from, since it ended before the first one was written: start a new run"
        )
    read_log(folder.log)
    for file, key, without in (
        (folder.metrics, "best", "the best model is chosen among the epochs to come"),
        (folder.loggers, None, "other tools begin a new run"),
    ):
        content = read_json(file, f"bring it back, or delete it: {without}")
        if content is not None and not (isinstance(content, dict) and (key is None or key in content)):
            raise damaged(file, f"bring it back, or delete it: {without}")
    return folder, options


def read_run(path: str | Path) -> tuple[RunFolder, TrainingOptions]:
    """The folder and the options of a run.

    Raises:
        ConfigurationError: there is no run, its configuration is damaged or cannot be read, or another version of detrkit began it with options or settings
            that this version does not know.
    """
    folder = RunFolder(expanded(path))
    try:
        content = read_json(folder.config, "bring it back, or start a new run")
        given, version = dict(content["options"]), content.get("versions", {}).get("detrkit", "another version")
        _check_names(folder, version, given)
        given.setdefault("weights", "none")  # runs from before there were these options
        given.setdefault("augmentation", "detr")
        given["settings"] = {name: frozen(value) for name, value in given["settings"].items()}
        options = TrainingOptions(**given)
    except (AttributeError, KeyError, TypeError) as problem:
        raise no_run(path) from problem
    return folder, options


def read_json(file: Path, remedy: str) -> Any:
    """What a JSON file of a run says; None where there is none.

    Args:
        file: of the run.
        remedy: what can be done if it is damaged.

    Raises:
        ConfigurationError: it is damaged, or cannot be read.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as problem:
        raise ConfigurationError(
            f"{file} cannot be read ({problem.strerror or problem}): check its permissions and its disk"
        ) from problem
    except ValueError as problem:
        raise damaged(file, remedy) from problem


def damaged(file: Path, remedy: str) -> ConfigurationError:
    """What is wrong with a file of a run that says nothing sensible."""
    return ConfigurationError(f"{file} is damaged: {remedy}")


# Former names of settings. Models with these settings also had other parameter names.
_OLD_SETTINGS = ("heads", "classes")


def _check_names(folder: RunFolder, version: str, given: Mapping[str, Any]) -> None:
    """Refuses a run whose variant, options or settings this version of detrkit does not know."""
    options = {entry.name for entry in dataclasses.fields(TrainingOptions)}
    unknown = [f"the option '{name}'" for name in given if name not in options]
    if given["variant"] not in CATALOG:
        unknown.append(f"the variant '{given['variant']}'")
    else:
        known = {entry.name for entry in dataclasses.fields(CATALOG[given["variant"]].config)}
        unknown_settings = [name for name in given["settings"] if name not in known]
        if any(name in _OLD_SETTINGS for name in unknown_settings):
            raise ConfigurationError(
                f"{folder.path} was begun with an older detrkit, whose parameters had other names: start a new run"
            )
        unknown += [f"the setting '{name}'" for name in unknown_settings]
    if unknown:
        raise ConfigurationError(
            f"{folder.config} has {unknown[0]}, which detrkit {detrkit.__version__} does not know: use the detrkit that "
            f"began it ({version}), or start a new run"
        )


def recipe_of(folder: RunFolder, variant: str) -> Recipe:
    """The recipe that a run began with, so that one that goes on keeps it even if that of the variant has changed; in older runs the variant's.

    Args:
        folder: of the run.
        variant: its name in the catalog.
    """
    own = find_variant(variant).recipe
    noted = json.loads(folder.config.read_text(encoding="utf-8")).get("recipe", {})
    known = {name: frozen(value) for name, value in noted.items() if hasattr(own, name)}
    return dataclasses.replace(own, **known)


def append_to_log(path: Path, row: Mapping[str, Any]) -> None:
    """Adds an epoch to the log; rows of this or a later epoch, left by a run that was interrupted, are replaced.

    Args:
        path: the CSV file.
        row: the value of each column, one of which is `epoch`. Rows may differ in their columns.
    """
    rows = [earlier for earlier in read_log(path) if earlier["epoch"] < row["epoch"]]
    rows.append(dict(row))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for each in rows for name in each)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log; empty cells are left out.

    Raises:
        ConfigurationError: it is damaged.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                {FORMER_COLUMNS.get(name, name): float(value) for name, value in row.items() if value}
                for row in csv.DictReader(file)
            ]
        if not all("epoch" in row for row in rows):
            raise ValueError("a row without its epoch")
    except (ValueError, TypeError, csv.Error) as problem:  # not numbers, or more cells than columns
        raise ConfigurationError(
            f"{path} is damaged ({problem}): correct or delete the row, or delete the file; what is missing in it is missing in the curves"
        ) from problem
    return rows
