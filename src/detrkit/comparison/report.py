"""A comparison's report: who is better, figures, costs, courses, classes, and the images that tell them apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from detrkit.comparison.cells import Column, cost_columns, figure_columns, known_columns, share, with_deviation
from detrkit.comparison.charts import course_figure, course_points, difference_figure
from detrkit.comparison.figures import Comparison, ContestantFigures, Measured, Training
from detrkit.comparison.origins import origin_of
from detrkit.comparison.pictures import telling_pictures
from detrkit.comparison.settings import settings_section
from detrkit.data import DetectionDataset
from detrkit.data.wording import counted
from detrkit.evaluation.bootstrap import CONFIDENCE, Interval
from detrkit.evaluation.report import Block, Cell, Chart, Points, Section, Table, Tile, Tiles
from detrkit.evaluation.report.page import MISSING
from detrkit.evaluation.report.pictures import MOST_LABELS
from detrkit.training.run_folder import RunFolder

_MOST_PAIRS = 30  # in a chart of a reasonable height


def comparison_sections(comparison: Comparison, dataset: DetectionDataset, *, pictures: int = 6) -> list[Section]:
    """All that a comparison says, in the order in which people ask.

    Args:
        comparison: with its runs in their folders.
        dataset: what all were evaluated on.
        pictures: maximum number of images in which contestants differ.

    Raises:
        DataError: an image or the detections of a run cannot be read.
    """
    sections = [_summary(comparison)]
    if comparison.ranked:
        sections += [_figures(comparison), _costs(comparison)]
        if comparison.differences:
            sections.append(_differences(comparison))
        if courses := _courses(comparison):
            sections.append(courses)
        sections.append(_classes(comparison))
        sections.append(_pictures(comparison, dataset, pictures))
    return [*sections, settings_section(comparison), _runs(comparison)]


def _summary(comparison: Comparison) -> Section:
    tiles = [
        Tile(each.name, share(each.figure("AP").mean), _with_confidence("AP", each.interval))
        for each in comparison.ranked
    ]
    points = [(f"{each.verdict()}:", f"{each.basis()}.") for each in comparison.of_the_first()]
    kinds = ["" for _ in points]
    failures = [("Failed:", f"{name}: {problem}") for name, problem in comparison.problems]
    notes = [("Note:", note) for note in comparison.notes]
    kinds += ["error"] * len(failures) + ["warning"] * len(notes)
    blocks: list[Block] = [comparison.basis()]
    blocks += [Tiles(tuple(tiles))] if tiles else ["No run gave anything to compare."]
    points += failures + notes
    return Section("Summary", (*blocks, Points(tuple(points), tuple(kinds))) if points else tuple(blocks))


def _with_confidence(name: str, interval: Interval | None) -> str:
    return name if interval is None else f"{name}, {CONFIDENCE:.0%} interval {interval.low:.3f} to {interval.high:.3f}"


def _figures(comparison: Comparison) -> Section:
    columns = figure_columns()
    caption = f"AP by the size of objects, highest AP first. {columns[0].name}: {columns[0].meaning}."
    return Section("Figures", (_table(comparison.ranked, columns, caption),))


def _costs(comparison: Comparison) -> Section:
    columns = known_columns(cost_columns(), comparison.ranked)
    meanings = Table(("column", "meaning"), tuple((column.name, column.meaning) for column in columns))
    text = (
        "Time for an image is from a picture in memory to its detections, on the same images in turn, so that whatever else the machine "
        "does meets all contestants."
    )
    if comparison.is_trained:
        text += " Speed in training depends on what else runs at that time."
    caption = "Means over the trainings" if comparison.several_trainings else "What each contestant costs"
    return Section("Costs", (_table(comparison.ranked, columns, caption), text, meanings))


def _table(contestants: Sequence[ContestantFigures], columns: Sequence[Column], caption: str) -> Table:
    rows = tuple((each.name, *(_cell(column, each) for column in columns)) for each in contestants)
    return Table(("contestant", *(column.name for column in columns)), rows, caption, numbers=True)


def _cell(column: Column, contestant: ContestantFigures) -> str | Cell:
    value = column.value(contestant)
    return MISSING if value is None else Cell(column.text(contestant), order=value)


def _differences(comparison: Comparison) -> Section:
    rows = tuple(
        (f"{each.first} − {each.second}", each.ap_text, each.interval_text or MISSING, each.verdict())
        for each in comparison.differences
    )
    text = (
        f"Both APs of a pair are computed on the same images, drawn with replacement {comparison.resamples} times, and an interval holds the "
        f"middle {CONFIDENCE:.0%} of their differences. Where it holds 0, these images do not tell which is better. {_of_trainings(comparison)}"
    )
    blocks: list[Block] = [text, Table(("pair", "AP", "interval", "meaning"), rows)]
    known = [each for each in comparison.differences if each.interval is not None][:_MOST_PAIRS]
    if known:
        words = f"Differences of AP of {counted(len(known), 'pair')} with their intervals."
        is_ranked = any(each.better is not None for each in known)
        caption = "Blue with round markers: the interval does not hold 0." if is_ranked else "All intervals hold 0."
        blocks.append(Chart("differences", difference_figure(known), words, caption))
    return Section("Differences", tuple(blocks))


def _of_trainings(comparison: Comparison) -> str:
    """What the intervals say about other trainings."""
    if comparison.several_trainings:
        sentence = "Trainings are drawn, too, so an interval also holds what other seeds would change, as far as so few can tell."
        single = ", ".join(comparison.single_trainings)
        return (
            f"{sentence} Not so for {single}, with one training: other seeds of it are in no interval."
            if single
            else sentence
        )
    hint = "; --seeds 3 would tell" if comparison.is_trained else ""
    return f"There is one training of each: another seed might change figures by more than these intervals hold{hint}."


def _courses(comparison: Comparison) -> Section | None:
    if not any(course_points(one, "epochs") for each in comparison.ranked for one in each.finished):
        return None
    charts = tuple(
        Chart(f"course_{unit}", course_figure(comparison.ranked, unit), f"AP against {unit} of training.", caption)
        for unit, caption in (
            ("epochs", "AP on the validation split after epochs of training."),
            ("minutes", "The same against minutes of training, without evaluations."),
        )
    )
    return Section("Course", charts)


def _classes(comparison: Comparison) -> Section:
    rows = tuple(
        (name, *(_share(each.class_ap(number)) for each in comparison.ranked))
        for number, name in comparison.classes().items()
    )
    columns = ("class", *(each.name for each in comparison.ranked))
    return Section("Classes", (Table(columns, rows, "AP of each class", numbers=True),))


def _share(measured: Measured) -> str | Cell:
    return MISSING if measured.mean is None else Cell(with_deviation(measured), measured.mean, measured.mean)


def _pictures(comparison: Comparison, dataset: DetectionDataset, count: int) -> Section:
    photos = telling_pictures(comparison.ranked, dataset, count=count)
    if not photos:
        return Section("Where they differ", ("No image has more errors of one contestant than of another.",))
    best = comparison.ranked[0].name
    text = (
        f"The images in which the numbers of errors lie furthest apart, in turn one with fewer errors of {best} and one with fewer of another, as "
        "far as there are both. They are chosen for that, so they say nothing about how often it happens."
    )
    marks = (
        "Detections are those from the best threshold of their class on, which is low where a model is unsure; AP judges all of them, the surest "
        f"first. Correct ones have thin lines. Labels have only the surest {MOST_LABELS} errors of a picture, as far as there is room."
    )
    return Section("Where they differ", (text, marks, *photos))


def _runs(comparison: Comparison) -> Section:
    rows: list[tuple[str | Cell, ...]] = []
    for each in comparison.contestants:
        for training in each.trainings:
            evaluation = training.outcome.evaluation
            figures = ("AP", "AP50")
            shown = [MISSING if evaluation is None else share(evaluation.figures.get(name)) for name in figures]
            name = Cell(training.run.name, link=_own_report(each, training, comparison.folder))
            rows.append((name, *shown, training.outcome.problem or "finished"))
    return Section("Runs", (Table(("run", "AP", "AP50", "state"), tuple(rows), f"Folders in {comparison.folder}"),))


def _own_report(contestant: ContestantFigures, training: Training, folder: Path) -> str:
    """Where the report of a run is, or that of the run that a checkpoint comes from, seen from the comparison's; empty where there is none."""
    checkpoint = contestant.checkpoint
    if checkpoint is not None and origin_of(contestant).options is None:  # other things lie beside it, too
        return ""
    place = training.run.folder if checkpoint is None else Path(checkpoint).parent
    report = RunFolder(place).report
    return quote(Path(os.path.relpath(report, folder)).as_posix()) if report.is_file() else ""
