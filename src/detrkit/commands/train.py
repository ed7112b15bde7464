"""`detrkit train`."""

from __future__ import annotations

import dataclasses
import inspect
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from cyclopts import Parameter

from detrkit.training.training_options import TrainingOptions


def train(variant: str | None = None, **given: Any) -> None:
    """Train a detector on a data set, or resume a run.

    The run's folder gets the configuration, a log with one row per epoch, the best and the last checkpoint, and a report. Options that
    are not given follow the variant's recipe.
    """
    from detrkit.evaluation.tables import detailed_table
    from detrkit.terminal import terminal
    from detrkit.training import train as run

    console = terminal()
    if "settings" in given:
        given["settings"] = _typed(variant, given["settings"])
    result = run(variant, **given, console=console)
    if result.evaluation is not None and result.analysis is not None:
        console.print(detailed_table(result.evaluation, result.analysis))
    console.print(f"Best model: {result.best}\nReport: {result.folder / 'report.html'}")
    console.print(f"Next: detrkit predict {result.best} IMAGES")


def _signature() -> inspect.Signature:
    """The signature that the command line uses: every training option, none of them required, and `resume` after variant and data."""
    hints = get_type_hints(TrainingOptions)
    fields = {field.name: _parameter(field, hints[field.name]) for field in dataclasses.fields(TrainingOptions)}
    variant = fields.pop("variant").replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
    resumed = Annotated[
        str | None,
        Parameter(
            help="folder of a run to continue with its own options; only data, epochs and steps may be given anew."
        ),
    ]
    resume = inspect.Parameter("resume", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=resumed)
    return inspect.Signature([variant, fields.pop("data"), resume, *fields.values()])


def _parameter(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    if field.name == "settings":  # strings until the variant is known, and without --no-settings
        annotation: Any = Annotated[dict[str, str] | None, Parameter(negative=())]
    elif field.default in (None, dataclasses.MISSING):
        annotation = hint | None
    else:  # None marks options that were not given, but the help shows the value that then applies
        annotation = Annotated[hint | None, Parameter(show_default=lambda _: str(field.default))]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


# One definition of the options: the command line gets their names, types and descriptions from the dataclass.
train.__signature__ = _signature()  # type: ignore[attr-defined]
train.__doc__ = f"{inspect.getdoc(train)}\n\nArgs:{str(inspect.getdoc(TrainingOptions)).partition('Attributes:')[2]}"


def _typed(variant: str | None, settings: dict[str, str]) -> dict[str, Any]:
    """Converts strings from the command line to the types of the variant's configuration, which itself refuses unknown names."""
    from detrkit.errors import ConfigurationError
    from detrkit.models.catalog import find_variant

    if variant is None:
        return dict(settings)
    known, typed = get_type_hints(type(find_variant(variant).config)), {}
    for option, text in settings.items():
        name = option.replace("-", "_")
        hint = known.get(name, str)
        kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)  # both for `float | None`
        try:
            typed[name] = _read(text, kinds)
        except ValueError as problem:
            allowed = " or ".join(_in_words(kind) for kind in kinds)
            raise ConfigurationError(f"--settings.{name} must be of type {allowed}, not '{text}'") from problem
    return typed


def _read(text: str, kinds: tuple[Any, ...]) -> Any:
    if NoneType in kinds and text.lower() == "none":
        return None
    kind = next(each for each in kinds if each is not NoneType)
    if get_origin(kind) is tuple:
        return _read_list(text, get_args(kind))
    return _yes_or_no(text) if kind is bool else kind(text)


def _read_list(text: str, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """The tuple that a list such as "3,5" stands for; `kinds` are the arguments of its type: `int, ...` or one for each entry."""
    entries = [entry.strip() for entry in text.split(",")] if text.strip() else []
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(entries)
    return tuple(_read(entry, (kind,)) for entry, kind in zip(entries, kinds, strict=True))


def _in_words(kind: Any) -> str:
    if get_origin(kind) is tuple:
        entries = ("..." if each is Ellipsis else _in_words(each) for each in get_args(kind))
        return f"comma-separated list ({', '.join(entries)})"
    return "none" if kind is NoneType else str(kind.__name__)


def _yes_or_no(text: str) -> bool:
    values = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in values:
        raise ValueError(text)
    return values[text.lower()]
