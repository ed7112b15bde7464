"""What was compared, and under which conditions: of each contestant, and of all."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from detrkit.comparison.figures import Comparison, ContestantFigures
from detrkit.comparison.origins import Origin, origin_of
from detrkit.comparison.plan import LENGTHS, Plan
from detrkit.data import DetectionDataset
from detrkit.data.wording import agreeing, counted
from detrkit.errors import ConfigurationError
from detrkit.evaluation.report import Block, Folded, Section, Table
from detrkit.evaluation.report.page import MISSING
from detrkit.training.report import departures_from_recipe, option_in_words, value_in_words
from detrkit.training.sessions import command_of, current_versions
from detrkit.training.starting import began_with
from detrkit.training.training_options import TrainingOptions


def shared_settings(plan: Plan, dataset: DetectionDataset, device: str) -> tuple[tuple[str, str], ...]:
    """What holds for all contestants: name and value.

    Args:
        plan: the comparison.
        dataset: what all were evaluated on.
        device: where they ran, as PyTorch calls it.
    """
    given = [
        f"{option_in_words(name)} {value_in_words(value)}" for name, value in plan.options.items() if value is not None
    ]
    return (
        ("evaluated on", dataset.description()),
        ("budget", _budget(plan)),
        ("options given", "; ".join(given) or "none"),
        ("device", f"{device}, {counted(torch.get_num_threads(), 'thread')} of PyTorch"),
        ("versions", ", ".join(f"{name} {version}" for name, version in current_versions().items())),
        ("command", command_of(sys.orig_argv)),
    )


def _budget(plan: Plan) -> str:
    """The length of every training, and how many there are."""
    if all(each.variant is None for each in plan.contestants):
        return "none: nothing was trained here"
    unit = next(name for name in LENGTHS if plan.options.get(name) is not None)  # a plan with trainings has exactly one
    length = value_in_words(plan.options[unit])
    return f"{length} {unit.removesuffix('s') if length == '1' else unit} for every training, {counted(plan.seeds, 'training')} of each variant"


def settings_section(comparison: Comparison) -> Section:
    """All settings, for the report.

    Args:
        comparison: with its runs in their folders.
    """
    origins = {each.name: origin_of(each) for each in comparison.contestants}
    rows = [
        (name, *(of(each, origins[each.name]) or MISSING for each in comparison.contestants))
        for name, of in _ROWS.items()
    ]
    known = tuple(row for row in rows if any(value != MISSING for value in row[1:]))
    blocks: list[Block] = [Table(("setting", *origins), known, "The contestants")]
    if comparison.settings:
        blocks.append(Table(("setting", "value"), comparison.settings, "The comparison, as it was called last"))
    for each in comparison.contestants:
        if changes := _departures(origins[each.name]):
            seed = f" (seed {each.finished[0].run.seed})" if len(each.finished) > 1 else ""
            table = Table(("option", "here", "recipe"), tuple(changes))
            blocks.append(Folded(f"What differs from the recipe of {each.name}{seed}", (table,)))
    return Section("Settings", tuple(blocks))


def _departures(origin: Origin) -> list[tuple[str, str, str]]:
    """What differs from the recipe; nothing where that is not known, or has become impossible since the run was made."""
    if origin.options is None:
        return []
    try:
        return departures_from_recipe(origin.options)
    except ConfigurationError:
        return []


def _model(contestant: ContestantFigures, _: Origin) -> str:
    if contestant.checkpoint is not None:
        return contestant.checkpoint
    seeds = [str(each.run.seed) for each in contestant.trainings]
    return f"trained here with {agreeing(len(seeds), 'seed', 'seeds')} {', '.join(seeds)}"


def _length(contestant: ContestantFigures, origin: Origin) -> str:
    """In words; of several trainings that took other times, as with `--minutes`, from the shortest to the longest."""
    steps = sorted({step for each in contestant.finished if (step := each.length("step")) is not None})
    return origin.length if len(steps) < 2 else f"{steps[0]:.0f} to {steps[-1]:.0f} steps"


def _learned_from(_: ContestantFigures, origin: Origin) -> str:
    images = origin.learned_from.get("images")
    return "" if origin.options is None or images is None else f"{counted(images, 'image')} of {origin.options.data}"


def _of_options(words: Callable[[TrainingOptions], str]) -> Callable[[ContestantFigures, Origin], str]:
    return lambda _, origin: "" if origin.options is None else words(origin.options)


_ROWS: dict[str, Callable[[ContestantFigures, Origin], str]] = {
    "variant": lambda _, origin: origin.variant,
    "model": _model,
    "learned from": _learned_from,
    "trained for": _length,
    "began with": _of_options(began_with),
    "images up to": lambda _, origin: origin.sides_in_words,
    "batch size": _of_options(lambda options: value_in_words(options.batch_size)),
    "images vary": _of_options(lambda options: f"augmentation {options.augmentation}"),
}
