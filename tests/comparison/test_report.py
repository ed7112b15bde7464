"""A comparison's report: what stands where, and in a browser as on a phone."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path

import numpy as np
import pytest
from browser_pages import WIDTHS, facts_of, installed_browser
from comparison.made_runs import compared
from PIL import Image, ImageColor

from detrkit.comparison import Comparison, ContestantFigures
from detrkit.comparison import report as report_module
from detrkit.comparison.charts import course_figure, course_points, difference_figure
from detrkit.comparison.contestants import Contestant
from detrkit.comparison.origins import Origin
from detrkit.comparison.pictures import most_telling, telling_pictures
from detrkit.comparison.plan import validation_of
from detrkit.comparison.report import comparison_sections
from detrkit.evaluation.report import Cell, Chart, Photo, Points, Section, Table
from detrkit.evaluation.report.page import page
from detrkit.evaluation.report.pictures import MARK_COLORS
from detrkit.training.training_options import TrainingOptions

ROWS = [
    {"epoch": 1.0, "step": 3.0, "seconds": 30.0, "AP": 0.1, "images_per_second": 10.0},
    {"epoch": 2.0, "step": 6.0, "seconds": 60.0},
    {"epoch": 3.0, "step": 9.0, "seconds": 30.0, "AP": 0.3, "images_per_second": 30.0},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Comparison:
    """Two models, of which the first finds all and the second every other object."""
    finds = {"all_of_them": lambda *_: True, "a_few": lambda place, _: place % 2 == 0}
    return compared(tmp_path_factory.mktemp("made"), digits_folder, finds)


@pytest.fixture(scope="module")
def sections(made: Comparison, digits_folder: Path) -> dict[str, Section]:
    return {each.title: each for each in comparison_sections(made, validation_of(str(digits_folder), {}))}


def test_sections_answer_in_the_order_of_questions(sections: dict[str, Section]) -> None:
    assert list(sections) == [
        "Summary",
        "Figures",
        "Costs",
        "Differences",
        "Classes",
        "Where they differ",
        "Settings",
        "Runs",
    ]
    (points,) = (block for block in sections["Summary"].blocks if isinstance(block, Points))
    assert points.points[0][0] == "all_of_them is better than a_few:"
    (table,) = (block for block in sections["Figures"].blocks if isinstance(block, Table))
    assert table.columns == ("contestant", "AP", "AP50", "small", "medium", "large")
    assert [row[0] for row in table.rows] == ["all_of_them", "a_few"]
    assert table.rows[0][1] == Cell("1.000", order=pytest.approx(1.0))
    (pairs,) = (block for block in sections["Differences"].blocks if isinstance(block, Table))
    assert pairs.rows[0][0] == "all_of_them − a_few"
    assert pairs.rows[0][3] == "all_of_them is better than a_few"


def test_pictures_show_where_the_numbers_of_errors_differ_most(made: Comparison, sections: dict[str, Section]) -> None:
    photos = [block for block in sections["Where they differ"].blocks if isinstance(block, Photo)]
    few = {each.image_id: each for each in made.contestants[1].finished[0].outcome.errors}
    assert len(photos) == len(few)  # of the other there is no error
    most = max(few.values(), key=lambda each: each.errors)
    label = f"a_few: {most.correct} correct, 0 wrong, {most.errors} missed"
    assert photos[0].labels == ("all_of_them: no errors", label, "Ground truth")
    missed = [int(photo.labels[1].split()[-2]) for photo in photos]
    assert missed == sorted((each.errors for each in few.values()), reverse=True)
    assert photos[0].images[0].tobytes() != photos[0].images[1].tobytes()
    # What has no error shows its correct detections in thin lines; those of the ground truth are thick, and have labels.
    faultless, truth = photos[0].images[0], photos[0].images[2]
    color = ImageColor.getrgb(MARK_COLORS["correct"])
    assert 0 < count_of(faultless, color) < count_of(truth, color)


def count_of(picture: Image.Image, color: tuple[int, ...]) -> int:
    return int((np.asarray(picture) == np.array(color)).all(2).sum())


def test_pictures_of_one_training_of_several_name_its_seed(made: Comparison, digits_folder: Path) -> None:
    def with_seeds(each: ContestantFigures) -> ContestantFigures:
        runs = [dataclasses.replace(each.trainings[0].run, seed=seed) for seed in (0, 1)]
        return dataclasses.replace(
            each, trainings=tuple(dataclasses.replace(each.trainings[0], run=run) for run in runs)
        )

    contestants = [made.ranked[0], with_seeds(made.ranked[1])]
    photo, *_ = telling_pictures(contestants, validation_of(str(digits_folder), {}), count=1)
    assert photo.labels[0] == "all_of_them: no errors"
    assert photo.labels[1].startswith("a_few with seed 0: ")


def test_the_most_telling_images_favour_one_and_the_other_in_turn() -> None:
    # Differences in favour of the first: -1, 8, -2, 2, 5, so two images favour the other.
    assert most_telling([{1: 4, 2: 1, 3: 2}, {1: 3, 2: 9, 4: 2, 5: 5}], 9) == [2, 3, 5, 1, 4]
    assert most_telling([{1: 4, 2: 1, 3: 2}, {1: 3, 2: 9, 4: 2, 5: 5}], 3) == [2, 3, 5]
    assert most_telling([{1: 4}, {1: 4}], 3) == []
    assert most_telling([{7: 1}, {}, {7: 5}], 3) == [7]
    assert most_telling([{1: 1}, {1: 1, 2: 3}, {1: 1, 2: 9}], 3) == [2]
    assert most_telling([{1: 1, 2: 3}], 3) == []


def test_runs_lead_to_their_own_reports(made: Comparison, digits_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = validation_of(str(digits_folder), {})
    options = TrainingOptions("detr-compact", str(digits_folder))

    def links() -> list[str]:
        *_, runs = comparison_sections(made, dataset, pictures=0)
        (table,) = (block for block in runs.blocks if isinstance(block, Table))
        return [row[0].link for row in table.rows if isinstance(row[0], Cell)]

    assert links() == ["", ""]
    report = made.folder.parent / "report.html"  # of the run whose checkpoints they would be
    report.write_text("")
    assert links() == ["", ""]  # nothing tells that it is theirs
    with monkeypatch.context() as patch:
        patch.setattr(report_module, "origin_of", lambda _: Origin(options=options))
        assert links() == ["../report.html", "../report.html"]
    report.unlink()
    run = dataclasses.replace(made.contestants[0].trainings[0].run, contestant=Contestant("a", variant="a"), seed=0)
    (run.folder / "report.html").write_text("")
    training = dataclasses.replace(made.contestants[0].trainings[0], run=run)
    trained = dataclasses.replace(made.contestants[0], variant="a", checkpoint=None, trainings=(training,))
    *_, runs = comparison_sections(
        dataclasses.replace(made, contestants=(trained,), differences=()), dataset, pictures=0
    )
    assert "all_of_them-checkpoint/report.html" in page("", [runs])
    (run.folder / "report.html").unlink()


def test_courses_are_against_epochs_and_minutes(made: Comparison) -> None:
    training = dataclasses.replace(made.contestants[0].trainings[0], course=ROWS, epoch_steps=3)
    assert course_points(training, "epochs") == [(1.0, 0.1), (3.0, 0.3)]
    assert course_points(training, "minutes") == [(0.5, 0.1), (2.0, 0.3)]
    cut = [*ROWS[:2], {**ROWS[2], "step": 7.0}]  # after a third of its last epoch
    assert course_points(dataclasses.replace(training, course=cut), "epochs") == [
        (1.0, 0.1),
        (pytest.approx(7 / 3), 0.3),
    ]


def test_trainings_of_a_contestant_are_named_once(made: Comparison) -> None:
    def with_trainings(each: object, count: int) -> object:
        training = dataclasses.replace(each.trainings[0], course=ROWS)  # type: ignore[attr-defined]
        return dataclasses.replace(each, trainings=(training,) * count)  # type: ignore[type-var]

    contestants = [with_trainings(made.contestants[0], 2), with_trainings(made.contestants[1], 1)]
    (axes,) = course_figure(contestants, "minutes").axes  # type: ignore[arg-type]
    assert [list(line.get_xdata()) for line in axes.lines] == [[0.5, 2.0]] * 3
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["all_of_them", "a_few"]
    first, second, third = (line.get_color() for line in axes.lines)
    assert first == second != third


def test_several_trainings_have_a_course_and_their_spread(made: Comparison, digits_folder: Path) -> None:
    best, other = made.ranked
    trained = best.trainings[0], other.trainings[0]  # as if these were two seeds of one variant
    trained = tuple(dataclasses.replace(each, course=ROWS, epoch_steps=3) for each in trained)
    both = dataclasses.replace(best, name="both", trainings=trained)
    comparison = dataclasses.replace(made, contestants=(both, other))
    dataset = validation_of(str(digits_folder), {})
    sections = {each.title: each for each in comparison_sections(comparison, dataset, pictures=0)}
    words = sections["Differences"].blocks[0]
    assert isinstance(words, str)
    assert f"Not so for {other.name}, with one training: other seeds of it are in no interval." in words
    charts = {block.name: block.figure for block in sections["Course"].blocks if isinstance(block, Chart)}
    for name, wanted in (("course_epochs", [1.0, 3.0]), ("course_minutes", [0.5, 2.0])):
        (axes,) = charts[name].axes
        assert [list(line.get_xdata()) for line in axes.lines] == [wanted] * 2
        assert [list(line.get_ydata()) for line in axes.lines] == [[0.1, 0.3]] * 2
    (table,) = (block for block in sections["Figures"].blocks if isinstance(block, Table))
    (row,) = (row for row in table.rows if row[0] == "both")
    aps = [each.outcome.evaluation.figures["AP50"] for each in trained]  # type: ignore[union-attr]
    assert row[2] == Cell(
        f"{statistics.fmean(aps):.3f} ± {statistics.stdev(aps):.3f}", order=pytest.approx(statistics.fmean(aps))
    )
    (classes,) = (block for block in sections["Classes"].blocks if isinstance(block, Table))
    place = classes.columns.index("both")
    assert all(" ± " in row[place].text for row in classes.rows if isinstance(row[place], Cell))


def test_the_difference_chart_has_an_interval_for_each_pair(made: Comparison) -> None:
    (axes,) = difference_figure(made.differences).axes
    interval = made.differences[0].interval
    assert interval is not None
    assert list(axes.lines[0].get_xdata()) == [interval.low, interval.high]
    assert list(axes.lines[1].get_xdata()) == [made.differences[0].ap]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_report_fits_and_works_in_a_browser(made: Comparison, width: int) -> None:
    browser = installed_browser()
    assert made.report.stat().st_size < 5_000_000
    facts, console = facts_of(browser, made.report, width)
    assert console == []
    assert (facts["width"], facts["scroll"]) == (width, width)
    assert facts["wide"] == []
    assert facts["scrolled"] == []
    assert (facts["broken"], facts["flat"]) == (0, 0)
    assert facts["images"] >= 3
    assert facts["text"] > 8  # pixels, on a phone as well
    (classes,) = facts["tables"]
    assert sorted(classes[0]) == sorted(made.classes().values())
