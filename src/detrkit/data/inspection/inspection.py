"""The result of an inspection, as values, as text, as JSON and in a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Group
from rich.table import Table

from detrkit.data.inspection.finding import Finding
from detrkit.data.inspection.kinds import SEVERITIES
from detrkit.data.inspection.statistics import ClassStatistics, SplitStatistics
from detrkit.data.wording import counted
from detrkit.terminal import Prose, add_texts, narrow_table, terminal

_CLASSES_SHOWN = 20
_GAP = 2  # characters between columns
_LEAST_NAME = 8  # characters of a class name; a longer one folds
_STYLE = "body {font: 15px system-ui, sans-serif; margin: 2em} td, th {padding: 2px 12px; text-align: left} img {max-width: 100%}"
_SPREAD = "least · median · most; --json FILE also has what 5 % are below and above"


@dataclass(frozen=True)
class Inspection:
    """What an inspection found.

    Attributes:
        path: of the data set.
        quick: whether only headers and annotations were looked at.
        statistics: one entry for each split that could be read.
        findings: errors first, then warnings, then notes.
        round_trips: by split, the AP of perfect detections; None where there is nothing to find. Empty after a quick inspection.
        decoded: number of pictures that were looked at, also those that could not be decoded.
        seconds: how long that took.
        pictures: files of pictures as training varies them, where they were asked for.
    """

    path: str
    quick: bool
    statistics: tuple[SplitStatistics, ...]
    findings: tuple[Finding, ...]
    round_trips: dict[str, float | None]
    decoded: int = 0
    seconds: float = 0.0
    pictures: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Inspection {self.verdict()}>"

    @property
    def exit_code(self) -> int:
        """2 if a split cannot be read, 1 if training would refuse the data or be spoilt, otherwise 0."""
        if any(each.kind == "unreadable" for each in self.findings):
            return 2
        return int(any(each.severity == "error" for each in self.findings))

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "path": self.path,
            "quick": self.quick,
            "exit_code": self.exit_code,
            "splits": [entry.to_json() for entry in self.statistics],
            "findings": [entry.to_json() for entry in self.findings],
            "round_trips": dict(self.round_trips),
            "decoded": self.decoded,
            "seconds": round(self.seconds, 3),
            "pictures": list(self.pictures),
        }

    def table(self) -> Group:
        """The form for a terminal: figures, classes, then the findings with their remedies."""
        parts: list[Table | str] = []
        for some in self._beside_each_other(terminal().width):
            parts += [self._figure_table(some), self._class_table(some)]
        return Group(*parts, *map(Prose, self.lines()))

    def _beside_each_other(self, width: int) -> list[list[SplitStatistics]]:
        """The splits in groups that fit into the width beside the names of figures and classes, so that no number is folded."""
        names = max(len(name) for name, *_ in self._figures(self.statistics))
        groups: list[list[SplitStatistics]] = []
        left = 0
        for split in self.statistics:
            cells = [cells[0] for _, *cells in self._figures([split])] + [_found(each) for each in split.classes]
            needed = max(map(len, [split.split, *cells])) + _GAP
            if not groups or needed > left:
                groups.append([])
                left = width - max(names, _LEAST_NAME)
            groups[-1].append(split)
            left -= needed
        return groups

    def _figure_table(self, splits: Sequence[SplitStatistics]) -> Table:
        figures = narrow_table(self.path, _SPREAD)
        figures.add_column("figure", no_wrap=True)
        for entry in splits:
            figures.add_column(entry.split, justify="right", overflow="fold", no_wrap=True)
        for name, *cells in self._figures(splits):
            figures.add_row(name, *cells)
        return figures

    def lines(self) -> list[str]:
        """The findings as plain lines: a heading for each severity, and each finding with its remedy."""
        return [*self._findings(), self.verdict()]

    def verdict(self) -> str:
        """The last line: how much was looked at, and what that says."""
        looked = "only headers and annotations were looked at"
        if not self.quick:
            looked = (
                f"{counted(self.decoded, 'picture')} looked at, {self.decoded / max(self.seconds, 1e-9):.0f} a second"
            )
        counts = {severity: sum(each.severity == severity for each in self.findings) for severity in SEVERITIES}
        shown = ", ".join(counted(number, severity) for severity, number in counts.items())
        outcome = ("fine", "training would refuse these data or be spoilt", "some of it cannot be read")
        return f"{self.path}: {outcome[self.exit_code]} ({shown}; {looked})."

    def page(self) -> str:
        """A web page with the inspection, and below it the drawings, which lie in the folder of the page."""
        drawings = "".join(f'<p><img src="{quote(Path(file).name)}" alt=""></p>' for file in self.pictures)
        title = html.escape(f"{self.path} as training varies it")
        return (
            f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>\n'
            f"<h1>{title}</h1>\n{self._repr_html_()}\n{drawings}\n</html>\n"
        )

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(entry.split)}</th>" for entry in self.statistics)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self._figures(self.statistics)
        )
        items = "".join(
            f"<li><b>{each.severity}</b> {html.escape(each.split)}: {html.escape(each.message)} <i>{html.escape(each.remedy)}</i></li>"
            for each in self.findings
        )
        return f"<table><tr><th></th>{head}</tr>{rows}</table><ul>{items}</ul><p>{html.escape(self.verdict())}</p>"

    def _figures(self, splits: Sequence[SplitStatistics]) -> list[tuple[str, ...]]:
        """A name and one cell for each of the splits, row by row."""
        rows = [
            ("images", *(str(each.images) for each in splits)),
            ("without objects", *(str(each.empty) for each in splits)),
            ("objects", *(str(each.objects) for each in splits)),
            ("crowd regions", *(str(each.crowds) for each in splits)),
            ("small, medium, large", *(f"{each.small}, {each.medium}, {each.large}" for each in splits)),
            ("objects per image", *(_shown(each.objects_per_image) for each in splits)),
            ("box size, √area in pixels", *(_shown(each.box_sides) for each in splits)),
            ("box width / height", *(_shown(each.box_aspects) for each in splits)),
            ("picture size, √area in pixels", *(_shown(each.picture_sides) for each in splits)),
            ("picture width / height", *(_shown(each.picture_aspects) for each in splits)),
        ]
        if self.round_trips:
            rows.append(("AP of the truth itself", *(_figure(self.round_trips.get(each.split)) for each in splits)))
        return rows

    def _class_table(self, splits: Sequence[SplitStatistics]) -> Table:
        """Objects of each class in each of the splits, the most frequent first, and the images with any of them."""
        counts: dict[str, dict[str, str]] = {}
        totals: dict[str, int] = {}
        for split in splits:
            for each in split.classes:
                counts.setdefault(each.name, {})[split.split] = _found(each)
                totals[each.name] = totals.get(each.name, 0) + each.objects
        names = sorted(totals, key=lambda name: -totals[name])
        hidden = len(names) - _CLASSES_SHOWN
        caption = f"and {hidden} more, which --json FILE has" if hidden > 0 else None
        table = narrow_table("objects in images", caption)
        add_texts(table, "class")
        for split in splits:
            table.add_column(split.split, justify="right", overflow="fold", no_wrap=True)
        for name in names[:_CLASSES_SHOWN]:
            table.add_row(name, *(counts[name].get(split.split, "–") for split in splits))
        return table

    def _findings(self) -> list[str]:
        lines: list[str] = []
        for severity in SEVERITIES:
            some = [each for each in self.findings if each.severity == severity]
            if some:
                lines.append(f"{counted(len(some), severity)}:")
            splits: dict[tuple[str, str, str], list[str]] = {}
            for each in some:  # what readers say of several splits is printed once
                splits.setdefault((each.message, each.kind, each.remedy), []).append(each.split)
            for (message, kind, remedy), names in splits.items():
                lines += [f"  {', '.join(dict.fromkeys(names))}: {message} [{kind}]", f"      {remedy}"]
        return lines


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings by severity, otherwise as they were found."""
    return tuple(sorted(findings, key=lambda each: SEVERITIES.index(each.severity)))


def _found(figures: ClassStatistics) -> str:
    return f"{figures.objects} in {figures.images}"


def _shown(value: object | None) -> str:
    return "–" if value is None else str(value)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
