"""The columns of a comparison's tables, the same in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detrkit.comparison.figures import ContestantFigures, Measured

MISSING = "–"
MEMORY_WORDS = (
    "most memory of the process in GB, on a GPU of its tensors; of variants in training, of checkpoints in evaluation"
)
_EPOCHS = "length of training in passes over the training images"
SIZES = {"AP_small": "small", "AP_medium": "medium", "AP_large": "large"}


@dataclass(frozen=True)
class Column:
    """A column about contestants.

    Attributes:
        name: the heading.
        meaning: what it says.
        text: of a contestant.
        value: what it is sorted by; None where there is none.
    """

    name: str
    meaning: str
    text: Callable[[ContestantFigures], str]
    value: Callable[[ContestantFigures], float | None]


def _figure(name: str, shown: str, meaning: str, *, spread: bool) -> Column:
    def text(each: ContestantFigures) -> str:
        measured = each.figure(shown)
        return with_deviation(measured) if spread else share(measured.mean)

    return Column(name, meaning, text, lambda each: each.figure(shown).mean)


def _number(name: str, meaning: str, of: Callable[[ContestantFigures], float | None], form: str) -> Column:
    def text(each: ContestantFigures) -> str:
        value = of(each)
        return MISSING if value is None else form.format(value)

    return Column(name, meaning, text, of)


def figure_columns(*, spread: bool = True) -> list[Column]:
    """How well contestants detect: AP with its spread, AP50, AP by size.

    Args:
        spread: whether the others have theirs, too; a terminal is too narrow for that.
    """
    meaning = "COCO's mean AP over IoU 0.50 to 0.95; with several trainings the mean ± the standard deviation"
    sizes = [_figure(word, name, f"AP of {word} objects", spread=spread) for name, word in SIZES.items()]
    return [_figure("AP", "AP", meaning, spread=True), _figure("AP50", "AP50", "AP at IoU 0.50", spread=spread), *sizes]


def cost_columns() -> list[Column]:
    """What contestants cost."""
    return [
        _number("ms", "median time for an image, one at a time, in milliseconds", lambda each: each.latency, "{:.1f}"),
        _number("params", "number of parameters", lambda each: _millions(each.parameters), "{:.1f}M"),
        Column(
            "epochs",
            _EPOCHS,
            lambda each: epochs_text(each.length("epoch").mean),
            lambda each: each.length("epoch").mean,
        ),
        _number("steps", "length of training in optimizer steps", lambda each: each.length("step").mean, "{:.0f}"),
        _number("min", "minutes of training, without evaluations", lambda each: each.minutes.mean, "{:.1f}"),
        _number("images/s", "images per second in training", lambda each: each.images_per_second.mean, "{:.1f}"),
        _number("GB", MEMORY_WORDS, lambda each: each.memory.mean, "{:.2f}"),
    ]


def known_columns(columns: Sequence[Column], contestants: Sequence[ContestantFigures]) -> list[Column]:
    """The columns that have a value of somebody."""
    return [column for column in columns if any(column.value(each) is not None for each in contestants)]


def epochs_text(epochs: float | None) -> str:
    """A number of epochs; one that ended early counts by its share."""
    return MISSING if epochs is None else f"{epochs:.2f}".rstrip("0").rstrip(".")


def share(value: float | None) -> str:
    """A figure in [0, 1] with three decimals."""
    return MISSING if value is None else f"{value:.3f}"


def with_deviation(measured: Measured) -> str:
    """A mean with its standard deviation, if there is one."""
    deviation = "" if measured.deviation is None else f" ± {measured.deviation:.3f}"
    return f"{share(measured.mean)}{deviation}"


def _millions(parameters: int | None) -> float | None:
    return None if parameters is None else parameters / 1e6
