"""What speaks against taking the figures of a comparison for what they seem to be."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from detrkit.comparison.figures import ContestantFigures
from detrkit.comparison.origins import Origin, of_run, origin_of
from detrkit.comparison.plan import Plan
from detrkit.data.wording import agreeing, counted
from detrkit.training.starting import began_with

_MEASURED = re.compile(r"(\d+(?:\.\d+|%))")  # numbers that differ from training to training: 0.123 and 7%


def fairness_notes(contestants: Sequence[ContestantFigures]) -> list[str]:
    """Sentences about contestants that were not trained alike, or here.

    Args:
        contestants: with their runs, and checkpoints with their cards.
    """
    finished = [each for each in contestants if each.finished]
    origins = {each.name: origin_of(each) for each in finished}
    begun = {name: began_with(origin.options) for name, origin in origins.items() if origin.options is not None}
    notes = _differing(begun, "They begin with different weights")
    sizes = {name: origin.sides_in_words for name, origin in origins.items() if origin.sides is not None}
    notes += _differing(sizes, "They see images of different sizes (shorter and longer side, at most)")
    notes += _of_data(finished, origins)
    if any(each.variant is None for each in finished):
        notes += _of_checkpoints(origins)
    for each in finished:
        failed = len(each.trainings) - len(each.finished)
        if failed:
            notes.append(f"{each.name} has {len(each.finished)} of {len(each.trainings)} trainings: the others failed.")
    return notes


def length_notes(contestants: Sequence[ContestantFigures]) -> list[str]:
    """Sentences about runs that were trained further by another command.

    Args:
        contestants: with their runs.
    """
    runs = [one.run for each in contestants if each.variant is not None for one in each.finished]
    return [
        f"{run.name} was trained further by another command ({known.length} by now): that may explain a difference."
        for run in runs
        if (known := of_run(run.folder)) is not None and known.lengthened
    ]


def option_notes(plan: Plan) -> list[str]:
    """A sentence about options that change nothing, if there are some.

    Args:
        plan: with its contestants and options.
    """
    if not plan.unused_options:
        return []
    names = ", ".join(plan.unused_options)
    return [f"Nothing was trained here, so {names} changed nothing: checkpoints keep their own size of images."]


def _of_data(finished: Sequence[ContestantFigures], origins: Mapping[str, Origin]) -> list[str]:
    """What the runs noted about the data that they learned from."""
    runs: dict[str, Origin | None] = {each.name: origins[each.name] for each in finished if each.variant is None}
    runs |= {one.run.name: of_run(one.run.folder) for each in finished if each.variant for one in each.finished}
    noted = {name: (one.options.data, one.learned_from) for name, one in runs.items() if one and one.options}
    several = len({data for data, _ in noted.values()}) > 1
    counts = {
        name: counted(content["images"], "image") + (f" of {data}" if several else "")
        for name, (data, content) in noted.items()
        if "images" in content
    }
    versions = {name: ", then ".join(content.get("annotations", ())) for name, (_, content) in noted.items()}
    if not all(versions.values()):  # runs of older versions
        return _differing(counts, "They learned from different training splits")
    if len(set(versions.values())) < 2:  # wherever the files were
        return []
    return _differing(counts, "They learned from different training splits") or _differing(
        {name: f"version {version}" for name, version in versions.items()}, "They learned from different annotations"
    )


def _of_checkpoints(origins: Mapping[str, Origin]) -> list[str]:
    """Where something was not trained here: lengths that differ, and what is not known."""
    lengths = {name: origin.length for name, origin in origins.items() if origin.length}
    notes = _differing(lengths, "They were trained for different lengths")
    unknown = [name for name, origin in origins.items() if origin.options is None]
    if unknown:
        notes.append(
            f"What {', '.join(unknown)} learned from, and for how long, is not known: that may explain a difference as well as the model does. "
            "It may have learned from the very images of this comparison."
        )
    return notes


def evaluation_notes(contestants: Sequence[ContestantFigures]) -> list[str]:
    """What the evaluations say about classes, queries and data: once where it holds for all, otherwise with the names.

    Seeds are named where it does not hold for all trainings; numbers that were measured become ranges.

    Args:
        contestants: with their runs.
    """
    names: dict[str, list[str]] = defaultdict(list)
    known = [each for each in contestants if each.finished]
    for each in known:
        for note, seeds in _notes_of(each):
            names[note].append(f"{each.name}{seeds}")
    everybody = [each.name for each in known]
    return [note if who == everybody else f"{', '.join(who)}: {note}" for note, who in names.items()]


def _notes_of(contestant: ContestantFigures) -> Iterator[tuple[str, str]]:
    """The notes of a contestant's trainings, and whose they are: empty for all of them."""
    alike: dict[str, dict[int | None, str]] = defaultdict(dict)
    for training in contestant.finished:
        evaluation = training.outcome.evaluation
        for note in () if evaluation is None else evaluation.notes:
            alike[_MEASURED.sub("0", note)].setdefault(training.run.seed, note)
    for notes in alike.values():
        seeds = [str(seed) for seed in notes]
        words = f" with {agreeing(len(seeds), 'seed', 'seeds')} {', '.join(seeds)}"
        yield _with_ranges(list(notes.values())), "" if len(notes) == len(contestant.finished) else words


def _with_ranges(notes: Sequence[str]) -> str:
    """One sentence of several that differ in measured numbers alone."""
    parts = []
    for versions in zip(*map(_MEASURED.split, notes), strict=True):
        if len(set(versions)) == 1:
            parts.append(versions[0])
        else:
            ordered = sorted(versions, key=lambda number: float(number.rstrip("%")))
            parts.append(f"{ordered[0]} to {ordered[-1]}")
    return "".join(parts)


def _differing(values: Mapping[str, str], sentence: str) -> list[str]:
    """A sentence that names the values and who has them, if there is more than one."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, value in values.items():
        names[value].append(name)
    if len(names) < 2:
        return []
    parts = [f"{', '.join(who)} with {value}" for value, who in names.items()]
    return [f"{sentence}: {'; '.join(parts)}."]
