"""`detrkit study`."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

from cyclopts import Group, Parameter

from detrkit.commands.train import MEANINGS, options_of, read_texts, typed_settings
from detrkit.commands.values import OptionalPathText, PathText

# Chosen by the studies, or for single runs.
_LEFT_OUT = ("variant", "data", "output", "seed", "devices", "nodes", "strategy", "watch")
_LENGTHS = ("epochs", "steps", "minutes")  # the study's own where none is given
_GROUP = Group("Study", sort_key=-1)  # before those of training


def study(
    name: str | None = None,
    *,
    data: Annotated[PathText, Parameter(group=_GROUP)] = "digits",
    seeds: Annotated[int, Parameter(group=_GROUP)] = 3,
    jobs: Annotated[int | None, Parameter(group=_GROUP, show_default=lambda _: "one for each processor")] = None,
    output: Annotated[OptionalPathText, Parameter(group=_GROUP, show_default=lambda _: "runs/studies")] = None,
    **given: Any,
) -> None:
    """Train what an experiment of the papers compares, and show what comes out; without NAME, list the studies.

    For example: detrkit study matching

    The same command goes on where it was stopped, and studies share what they have trained. Options of training hold for all detectors of
    a study; what is not given is that of the study, which is made for the built-in digits. Exit code 0: all are trained. 1: some failed, as
    it says. 2: the study cannot begin.
    """
    import sys

    from detrkit.data.places import find_data
    from detrkit.terminal import terminal

    if name is None:
        _list()
        return
    from detrkit.studies.listing import STUDIES, check_study

    check_study(name)  # before PyTorch is loaded
    find_data(data)
    from detrkit.studies import find_study, run_study

    read_texts(given)
    if "settings" in given:
        first = next(iter(find_study(name).trials.values()))
        given["settings"] = typed_settings(first.variant, given["settings"])
    console = terminal()
    result = run_study(name, data, seeds=seeds, jobs=jobs, output=output, console=console, **given)
    if result.results:
        console.print(result.table())
    for problem in result.problems:
        console.print(problem, soft_wrap=True, markup=False)
    console.print(f"{STUDIES[name][0].upper()}{STUDIES[name][1:]}: {result.folder}", soft_wrap=True, markup=False)
    if result.problems:
        sys.exit(1)


def _list() -> None:
    from detrkit.studies.listing import STUDIES
    from detrkit.terminal import narrow_table, terminal

    table = narrow_table("studies", "Begin one: detrkit study NAME")
    table.add_column("name", no_wrap=True)
    table.add_column("question")
    for name, question in STUDIES.items():
        table.add_row(name, question)
    terminal().print(table)


def _signature() -> inspect.Signature:
    """The signature that the command line uses: the study, and the training options for all its detectors."""
    own = list(inspect.signature(study).parameters.values())[:-1]
    return inspect.Signature([*own, *options_of(_LEFT_OUT, _LENGTHS).values()])


_OWN_MEANINGS = """
    name: of a study; without it all are listed.
    data: folder or annotation file of a data set, or "digits" for the built-in one.
    seeds: trainings of each detector, with the seeds 0, 1, ...
    jobs: trainings at once, one thread each.
    output: folder of all studies."""

# The same definition of the training options as that of `train`.
study.__signature__ = _signature()  # type: ignore[attr-defined]
study.__doc__ = f"{inspect.getdoc(study)}\n\nArgs:{MEANINGS}{_OWN_MEANINGS}"
