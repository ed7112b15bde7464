"""`detrkit compare`."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from detrkit.commands.train import MEANINGS, options_of, read_texts, typed_settings
from detrkit.commands.values import OptionalPathText, PathText, variant_names

# Chosen by the comparison, or for single runs.
_LEFT_OUT = ("variant", "data", "output", "seed")
_LENGTHS = ("epochs", "steps", "minutes")  # one is needed
_ERROR_STREAM = 2
_GROUP = Group("Comparison", sort_key=-1)  # before those of training


def compare(
    *contestants: Annotated[str, Parameter(completer=variant_names)],
    data: Annotated[PathText, Parameter(group=_GROUP)],
    seeds: Annotated[int, Parameter(group=_GROUP)] = 1,
    match_by: Annotated[Literal["auto", "name", "id"], Parameter(group=_GROUP)] = "auto",
    output: Annotated[
        OptionalPathText, Parameter(group=_GROUP, show_default=lambda _: "a new folder under runs/")
    ] = None,
    json: Annotated[bool, Parameter(group=_GROUP, negative=())] = False,
    **given: Any,
) -> None:
    """Train variants and evaluate checkpoints on a data set, all alike, and say which are better.

    For example: detrkit compare detr-compact deformable-detr-compact --data digits --epochs 3

    Options of training hold for all variants, and one of --epochs, --steps and --minutes is needed where there are some; what is not given
    is that of each variant's recipe. Every run has a folder and a process of
    its own. The same command with the same --output goes on where it was stopped, tries again what failed, and takes further contestants
    and seeds. Exit code 0: every run is finished. 1: some failed, as the table says. 2: the comparison cannot begin.
    """
    from detrkit.comparison.contestants import read_contestants
    from detrkit.data.places import find_data

    read_contestants(contestants)  # before PyTorch is loaded
    find_data(data)
    import sys

    from detrkit.comparison.comparing import compare as run
    from detrkit.terminal import terminal

    read_texts(given)
    if "settings" in given:
        given["settings"] = _settings(contestants, given["settings"])
    console = terminal(stderr=json)
    comparison = run(
        contestants,
        data,
        seeds=seeds,
        match_by=match_by,
        output=output,
        console=console,
        runs_print_to=_ERROR_STREAM if json else None,
        **given,
    )
    if json:
        _print_json(comparison.to_json())
    else:
        console.print(comparison.table())
    console.print(f"Report: {comparison.report}\nFigures: {comparison.figures_file}", soft_wrap=True)
    if comparison.problems:
        sys.exit(1)


def _settings(contestants: tuple[str, ...], texts: dict[str, str]) -> dict[str, Any]:
    """The settings with the types that they have for the first variant; each variant itself refuses what it does not know."""
    from detrkit.models.listing import listed_variants

    first = next((name for name in contestants if name in listed_variants()), None)
    return typed_settings(first, texts)


def _print_json(content: dict[str, Any]) -> None:
    import json

    print(json.dumps(content, indent=1))


def _signature() -> inspect.Signature:
    """The signature that the command line uses: what is compared, and the training options for all."""
    own = list(inspect.signature(compare).parameters.values())[:-1]
    return inspect.Signature([*own, *options_of(_LEFT_OUT, _LENGTHS).values()])


_OWN_MEANINGS = """
    contestants: names of variants, which are trained, and checkpoints or folders of runs, which are only evaluated; two or more.
    data: folder or annotation file of a data set, or "digits" for the built-in one.
    seeds: trainings of each variant, with the seeds 0, 1, ...
    match_by: how classes of checkpoints find those of the data: by "name", by "id", or "auto": by name, where a checkpoint is refused that knows
        less than half of the classes with objects.
    output: folder of the comparison.
    json: print all figures as JSON instead of tables; everything else goes to the error stream."""

# The same definition of the training options as that of `train`.
compare.__signature__ = _signature()  # type: ignore[attr-defined]
compare.__doc__ = f"{inspect.getdoc(compare)}\n\nArgs:{MEANINGS}{_OWN_MEANINGS}"
