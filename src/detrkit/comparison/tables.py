"""A comparison as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from detrkit.comparison.cells import Column, cost_columns, figure_columns, known_columns, share
from detrkit.comparison.figures import Comparison
from detrkit.evaluation.bootstrap import CONFIDENCE
from detrkit.terminal import Name, Prose, add_numbers, narrow_table

_LEAST_NAME = 9  # characters of a name before it folds
_MOST_PAIRS = 6  # of all contestants; of more, only those with the first are shown, and all in the report
_LEAST_NUMBER = 5  # characters of a figure, which must not fold


def comparison_table(comparison: Comparison) -> Group:
    """Figures, costs and classes, highest AP first; then which are better than others, what failed, and notes."""
    parts: list[RenderableType] = []
    costs = known_columns(cost_columns(), comparison.ranked)
    if comparison.ranked:
        parts += [
            _of_contestants(
                comparison, f"Comparison on {comparison.name}", figure_columns(spread=False), comparison.basis()
            ),
            "",
            _of_contestants(comparison, "costs", costs, _meanings(costs)),
            "",
            _of_classes(comparison),
            "",
        ]
    parts += map(Prose, _sentences(comparison))
    return Group(*parts)


def _of_contestants(comparison: Comparison, title: str, columns: Sequence[Column], caption: str) -> Table:
    table = narrow_table(title, caption)
    table.add_column("", overflow="fold", min_width=_LEAST_NAME)
    add_numbers(table, *(column.name for column in columns))
    for each in comparison.ranked:
        table.add_row(Name(each.name), *(column.text(each) for column in columns))
    return table


def _meanings(columns: Sequence[Column]) -> str:
    return "; ".join(f"{column.name}: {column.meaning}" for column in columns) + "."


def _of_classes(comparison: Comparison) -> Table:
    table = narrow_table("AP by class")
    table.add_column("class", overflow="fold", min_width=_LEAST_NAME)
    for each in comparison.ranked:
        table.add_column(Name(each.name), justify="right", overflow="fold", min_width=_LEAST_NUMBER)
    for number, name in comparison.classes().items():
        table.add_row(Name(name), *(share(each.class_ap(number).mean) for each in comparison.ranked))
    return table


def _sentences(comparison: Comparison) -> list[str]:
    shown = comparison.differences if len(comparison.differences) <= _MOST_PAIRS else comparison.of_the_first()
    sentences = [f"{each.verdict()} ({each.basis()})." for each in shown]
    if comparison.differences:
        single = ", ".join(comparison.single_trainings)
        of_several = " and over trainings" + (f" (not of {single}, with one training)" if single else "")
        of_trainings = of_several if comparison.several_trainings else ", not over trainings"
        sentences.append(
            f"Intervals: {CONFIDENCE:.0%}, paired bootstrap over images{of_trainings}, {comparison.resamples} draws."
        )
    sentences += [f"Failed: {name}: {problem}" for name, problem in comparison.problems]
    return sentences + [f"Note: {note}" for note in comparison.notes]
