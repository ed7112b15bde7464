"""Texts of the command line become values, for all commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_origin

from cyclopts import Token, convert


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
