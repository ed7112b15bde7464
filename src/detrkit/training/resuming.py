"""Going on with a run: how far it came, whether it is finished, and which options may change on the way."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detrkit.data import DetectionDataset
from detrkit.data.places import BUILT_IN
from detrkit.data.wording import counted
from detrkit.errors import ConfigurationError, OptionError
from detrkit.files import expanded, write_json
from detrkit.models.detector import Detector
from detrkit.training.keeping import KEPT
from detrkit.training.options import Schedule, check_values, located, plan
from detrkit.training.run_folder import RunFolder, learned_from, read_log
from detrkit.training.stopping import Standstill, stopped_early
from detrkit.training.training_options import TrainingOptions

CHANGEABLE = ("data", "epochs", "steps", "patience", "device", "devices", "nodes", "strategy", "workers")


@dataclass(frozen=True)
class Progress:
    """How far a run came.

    Attributes:
        epochs: finished ones.
        steps: optimizer steps.
        steps_into_epoch: those of them that were taken in an epoch that is not finished.
        lacks_end: whether the end of the last epoch is missing: its evaluation, or its models.
    """

    epochs: int
    steps: int
    steps_into_epoch: int = 0
    lacks_end: bool = False

    @property
    def steps_of_epochs(self) -> int:
        """Steps of finished epochs."""
        return self.steps - self.steps_into_epoch


@dataclass(frozen=True)
class Resumed:
    """What a run that goes on was.

    Attributes:
        folder: the run's.
        options: those that it had so far.
        done: how far it came.
    """

    folder: RunFolder
    options: TrainingOptions
    done: Progress


def check_changeable(given: list[str]) -> None:
    """Refuses options that a run keeps from beginning to end.

    Raises:
        ConfigurationError: there is one among the given names.
    """
    fixed = [name for name in given if name not in CHANGEABLE]
    if fixed:
        raise OptionError(
            f"resume continues a run with its own options, of which only {', '.join(CHANGEABLE[:-1])} and {CHANGEABLE[-1]} may be given anew: "
            f"leave out {', '.join(fixed)}",
            *("resume", *CHANGEABLE, *fixed),
        )


def progress_of(folder: RunFolder) -> Progress:
    """How far the run in a folder came.

    Raises:
        ConfigurationError: the checkpoint that it would go on from cannot be read.
    """
    try:
        state = torch.load(folder.state, map_location="cpu", weights_only=True, mmap=True)
        kept = state["callbacks"].get(KEPT, {})
        into = int(kept.get("steps_into_epoch", 0))
        epochs = int(state["epoch"]) + (0 if into else 1)
        return Progress(epochs, int(state["global_step"]), into, kept.get("lacking") is not None)
    except OSError as problem:
        raise ConfigurationError(
            f"{folder.state} cannot be read ({problem.strerror or problem}): check its permissions and its disk"
        ) from problem
    except MemoryError:
        raise
    except Exception as problem:  # any error of the parser means a damaged file
        raise ConfigurationError(
            f"{folder.state} is damaged, so the run cannot go on: start a new run; its models are in {folder.path}"
        ) from problem


def check_weights(folder: RunFolder, model: Detector) -> None:
    """Refuses a checkpoint whose weights are those of another model, before anything else of it is taken.

    Args:
        folder: of a run that goes on.
        model: that the run's configuration describes.

    Raises:
        ConfigurationError: a weight is missing, unknown or of another shape.
    """
    state = torch.load(folder.state, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    prefix = "model."
    found = {name.removeprefix(prefix): value.shape for name, value in state.items() if name.startswith(prefix)}
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    for name in dict.fromkeys([*wanted, *found]):
        if found.get(name) != wanted.get(name):
            raise ConfigurationError(
                f"{folder.state} does not belong to the model of {folder.config}: they differ in {name}: bring back the files that belong "
                "together, or start a new run"
            )


def changed_options(
    options: TrainingOptions, folder: RunFolder, done: Progress, *, given: dict[str, Any]
) -> TrainingOptions:
    """The options with those that were given anew.

    Args:
        options: those that the run had so far.
        folder: the run's.
        done: how far it came.
        given: new values of `CHANGEABLE` options; None where an option was not given.

    Raises:
        ConfigurationError: an impossible value, or a length below what the run has done already.
    """
    changes = {name: value for name, value in given.items() if value is not None}
    if "data" in changes:
        changes["data"] = located(str(changes["data"]))
    if "epochs" in changes and "steps" not in changes:
        changes["steps"] = None  # otherwise the steps of the run would take precedence
    changed = dataclasses.replace(options, **changes)
    check_values(changed)
    for name, value, reached in (
        (
            "epochs",
            given.get("epochs") if changed.steps is None else None,
            done.epochs + (1 if done.steps_into_epoch else 0),
        ),
        ("steps", given.get("steps"), done.steps),
    ):
        if value is not None and value < reached:
            raise ConfigurationError(
                f"{folder.path} has trained for {counted(reached, name.removesuffix('s'))} already, so {name} cannot be {value}: give more than {reached} to train longer"
            )
    return changed


def changed_data(options: TrainingOptions, data: str | Path | None) -> TrainingOptions:
    """The options of a run with the place where its data are now; None where they were not moved."""
    return options if data is None else dataclasses.replace(options, data=located(str(data)))


def continued(options: TrainingOptions, images: int, done: Progress) -> Schedule:
    """The length of a run that goes on, whose last epoch so far may have ended early, because of its number of steps.

    Args:
        options: the resolved options, perhaps with a new length.
        images: number of images in the training split.
        done: how far the run came.
    """
    schedule = plan(options, images)
    if options.steps is None:
        epochs = max(done.epochs + (1 if done.steps_into_epoch else 0), schedule.epochs)
        steps = done.steps_of_epochs + (epochs - done.epochs) * schedule.steps_per_epoch
        return dataclasses.replace(schedule, epochs=epochs, steps=steps)
    left = max(0, schedule.steps - done.steps_of_epochs)
    return dataclasses.replace(schedule, epochs=done.epochs + math.ceil(left / schedule.steps_per_epoch))


def is_finished(options: TrainingOptions, folder: RunFolder, done: Progress) -> bool:
    """Whether nothing is left to train, or the run stopped early; the number of images is the one that the run noted at its beginning."""
    is_over = early_end(options, folder, done) is not None or _has_all_steps(options, folder, done)
    return is_over and not done.lacks_end


def _has_all_steps(options: TrainingOptions, folder: RunFolder, done: Progress) -> bool:
    noted = _content(folder).get("learned_from", {})
    images = noted.get("images_per_epoch", noted.get("images"))
    return isinstance(images, int) and done.steps >= continued(options, images, done).steps


def early_end(options: TrainingOptions, folder: RunFolder, done: Progress) -> Standstill | None:
    """Why a run ended before its last step, up to the epoch that was kept; None where it did not."""
    if _has_all_steps(options, folder, done):
        return None
    return stopped_early(options, [row for row in read_log(folder.log) if row["epoch"] <= done.epochs])


def check_same_data(folder: RunFolder, training: Any) -> None:
    """Refuses data that differ from those that a run began with.

    Raises:
        ConfigurationError: the classes or the number of images have changed.
    """
    before, now = _content(folder).get("learned_from"), learned_from(training)
    for name in ("classes", "images"):
        if before is not None and before[name] != now[name]:
            raise ConfigurationError(
                f"{folder.path} began with other {name} than {training.name} has now: bring the old data back (if they were moved, give "
                "data), or start a new run"
            )


# Where a run notes versions of annotations, and what in its log is of earlier ones.
_VERSIONS = {"learned_from": "losses", "evaluated_on": "AP"}


def annotation_notes(folder: RunFolder, training: DetectionDataset, validation: DetectionDataset | None) -> list[str]:
    """A sentence for each split whose annotations a run does not know yet, as when mistakes were corrected. Runs of older versions know none."""
    content = _content(folder)
    return [
        f"the annotations of {dataset.name} have changed since {folder.path} last learned: it goes on with those of now; {figures} of earlier "
        "epochs are of the old ones."
        for dataset, (part, figures) in zip((training, validation), _VERSIONS.items(), strict=True)
        if dataset is not None and _is_new(content, part, dataset)
    ]


def record_annotations(folder: RunFolder, training: DetectionDataset, validation: DetectionDataset | None) -> None:
    """Notes the versions of annotations that a run goes on with."""
    content = _content(folder)
    for dataset, part in zip((training, validation), _VERSIONS, strict=True):
        if dataset is not None and _is_new(content, part, dataset):
            content[part]["annotations"].append(dataset.annotation_digest)
            write_json(folder.config, content)


def _is_new(content: Mapping[str, Any], part: str, dataset: DetectionDataset) -> bool:
    """Whether the last version that is noted of a split is another one than now."""
    noted = content.get(part, {}).get("annotations")
    return bool(noted) and noted[-1] != dataset.annotation_digest


def check_data_are_there(options: TrainingOptions, folder: RunFolder, before: TrainingOptions) -> None:
    """Refuses a run whose data are no longer where they were, or not where they are said to be now, with the remedy.

    Args:
        options: those that hold now.
        folder: the run's.
        before: the options that it had so far.

    Raises:
        ConfigurationError: there is nothing at the path.
    """
    if options.data != BUILT_IN and not expanded(options.data).exists():
        if options.data != before.data:
            raise ConfigurationError(
                f"the data given, {options.data}, do not exist: check the path; {folder.path} was trained on {before.data}"
            )
        raise ConfigurationError(
            f"{folder.path} was trained on {options.data}, which does not exist: if the data were moved, give their new place as data"
        )


def record(folder: RunFolder, before: TrainingOptions, now: TrainingOptions, done: Progress) -> None:
    """Writes changed options into the run's configuration, and when they changed."""
    changed = {name: getattr(now, name) for name in CHANGEABLE if getattr(now, name) != getattr(before, name)}
    if not changed:
        return
    content = _content(folder)
    content["options"] |= changed
    earlier = {name: getattr(before, name) for name in changed}
    content.setdefault("changes", []).append({"after_epochs": done.epochs, "from": earlier, "to": changed})
    write_json(folder.config, content)


def length_note(before: Schedule, now: Schedule) -> str | None:
    """What a new length means for the learning rates, or None where the length is the old one."""
    if before.steps == now.steps:
        return None
    return (
        f"Note: the run now has {counted(now.epochs, 'epoch')} ({counted(now.steps, 'step')}) instead of {before.epochs} ({before.steps}); from here on the learning "
        "rates are those of a run of that length."
    )


def _content(folder: RunFolder) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(folder.config).read_text(encoding="utf-8"))
    return content
