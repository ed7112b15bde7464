"""A comparison from beginning to end: check everything, train and evaluate, compare image by image, write the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Unpack

import torch
from rich.console import Console

import detrkit
from detrkit.cards import ModelCard
from detrkit.checkpoints.loading import load_fitting
from detrkit.coco_limits import MAX_DETECTIONS
from detrkit.comparison.contestants import read_contestants
from detrkit.comparison.differences import Ranking, ranking
from detrkit.comparison.fairness import evaluation_notes, fairness_notes, length_notes, option_notes
from detrkit.comparison.figures import Comparison, ContestantFigures, Training
from detrkit.comparison.latency import latencies
from detrkit.comparison.outcome import DETECTIONS, Outcome
from detrkit.comparison.plan import Plan, new_folder_for, validation_of
from detrkit.comparison.report import comparison_sections
from detrkit.comparison.runs import Run, outcomes_of
from detrkit.comparison.settings import shared_settings
from detrkit.data import DetectionDataset
from detrkit.data.wording import counted
from detrkit.errors import DataError, DetrkitError
from detrkit.evaluation.classes import MatchBy, match_categories
from detrkit.evaluation.inputs import read_inputs
from detrkit.evaluation.outcomes import Outcomes, outcomes
from detrkit.evaluation.report import write_report
from detrkit.evaluation.result_files import pair
from detrkit.files import write_json
from detrkit.prediction.devices import choose_device
from detrkit.terminal import terminal
from detrkit.training.keywords import TrainingKeywords, with_keywords


def compare(
    contestants: Sequence[str | Path],
    data: str | Path,
    *,
    seeds: int = 1,
    match_by: MatchBy = "auto",
    console: Console | None = None,
    runs_print_to: int | None = None,
    **options: Unpack[TrainingKeywords],
) -> Comparison:
    """Trains variants and evaluates checkpoints, all alike, and says which are better on the validation split.

    Every run has a process and a folder of its own. A comparison that was stopped goes on in its folder: runs that are finished are not done
    again. A run that fails does not end the others. Contestants and seeds may be added later.

    Args:
        contestants: names of variants, which are trained, and checkpoints or folders of runs, which are only evaluated.
        data: a data set's folder or annotation file, or "digits".
        seeds: trainings of each variant, with the seeds 0, 1, ...
        match_by: how classes of checkpoints find those of the data: "name", "id", or "auto", as for `evaluate`.
        console: the console that shows progress; None means the terminal.
        runs_print_to: number of an open file for what the runs print, such as 2; None for where this process prints.
        **options: training options for all variants, one of `epochs`, `steps` and `minutes` among them; others are those of each variant's
            recipe. `output` is the folder of the comparison, by default a new one under runs/; there is no `seed`, since `seeds` says how many.

    Returns:
        All figures. They also lie in the folder, as `comparison.json`, with `report.html`.

    Raises:
        ConfigurationError: fewer than two contestants, an unknown name, an impossible option, no length for variants that have to be trained,
            or a folder that holds another comparison.
        CheckpointError: a checkpoint cannot be read.
        DataError: the data cannot be used, or the classes of a checkpoint do not fit them.
        OutputError: the folder cannot be written.
    """
    console = console or terminal()
    output = options.pop("output", None)
    given = {name: value for name, value in options.items() if value is not None}
    plan = Plan(read_contestants(contestants), str(data), seeds, given, new_folder_for(output), match_by)
    plan.check()
    device = choose_device(str(given.get("device", "auto")))
    dataset = validation_of(plan.data, plan.options)
    cards = _fitting_cards(plan, dataset)
    plan.open(dataset)
    console.print(
        f"Comparison of {counted(len(plan.contestants), 'contestant')} in {plan.folder}, on {dataset.description()}"
    )
    done = outcomes_of(plan, console, runs_print_to)
    comparison = _compared(plan, dataset, done, device, cards)
    write_json(comparison.figures_file, comparison.to_json())
    write_report(
        comparison.report,
        f"Comparison on {dataset.name}",
        comparison_sections(comparison, dataset),
        subtitle=_subtitle(plan),
    )
    return comparison


with_keywords(compare)


def _subtitle(plan: Plan) -> str:
    """Who was compared on what, when, and by which version."""
    names = ", ".join(each.name for each in plan.contestants)
    return f"{names} on {plan.data}, {datetime.now():%Y-%m-%d %H:%M}, detrkit {detrkit.__version__}"


def _fitting_cards(plan: Plan, dataset: DetectionDataset) -> dict[str, ModelCard]:
    """The cards of checkpoints by name; those for other classes are refused before anything is trained.

    Raises:
        CheckpointError: one cannot be read.
        DataError: one knows too few of the classes.
    """
    files = {each.name: each.checkpoint for each in plan.contestants if each.checkpoint is not None}
    cards = {name: load_fitting(file).card for name, file in files.items()}
    for name, card in cards.items():
        try:
            match_categories(card.categories, dataset, plan.match_by)
        except DataError as problem:
            sentence = str(problem)
            raise DataError(f"{files[name]} does not fit these data: {sentence[0].lower()}{sentence[1:]}") from problem
    return cards


def _compared(
    plan: Plan, dataset: DetectionDataset, done: Mapping[Run, Outcome], device: str, cards: Mapping[str, ModelCard]
) -> Comparison:
    """All figures of the runs."""
    figures = [
        ContestantFigures(
            each.name,
            each.variant,
            each.checkpoint,
            tuple(Training.of(run, outcome) for run, outcome in done.items() if run.contestant == each),
            card=cards.get(each.name),
        )
        for each in plan.contestants
    ]
    known = [each for each in figures if each.finished]
    ranks = (
        ranking({each.name: [_outcomes(one.run, dataset) for one in each.finished] for each in known})
        if known
        else None
    )
    times, untimed = _times(known, dataset, device)
    return Comparison(
        name=dataset.name,
        images=len(dataset),
        objects=int((~dataset.crowd).sum()),
        contestants=tuple(_completed(each, ranks, times) for each in figures),
        differences=() if ranks is None else ranks.differences,
        resamples=0 if ranks is None else ranks.resamples,
        notes=(
            *evaluation_notes(figures),
            *fairness_notes(figures),
            *length_notes(figures),
            *option_notes(plan),
            *untimed,
        ),
        folder=plan.folder,
        settings=shared_settings(plan, dataset, device),
    )


def _times(
    known: Sequence[ContestantFigures], dataset: DetectionDataset, device: str
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Latencies by name; without them, a note that says why, since all other figures are there already."""
    try:
        return latencies({each.name: each.finished[0].outcome.model for each in known}, dataset, device), ()
    except DetrkitError as problem:
        return {}, (f"The time for an image was not measured: {str(problem).rstrip('.')}.",)
    except torch.OutOfMemoryError:
        return {}, (
            f"The time for an image was not measured, since {len(known)} models at once have no room on {device}: compare fewer.",
        )


def _completed(figures: ContestantFigures, ranks: Ranking | None, times: Mapping[str, float]) -> ContestantFigures:
    interval = None if ranks is None else ranks.intervals.get(figures.name)
    return replace(figures, latency=times.get(figures.name), interval=interval)


def _outcomes(run: Run, dataset: DetectionDataset) -> Outcomes:
    """What became of the detections of a run.

    Raises:
        DataError: its file is damaged, or not of these images.
    """
    paired = pair(run.folder / DETECTIONS, dataset)
    return outcomes(read_inputs(paired.ground_truth, paired.entries, name=paired.name), MAX_DETECTIONS)
