"""`detrkit config`."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from detrkit.commands.values import variant_names

if TYPE_CHECKING:
    from detrkit.cards import Variant


def config(variant: Annotated[str, Parameter(completer=variant_names)]) -> None:
    """Print every training option and every setting of a variant with its value and meaning, as YAML.

    For example: detrkit config light-detr-mobilenetv2 > run.yaml, and then detrkit train --config run.yaml --data my_data

    A value of null means that detrkit chooses, as the comment says. Lines that are taken out have the values shown here.

    Args:
        variant: a name that `detrkit models` lists.
    """
    from detrkit.models.listing import check_name
    from detrkit.terminal import terminal

    check_name(variant)  # before PyTorch is loaded
    from detrkit.models.catalog import find_variant

    terminal().print("\n".join(lines(variant, find_variant(variant))), soft_wrap=True, markup=False, highlight=False)


def lines(name: str, variant: Variant) -> Iterator[str]:
    """The file, line by line.

    Args:
        name: the variant's.
        variant: what the catalog says.
    """
    from detrkit.commands.settings_table import meanings
    from detrkit.commands.train import GROUPS
    from detrkit.training.training_options import TrainingOptions

    options, words = defaults(name), meanings(TrainingOptions)
    yield "# Used with: detrkit train --config FILE --data DATA. Options on the command line take precedence."
    for title, names in GROUPS.items():
        known = [each for each in names if each in options]
        if known:
            yield f"\n# {title}"
        for each in known:
            yield _line(each, options[each], _meaning(each, options[each], words[each]))
    yield "\n# Model: the settings of this variant"
    yield "settings:"
    words = meanings(type(variant.config))
    for field in dataclasses.fields(variant.config):
        if field.name != "class_count":  # follows from the data set
            yield f"  {_line(field.name, getattr(variant.config, field.name), words[field.name])}"


def defaults(name: str) -> dict[str, Any]:
    """Every training option but the settings, with the value that it has for a variant; None where the machine or the data decide.

    Args:
        name: the variant's.
    """
    from detrkit.training.options import resolve
    from detrkit.training.training_options import UNLESS_GIVEN, TrainingOptions

    options = dataclasses.asdict(resolve(TrainingOptions(name, "")))
    del options["settings"]
    chosen = [option for option, words in UNLESS_GIVEN.items() if words not in ("the recipe's", "the variant's")]
    return options | dict.fromkeys(("data", *chosen))


def _meaning(name: str, value: Any, words: str) -> str:
    from detrkit.training.training_options import UNLESS_GIVEN

    unless = UNLESS_GIVEN.get(name)
    return f"{words} Null: {unless}." if value is None and unless is not None else words


def _line(name: str, value: Any, meaning: str) -> str:
    return f"{name}: {_yaml(value)}  # {meaning}"


def _yaml(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value):
        return value
    return json.dumps(value)
