"""`detrkit train`."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin, get_type_hints

from cyclopts import Group, Parameter

from detrkit.commands.reading import in_words, read_rates, read_text
from detrkit.commands.values import OptionalPathText, VariantText
from detrkit.training.training_options import UNLESS_GIVEN, TrainingOptions

if TYPE_CHECKING:
    from detrkit.commands.config_file import ConfigFile


def train(variant: VariantText = None, data: OptionalPathText = None, **given: Any) -> None:
    """Train a detector on a data set, or resume a run.

    For example: detrkit train light-detr-mobilenetv2 my_data --epochs 100

    The run's folder gets the configuration, a log with one row per epoch, the best and the last checkpoint, and a report. Options that
    are not given follow the variant's recipe.
    """
    from detrkit.data.places import find_data
    from detrkit.models.listing import check_name
    from detrkit.training.run_places import check_is_run

    file = _config_of(given)
    if file is not None:
        named = {name: value for name, value in (("variant", variant), ("data", data)) if value is not None}
        given = file.combined({**named, **given})
        variant, data = given.pop("variant", None), given.pop("data", None)
        _check_complete(file, variant=variant, data=data)
    if variant is not None:
        check_name(variant)  # before PyTorch is loaded
    if given.get("resume") is not None:
        check_is_run(given["resume"])
    elif data is not None:
        find_data(data)
    from detrkit.evaluation.tables import detailed_table
    from detrkit.terminal import terminal
    from detrkit.training import train as run
    from detrkit.training.processes import processes_of

    console = processes_of(os.environ).console(terminal())
    settings = {} if file is None or variant is None else file.typed_settings(variant)
    if "settings" in given:
        settings |= typed_settings(variant, given["settings"])
    if settings:
        given["settings"] = settings
    read_texts(given)
    if given.pop("dry_run", False):
        _show_dry_run(variant, data, given)
        return
    result = run(variant, data, **given, console=console)
    if result.evaluation is not None and result.analysis is not None:
        console.print(detailed_table(result.evaluation, result.analysis))
    if result.segments is not None:
        console.print(result.segments.table())
    console.print(f"Best model: {result.best}\nReport: {result.folder / 'report.html'}", soft_wrap=True)
    console.print(f"Next: detrkit predict {result.best} IMAGES", soft_wrap=True)


def _config_of(given: dict[str, Any]) -> ConfigFile | None:
    """The configuration file among the options, which it is taken out of."""
    if "config" not in given:
        return None
    from detrkit.commands.config_file import read_config
    from detrkit.errors import ConfigurationError

    if "resume" in given:
        raise ConfigurationError("--resume goes on with the options of its run: leave out --config, or --resume")
    return read_config(given.pop("config"))


def _check_complete(file: ConfigFile, **needed: Any) -> None:
    """Refuses a file and a command that together do not say what to train on what."""
    from detrkit.errors import ConfigurationError

    for name, value in needed.items():
        if value is None:
            raise ConfigurationError(
                f"{file.path} has no {name}, and neither has the command: write a line `{name}: ...` into the file, or give --{name}"
            )


def read_texts(given: dict[str, Any]) -> None:
    """Puts values in the place of options that the command line has as texts, but the settings, whose types are those of a variant."""
    if isinstance(given.get("rates"), str):
        given["rates"] = _rates(given["rates"])
    if "loggers" in given:
        given["loggers"] = [name.strip() for names in given["loggers"] for name in names.split(",")]


def _rates(text: str) -> dict[str, float]:
    from detrkit.errors import ConfigurationError

    try:
        return read_rates(text)
    except ValueError as problem:
        raise ConfigurationError(
            f"--rates needs names of parts with factors, such as offsets=0.1,backbone.layer1=0, not '{text}'"
        ) from problem


def _show_dry_run(variant: str | None, data: str | Path | None, given: dict[str, Any]) -> None:
    from detrkit.errors import ConfigurationError
    from detrkit.terminal import terminal
    from detrkit.training import dry_run

    if "resume" in given:
        raise ConfigurationError("--dry-run is about new runs: leave out --resume, or --dry-run")
    if variant is None or data is None:
        raise ConfigurationError("--dry-run needs VARIANT and DATA")
    console = terminal()
    console.print(str(dry_run(variant, data, console=console, **given)), soft_wrap=True, markup=False)


# The parts of the help, in this order; a test sees to it that every option is in one of them.
GROUPS: dict[str, tuple[str, ...]] = {
    "Model": ("variant", "settings", "weights", "backbone_weights", "queries_from", "detector_from", "supervision"),
    "Data": ("data", "train_split", "val_split", "masks", "orientation", "stretch_16bit"),
    "Length": ("epochs", "steps", "minutes", "evaluate_every", "patience", "checkpoint_minutes"),
    "Learning": (
        *("batch_size", "lr", "backbone_lr", "scale_lr", "layer_decay", "rates", "weight_decay", "gradient_clip"),
        *("schedule", "drop_after", "warmup_steps", "ema", "repeat_rare", "seed"),
    ),
    "Images and augmentation": (
        *("short_side", "long_side", "augmentation", "flip", "vertical_flip", "crop", "multi_scale"),
    ),
    "Speed and memory": (
        "accumulate",
        "memory_probe",
        "precision",
        "device",
        "devices",
        "nodes",
        "strategy",
        "workers",
    ),
    "Output": ("output", "config", "watch", "loggers", "resume", "dry_run"),
}
# What each option means, as a docstring has it below "Args:".
MEANINGS = str(inspect.getdoc(TrainingOptions)).partition("Attributes:")[2]
_OTHER_NAMES = {"detector_from": ("--detector-from", "--from")}  # `from` is a keyword of Python
_BY_PLACE = ("variant", "data")
_PATHS = ("weights", "backbone_weights", "queries_from", "detector_from", "output")


def options_of(left_out: Collection[str] = (), undecided: Collection[str] = ()) -> dict[str, inspect.Parameter]:
    """The training options as options of a command, none of them required, in the groups and the order of the help.

    Args:
        left_out: names of those that the command has not, or in a way of its own.
        undecided: names of those for which no value applies where they are not given.
    """
    hints = get_type_hints(TrainingOptions)
    fields = {field.name: field for field in dataclasses.fields(TrainingOptions)}
    return {
        name: _parameter(fields[name], hints[name], group, None if name in undecided else UNLESS_GIVEN.get(name))
        for name, group in groups().items()
        if name in fields and name not in left_out
    }


def groups() -> dict[str, Group]:
    """The part of the help that each option is in."""
    return {name: Group(title, sort_key=place) for place, (title, names) in enumerate(GROUPS.items()) for name in names}


def _signature() -> inspect.Signature:
    """The signature that the command line uses: every training option, and `config`, `resume` and `dry_run`."""
    group = groups()
    options = options_of()
    help_text = "folder of a run to continue with its own options; only data, epochs, steps, patience, device, devices, nodes, strategy and workers may be given anew."
    resumed = Annotated[OptionalPathText, Parameter(help=help_text, group=group["resume"])]
    read = Annotated[
        OptionalPathText,
        Parameter(
            help="YAML file with any of these options, as `detrkit config VARIANT` prints them, or the folder of a run; options given here take precedence.",
            group=group["config"],
        ),
    ]
    options["config"] = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=read)
    options["resume"] = inspect.Parameter("resume", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=resumed)
    dry = Annotated[
        bool,
        Parameter(
            help="check everything and say what the run would take; nothing is written.",
            negative=(),
            group=group["dry_run"],
        ),
    ]
    options["dry_run"] = inspect.Parameter("dry_run", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=dry)
    by_place = [options.pop(name).replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in _BY_PLACE]
    return inspect.Signature([*by_place, *options.values()])


def _parameter(field: dataclasses.Field[Any], hint: Any, group: Group, shown: str | None) -> inspect.Parameter:
    # None marks options that were not given, but the help shows the value that then applies.
    if field.default not in (None, dataclasses.MISSING):
        shown = str(field.default)
    default = None if shown is None else lambda _: shown
    if field.name == "rates":  # one text for all of them, in which names may have dots
        annotation: Any = Annotated[str | None, Parameter(metavar="NAME=FACTOR,...", group=group)]
    elif field.name == "settings":  # strings until the variant is known, and without --no-settings
        annotation = Annotated[dict[str, str] | None, Parameter(negative=(), group=group)]
    else:
        kind = OptionalPathText if field.name in _PATHS else hint | None
        names = _OTHER_NAMES.get(field.name)
        negative = () if get_origin(hint) is list else None  # no --empty-loggers
        annotation = Annotated[kind, Parameter(name=names, show_default=default, group=group, negative=negative)]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


# One definition of the options: the command line gets their names, types and descriptions from the dataclass.
train.__signature__ = _signature()  # type: ignore[attr-defined]
train.__doc__ = f"{inspect.getdoc(train)}\n\nArgs:{MEANINGS}"


def typed_settings(variant: str | None, settings: dict[str, str]) -> dict[str, Any]:
    """Converts strings from the command line to the types of the variant's configuration, which itself refuses unknown names."""
    from detrkit.errors import ConfigurationError
    from detrkit.models.catalog import find_variant

    if variant is None:
        return dict(settings)
    known, typed = get_type_hints(type(find_variant(variant).config)), {}
    for option, text in settings.items():
        name = option.replace("-", "_")
        hint = known.get(name, str)
        try:
            typed[name] = read_text(text, hint)
        except ValueError as problem:
            raise ConfigurationError(f"--settings.{name} must be of type {in_words(hint)}, not '{text}'") from problem
    return typed
