"""What speaks against taking the figures of a comparison for what they seem to be."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from detrkit.comparison.figures import ContestantFigures, Training
from detrkit.data.wording import counted
from detrkit.training.run_folder import RunFolder, read_run
from detrkit.training.starting import began_with


def fairness_notes(contestants: Sequence[ContestantFigures]) -> list[str]:
    """Sentences about contestants that were not trained alike, or here.

    Args:
        contestants: with their runs.
    """
    trained = [each for each in contestants if each.variant is not None and each.finished]
    options = {each.name: read_run(each.finished[0].run.folder)[1] for each in trained}
    notes = _differing({name: began_with(own) for name, own in options.items()}, "They begin with different weights")
    sizes = {name: f"{own.short_side} × {own.long_side}" for name, own in options.items()}
    notes += _differing(sizes, "They see images of different sizes (shorter and longer side, at most)")
    learned_from = {one.run.name: _learned_from(one) for each in trained for one in each.finished}
    counts = {name: counted(content["images"], "image") for name, content in learned_from.items()}
    versions = {name: content["annotations"] for name, content in learned_from.items() if "annotations" in content}
    notes += _differing(counts, "They learned from different training splits") or _differing(
        {name: f"version {version}" for name, version in versions.items()},
        "Annotations of the training split were changed in between",
    )
    notes += [
        f"{each.name} was not trained here: its figures are not of the length that the variants were trained for, and it may have learned "
        "from these very images."
        for each in contestants
        if each.variant is None and trained
    ]
    for each in contestants:
        failed = len(each.trainings) - len(each.finished)
        if failed and each.finished:
            notes.append(f"{each.name} has {len(each.finished)} of {len(each.trainings)} trainings: the others failed.")
    return notes


def evaluation_notes(contestants: Sequence[ContestantFigures]) -> list[str]:
    """What the evaluations say about classes, queries and data: once where it holds for all, otherwise with the names.

    Args:
        contestants: with their runs.
    """
    names: dict[str, list[str]] = defaultdict(list)
    known = [each for each in contestants if each.finished]
    for each in known:
        evaluation = each.finished[0].outcome.evaluation
        for note in () if evaluation is None else dict.fromkeys(evaluation.notes):
            names[note].append(each.name)
    return [note if len(who) == len(known) else f"{', '.join(who)}: {note}" for note, who in names.items()]


def _learned_from(training: Training) -> dict[str, Any]:
    """What a run noted about its data at its beginning."""
    content = json.loads(RunFolder(training.run.folder).config.read_text(encoding="utf-8"))
    noted: dict[str, Any] = content["learned_from"]
    return noted


def _differing(values: Mapping[str, str], sentence: str) -> list[str]:
    """A sentence that names the values and who has them, if there is more than one."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, value in values.items():
        names[value].append(name)
    if len(names) < 2:
        return []
    parts = [f"{', '.join(who)} with {value}" for value, who in names.items()]
    return [f"{sentence}: {'; '.join(parts)}."]
