"""What became of the objects of a picture, as figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from detrkit.evaluation.report import colors
from detrkit.evaluation.report.colors import INK
from detrkit.evaluation.report.drawing import chart, on_white, plain
from detrkit.explaining.drawing import Photo, Wanted, draw_box, query_figure, show_photo
from detrkit.explaining.missed import Answers, ObjectAnswer, Reason
from detrkit.explaining.records import Explanation
from detrkit.explaining.writing import to_json, write_arrays, write_figure

# As in reports, on photos; other reasons than those of reports have colours of kinds that mean nearly the same.
COLORS: Mapping[Reason, str] = {
    "found": colors.CORRECT,
    "other object": colors.MISTAKEN,
    "duplicate": colors.DUPLICATE,
    "wrong class": colors.WRONG_CLASS,
    "poor box": colors.WRONG_PLACE,
    "suppressed": colors.NEUTRAL,
    "low score": colors.MISSED,
    "background": colors.BACKGROUND,
    "unknown class": colors.WRONG_BOTH,
}
_TEXT = 8.0
_LINE = 0.2  # inches of a sentence
_LONGEST = 120


def answers_figure(answers: Answers) -> Figure:
    """A picture with its objects in the colours of what became of them, and a sentence for each. Notebooks show the figure.

    Args:
        answers: of the picture.
    """
    width, height = answers.picture.size
    wide = 7.0
    tall, text = min(7.0, wide * height / width), max(1.0, _LINE * (len(answers.objects) + 1))
    figure = chart(tall + text + 0.6, width=wide)
    photo, words = figure.subplots(2, 1, height_ratios=(tall, text))
    show_photo(photo, Photo.of(answers.picture), pale=False)
    for number, each in enumerate(answers.objects):
        reason = each.verdict.reason
        draw_box(photo, each.box_xyxy, "black", linewidth=3.2)
        draw_box(photo, each.box_xyxy, COLORS[reason], linewidth=1.8, linestyle="-" if reason == "found" else "--")
        left, top = each.box_xyxy[:2].tolist()
        label: dict[str, Any] = {"facecolor": COLORS[reason], "edgecolor": "none", "pad": 1}
        photo.text(
            max(0, left),
            max(0, top),
            f"{number}",
            fontsize=_TEXT,
            color="black",
            bbox=label,
            va="bottom" if top > 0.03 * height else "top",
            clip_on=True,
        )
        place = 1 - (number + 1) / (len(answers.objects) + 1)
        words.text(0, place, f"{number}  {plain(each.sentence, _LONGEST)}", fontsize=_TEXT, color=INK, va="center")
    words.set_axis_off()
    shown = [reason for reason in COLORS if any(each.verdict.reason == reason for each in answers.objects)]
    handles = [Rectangle((0, 0), 1, 1, color=COLORS[reason], label=reason) for reason in shown]
    if handles:
        figure.legend(
            handles=handles, loc="outside upper center", ncols=5, frameon=False, fontsize=_TEXT, labelcolor=INK
        )
    return on_white(figure)


def object_figure(answers: Answers, answer: ObjectAnswer) -> Figure:
    """How the query that came nearest to an object came to its box, and where it looked. Notebooks show the figure.

    Args:
        answers: of the picture.
        answer: one of them, of a class that the model knows.
    """
    if answer.explained is None:
        raise ValueError("the model does not know the object's class, so there is no query to draw")
    explanation = Explanation(answers.variant, answers.categories, answers.picture, (answer.explained,))
    return query_figure(explanation, answer.explained, Wanted(answer.box_xyxy, answer.ious, answer.sentence))


def write_answers(answers: Answers, folder: Path, name: str) -> tuple[dict[str, Any], list[Path]]:
    """Writes the figures and arrays of one picture: of all objects, and of each that was missed.

    Args:
        answers: of the picture.
        folder: for the files.
        name: what their names begin with.

    Returns:
        The numbers for a JSON file, and the files of the figures.

    Raises:
        OutputError: a file cannot be written.
    """
    numbers, arrays = to_json(answers)
    numbers["arrays"] = write_arrays(folder / f"{name}_objects.npz", arrays).name
    drawn = [write_figure(folder / f"{name}_objects.png", answers_figure(answers))]
    for number, each in enumerate(answers.objects):
        if each.explained is not None and each.verdict.reason != "found":
            drawn.append(write_figure(folder / f"{name}_object{number}.png", object_figure(answers, each)))
    return numbers, drawn
