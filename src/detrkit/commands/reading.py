"""Texts become values of training options and settings, on the command line and in configuration files."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

_PLAIN: dict[Any, tuple[str, ...]] = {
    int: ("a whole number",),
    float: ("a number",),
    bool: ("yes", "no"),
    str: ("a text",),
    NoneType: ("null",),
}
_NONE = ("none", "null", "~", "")


def read_text(text: str, hint: Any) -> Any:
    """The value that a text stands for.

    Args:
        text: such as "3", "yes", "none" or "3,5".
        hint: the type that the value has, such as `int | None` or `tuple[int, ...]`.

    Raises:
        ValueError: the text stands for no such value.
    """
    kinds = kinds_of(hint)
    kind = next(each for each in kinds if each is not NoneType)
    means_itself = text == "none" and (kind is str or text in get_args(kind))  # "none" can be the name of a choice
    if NoneType in kinds and text.lower() in _NONE and not means_itself:
        return None
    if get_origin(kind) is tuple:
        return _read_list(text, get_args(kind))
    if get_origin(kind) is list:
        return list(_read_list(text, (get_args(kind)[0], ...)))
    if get_origin(kind) is Literal:
        return _choice(text, get_args(kind))
    return _yes_or_no(text) if kind is bool else kind(text)


def kinds_of(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows; both for `float | None`."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def as_text(value: Any) -> str:
    """A value of a configuration file as it would be written on the command line."""
    if isinstance(value, list | tuple):
        return ",".join(map(as_text, value))
    return "null" if value is None else str(value)


def in_words(hint: Any) -> str:
    """A type for messages, such as "int or none"."""
    return " or ".join(_kind_in_words(kind) for kind in kinds_of(hint))


def in_plain_words(hint: Any) -> str:
    """What a value may be, for people who write files, such as "a whole number or null"."""
    words = [word for kind in kinds_of(hint) for word in _plain_words(kind)]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _plain_words(kind: Any) -> tuple[str, ...]:
    if get_origin(kind) is Literal:
        return tuple(map(str, get_args(kind)))
    return _PLAIN.get(kind, (_kind_in_words(kind),))


def read_rates(text: str) -> dict[str, float]:
    """The factors in a text such as "offsets=0.1,backbone.layer1=0".

    Raises:
        ValueError: the text has another form.
    """
    rates: dict[str, float] = {}
    for entry in text.split(","):
        part, equals, factor = entry.strip().rpartition("=")
        if not equals or not part.strip():
            raise ValueError(text)
        rates[part.strip()] = float(factor)
    return rates


def _read_list(text: str, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """The tuple that a list such as "3,5" stands for; `kinds` are the arguments of its type: `int, ...` or one for each entry."""
    entries = [entry.strip() for entry in text.split(",")] if text.strip() else []
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(entries)
    return tuple(read_text(entry, kind) for entry, kind in zip(entries, kinds, strict=True))


def _kind_in_words(kind: Any) -> str:
    if get_origin(kind) is tuple:
        entries = ("..." if each is Ellipsis else in_words(each) for each in get_args(kind))
        return f"comma-separated list ({', '.join(entries)})"
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    return "none" if kind is NoneType else str(kind.__name__)


def _choice(text: str, choices: tuple[Any, ...]) -> Any:
    if text not in choices:
        raise ValueError(text)
    return text


def _yes_or_no(text: str) -> bool:
    values = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}
    if text.lower() not in values:
        raise ValueError(text)
    return values[text.lower()]
