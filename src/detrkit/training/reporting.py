"""Writes a run's report, curves, charts and pictures: at its end, where it is stopped, and again later."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from detrkit.checkpoints import load
from detrkit.errors import ConfigurationError, DataError
from detrkit.evaluation import (
    Analysis,
    Evaluation,
    PanopticEvaluation,
    compare_in_detail,
    detect,
    evaluate_panoptic,
)
from detrkit.evaluation.report import (
    Section,
    curves_figure,
    evaluation_sections,
    panoptic_sections,
    write_charts,
    write_photos,
    write_report,
)
from detrkit.evaluation.report.drawing import png_of
from detrkit.files import write_bytes, write_json
from detrkit.prediction.devices import choose_device
from detrkit.progress import Activity, ProgressLine
from detrkit.terminal import terminal
from detrkit.training.epochs import evaluation_batch
from detrkit.training.ground_truth import RunData, open_run_data
from detrkit.training.options import worker_count
from detrkit.training.report import run_subtitle, training_sections
from detrkit.training.result import TrainingResult
from detrkit.training.resuming import changed_data, check_data_are_there, check_same_data
from detrkit.training.run_folder import RunFolder, read_log, read_run
from detrkit.training.sessions import sessions_of
from detrkit.training.training_options import TrainingOptions

_WRITING = Activity("writing the report", "", 0, 0)


def report_again(
    path: str | Path, *, data: str | Path | None = None, device: str | None = None, console: Console | None = None
) -> TrainingResult:
    """Writes curves, report, charts and pictures of a run anew, without training; it may be finished, or have been stopped.

    Where the data are gone, the report has what does not need them; an earlier one is then kept beside it.

    Args:
        path: the run's folder.
        data: where the data are now, if they were moved; those of the run are not changed.
        device: that evaluates; None means the run's own, or where this machine lacks that one, the best that it has.
        console: the console that shows progress; None means the terminal.

    Raises:
        ConfigurationError: there is no run, it has finished no epoch, or the data given are not those that it learned from.
        DataError: the data given cannot be used.
        OutputError: a file cannot be written.
    """
    console = console or terminal()
    folder, before = read_run(path)
    if not read_log(folder.log):
        raise ConfigurationError(f"{folder.path} has not finished an epoch, so there is nothing to report yet")
    options = changed_data(before, data)
    options = dataclasses.replace(options, device=_device(options, device))
    opened = _open_again(folder, before, options, console)
    best = best_of(folder)
    if opened is None or not best.is_file():
        if opened is not None:
            console.print(f"Note: {best} is gone, so the report has no evaluation and no pictures.")
        _keep_earlier(folder, console)
        write_without_evaluation(folder, opened, options)
        return TrainingResult(folder.path, best, None)
    return write_everything(folder, opened, options, console)


def best_of(folder: RunFolder) -> Path:
    """The model that a run's figures are of."""
    return folder.best if folder.best.exists() else folder.last


def write_everything(folder: RunFolder, data: RunData, options: TrainingOptions, console: Console) -> TrainingResult:
    """Evaluates the best model once more, and writes the report with its curves, charts and pictures.

    Raises:
        DataError: an image cannot be read.
        OutputError: a file cannot be written.
    """
    best = best_of(folder)
    sections = _training_sections(folder, data, options)
    evaluation = analysis = segments = None
    with ProgressLine(console) as line:
        if data.validation is not None:
            model = load(best).to(choose_device(options.device))
            entries = detect(
                model,
                data.validation,
                batch_size=evaluation_batch(options),
                workers=worker_count(options),
                progress=line.follow,
            )
            evaluation, analysis = compare_in_detail(model, data.validation, entries)
            if data.validation.is_panoptic:
                segments = evaluate_panoptic(
                    model,
                    data.validation,
                    batch_size=evaluation_batch(options),
                    workers=worker_count(options),
                    progress=line.follow,
                )
            line.show(_WRITING)
            summary, *details = evaluation_sections(evaluation, analysis, data.validation, entries)
            sections = [summary, *_segment_sections(segments), *sections, *details]
            _store(folder, evaluation, analysis, segments)
        line.show(_WRITING)
        _write(folder, options, sections)
    return TrainingResult(folder.path, best, evaluation, analysis, segments)


