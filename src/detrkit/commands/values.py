"""Texts of the command line become values, for all commands, and what shells complete them to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_origin

from cyclopts import Parameter, Token, convert


def variant_names(_: object = None) -> dict[str, str]:
    """Names of variants and their families, for shells."""
    from detrkit.models.listing import listed_variants

    return {name: variant.family for name, variant in listed_variants().items()}


# A text that shells complete to a file or folder: patterns, and names such as "digits", stay as they were written.
PathText = Annotated[str | Path, Parameter(metavar="PATH")]
OptionalPathText = Annotated[str | Path | None, Parameter(metavar="PATH")]
VariantText = Annotated[str | None, Parameter(completer=variant_names)]


def converted(kind: Any, tokens: Sequence[Token] | dict[str, Any]) -> Any:
    """The value that the words of an option stand for.

    Args:
        kind: the type that the option has.
        tokens: the words; as a dictionary where they have keys, such as `--settings.queries 10`.

    Raises:
        ValueError: a fraction where a whole number is needed, which Cyclopts would round.
        cyclopts.CoercionError: the words have another form than the type.
    """
    if isinstance(tokens, dict):
        return convert(kind, tokens)
    if kind is int and any("." in token.value and not float(token.value).is_integer() for token in tokens):
        raise ValueError(f"'{tokens[0].value}' is not a whole number")
    if get_origin(kind) is dict and all("=" in token.value for token in tokens):
        return dict(token.value.split("=", 1) for token in tokens)
    return convert(kind, tokens)
