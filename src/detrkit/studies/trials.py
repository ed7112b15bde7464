"""The trials of a study with their seeds, each in a folder that other studies find again if they need the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detrkit.data.places import BUILT_IN
from detrkit.files import expanded
from detrkit.studies.study import Figures, Study, Trial
from detrkit.training.run_folder import RunFolder

FIGURES, JOB, LOG, RUN, TRIALS = "figures.json", "job.json", "log.txt", "run", "trials"
_LATER_SEED = 1000
FURTHER = "further"  # in the figures, what a trial's `measure` gave
_DIGITS = 10  # of the hash in a folder's name
_PATHS = ("data", "backbone_weights", "weights", "queries_from", "detector_from")
_FREE = ("workers", "loggers", "checkpoint_minutes", "device")  # no figure depends on them but the speed


@dataclass(frozen=True)
class Seeded:
    """A trial with one seed.

    Attributes:
        name: of the trial in its study.
        trial: what is trained.
        seed: of it.
        single_class: see `Study`.
        options: of training.
        folder: where it leaves its run and its figures.
        after: those that come before it, by name.
    """

    name: str
    trial: Trial
    seed: int
    single_class: bool
    options: dict[str, Any]
    folder: Path
    after: Mapping[str, Seeded]

    @property
    def run(self) -> Path:
        """The folder of its training."""
        return self.folder / RUN

    @property
    def further(self) -> Path | None:
        """The file with what its `measure` gives, which another study of the same training may not have asked for; None without one."""
        return None if self.trial.measure is None else self.folder / f"{_called(self.trial.measure)}.json"

    @property
    def training_seed(self) -> int:
        """Of weights and order. One that comes after another must not begin with the random numbers that what it is given grew out of."""
        return self.seed + (_LATER_SEED if self.after else 0)

    @property
    def has_weights(self) -> bool:
        """Whether what it has trained is still there; figures can be kept without it."""
        return RunFolder(self.run).last.is_file()

    def figures(self) -> Figures | None:
        """What it came to; None where it has not ended."""
        found = read_figures(self.folder / FIGURES)
        if found is None or self.further is None:
            return found
        further = read_figures(self.further)
        return None if further is None else {**found, FURTHER: further}


def missing_trials(trials: Sequence[Seeded]) -> list[Seeded]:
    """Those that have to be carried out: without figures, or with figures alone where a later one needs the weights.

    Args:
        trials: each behind those that it comes after.
    """
    missing: list[Seeded] = []
    needed: set[Path] = set()
    for each in reversed(trials):
        if each.figures() is None or (each.folder in needed and not each.has_weights):
            missing.append(each)
            needed |= {earlier.folder for earlier in each.after.values()}
    return missing[::-1]


def read_figures(file: Path) -> Figures | None:
    """Figures from a file; None where there are none, or where it was not written to its end."""
    try:
        found: Figures = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def seeded_trials(study: Study, data: str, seeds: int, given: Mapping[str, Any], output: Path) -> list[Seeded]:
    """All trials with all seeds, seed by seed, each behind those that it comes after.

    Args:
        study: whose they are.
        data: path of a data set, or "digits".
        seeds: how many; they are 0, 1, ...
        given: training options for all trials.
        output: folder of all studies.
    """
    made: list[Seeded] = []
    for seed in range(seeds):
        of_seed: dict[str, Seeded] = {}
        for name, trial in study.trials.items():
            options = study.options_of(name, data, given)
            after = {earlier: of_seed[earlier] for earlier in trial.after}
            folder = output / TRIALS / f"{trial.variant}-{_identity(study, trial, options, after)}-{seed}"
            of_seed[name] = Seeded(name, trial, seed, study.single_class, options, folder, after)
        made += of_seed.values()
    return made


def _identity(study: Study, trial: Trial, options: Mapping[str, Any], after: Mapping[str, Seeded]) -> str:
    """The same for trials that do the same."""
    kept = {name: value for name, value in options.items() if name not in _FREE}
    kept |= {name: _file_of(kept[name]) for name in _PATHS if name in kept and kept[name] != BUILT_IN}
    before = {name: each.folder.name.rpartition("-")[0] for name, each in after.items()}
    content = [study.single_class, kept, _called(trial.change), before]
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _file_of(path: object) -> object:
    """A path as what it leads to: elsewhere, or changed, it is another one. Names that are no paths stay names."""
    place = expanded(str(path))
    if not place.exists():
        return str(path)
    facts = place.stat()
    return [str(place.resolve()), *((facts.st_size, facts.st_mtime) if place.is_file() else ())]


def _called(function: Callable[..., object] | None) -> object:
    """What a function is, and with which arguments."""
    if function is None:
        return None
    if isinstance(function, partial):
        return [_called(function.func), list(function.args), function.keywords]
    return f"{function.__module__.removeprefix(f'{__package__}.')}.{function.__qualname__}"