def write_without_evaluation(folder: RunFolder, data: RunData | None, options: TrainingOptions) -> None:
    """Writes the report with what is known without looking at any image; figures are those that were measured last.

    Args:
        folder: the run's, with an epoch in its log.
        data: what it learned from; None where the data are gone.
        options: the run's.

    Raises:
        OutputError: a file cannot be written.
    """
    sections = _training_sections(folder, data, options)
    measured = _metrics(folder)
    stored, of_segments = measured.get("evaluation"), measured.get("panoptic")
    if stored is not None:
        summary, *details = evaluation_sections(Evaluation.from_json(stored))
        segments = None if of_segments is None else PanopticEvaluation.from_json(of_segments)
        sections = [summary, *_segment_sections(segments), *sections, *details]
    _write(folder, options, sections)


def _segment_sections(segments: PanopticEvaluation | None) -> list[Section]:
    return [] if segments is None else panoptic_sections(segments)


def _training_sections(folder: RunFolder, data: RunData | None, options: TrainingOptions) -> list[Section]:
    content = json.loads(folder.config.read_text(encoding="utf-8"))
    return training_sections(
        options,
        read_log(folder.log),
        None if data is None else data.training,
        None if data is None else data.validation,
        sessions=sessions_of(folder.config),
        versions=content.get("versions", {}),
        findings=() if data is None else data.findings,
    )


def _write(folder: RunFolder, options: TrainingOptions, sections: Sequence[Section]) -> None:
    write_bytes(folder.curves, png_of(curves_figure(read_log(folder.log))))
    write_charts(folder.charts, sections)
    write_photos(folder.pictures, sections)
    subtitle = run_subtitle(options, sessions_of(folder.config))
    write_report(folder.report, f"Run {folder.path.name}", sections, subtitle=subtitle)


def _metrics(folder: RunFolder) -> dict[str, Any]:
    if not folder.metrics.is_file():
        return {}
    content: dict[str, Any] = json.loads(folder.metrics.read_text(encoding="utf-8"))
    return content


def _store(folder: RunFolder, evaluation: Evaluation, analysis: Analysis, segments: PanopticEvaluation | None) -> None:
    measured = {"evaluation": evaluation.to_json(), "analysis": analysis.to_json()}
    panoptic = {} if segments is None else {"panoptic": segments.to_json()}
    write_json(folder.metrics, {**_metrics(folder), **measured, **panoptic})


def _device(options: TrainingOptions, given: str | None) -> str:
    if given is not None:
        return choose_device(given)
    try:
        return choose_device(options.device)
    except ConfigurationError:  # the run was made on another machine
        return choose_device("auto")


def _open_again(
    folder: RunFolder, before: TrainingOptions, options: TrainingOptions, console: Console
) -> RunData | None:
    """The data of a run; None, with a note, where they are gone or have changed. Data that were given must be there."""
    try:
        check_data_are_there(options, folder, before)
        data = open_run_data(options, console)
        check_same_data(folder, data.training)
    except (ConfigurationError, DataError) as problem:
        if options.data != before.data:
            raise
        console.print(f"Note: {str(problem).rstrip('.')}.")
        console.print("The report has what does not need the data: curves, settings, and figures that were measured.")
        return None
    return data


def _keep_earlier(folder: RunFolder, console: Console) -> None:
    """Moves an earlier report, which may have more in it, out of the way; the first that was moved stays."""
    kept = folder.path / "report_earlier.html"
    if folder.report.is_file() and not kept.exists():
        folder.report.rename(kept)
        console.print(f"The report that was there is kept as {kept}.")
