"""What is wrong with a command line, in one sentence that names things as they are written there."""

from __future__ import annotations

import difflib
import re
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from cyclopts import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from detrkit.commands.other_tools import counterpart
from detrkit.errors import DetrkitError, OptionError, closest

# Arguments of `detrkit.load` that commands have as options.
_HINTS = {
    "predict": ("variant",),
    "explain": ("variant",),
    "evaluate": ("variant",),
    "convert-weights": ("variant", "classes"),
}
_KINDS = {int: "a whole number", float: "a number", bool: "yes or no"}


def explain(problem: CycloptsError) -> str:
    """What is wrong with a command line that could not be read."""
    if isinstance(problem, MissingArgumentError) and problem.argument is not None:
        return _missing(problem)
    if isinstance(problem, UnknownOptionError):
        return _unknown_option(problem)
    if isinstance(problem, CoercionError):
        return _wrong_value(problem)
    if isinstance(problem, UnusedCliTokensError):
        return _left_over(problem)
    if isinstance(problem, UnknownCommandError) and problem.app is not None and problem.unused_tokens:
        word, names = problem.unused_tokens[0], [name for name in problem.app if not name.startswith("-")]
        return f"there is no command '{word}': {closest(word, names)}"
    return " ".join(str(problem).split())


def on_command_line(problem: DetrkitError, command: str) -> str:
    """The message of an error with options as the command line has them: `--batch-size` for `batch_size`.

    Args:
        problem: what was raised.
        command: such as "train".
    """
    sentence = str(problem)
    for name in problem.options if isinstance(problem, OptionError) else ():
        sentence = re.sub(rf"(?<![\w.-]){re.escape(name)}\b", lambda _, name=name: _option(name, command), sentence)  # type: ignore[misc]
    for name in _HINTS.get(command, ()):
        sentence = sentence.replace(f"`{name}`", f"--{name}")
    return sentence


def _option(name: str, command: str) -> str:
    from detrkit.training.training_options import TrainingOptions

    is_setting = (
        command in ("train", "compare")
        and name not in TrainingOptions.__dataclass_fields__
        and name not in ("resume", "seeds")
    )
    return ("--settings." if is_setting else "--") + name.replace("_", "-")


def _command(problem: CycloptsError) -> str:
    return " ".join(("detrkit", *(problem.command_chain or ())))


def _help(problem: CycloptsError) -> str:
    return f"`{_command(problem)} --help` tells what to give"


def _missing(problem: MissingArgumentError) -> str:
    assert problem.argument is not None
    written = problem.keyword or next((token.keyword for token in problem.argument.tokens if token.keyword), None)
    if written is not None:
        return f"{written} needs a value: {_help(problem)}"
    name = problem.argument.name
    if problem.argument.index is not None:  # it is given by its place
        name = name.lstrip("-").upper()
    return f"`{_command(problem)}` needs {name}: {_help(problem)}"


def _unknown_option(problem: UnknownOptionError) -> str:
    written = (problem.token.keyword or problem.token.value).partition("=")[0]
    known = counterpart((problem.command_chain or ("",))[-1], written)
    if known is not None:
        return f"unknown option {written}: {known}"
    own = [name for argument in problem.argument_collection if argument.parse for name in argument.names]
    begun = [name for name in own if len(written) > 3 and name.startswith(written)]
    similar = begun[:1] or difflib.get_close_matches(written, [name for name in own if name.startswith("--")], n=1)
    meant = f"did you mean {similar[0]}? " if similar else ""
    return f"unknown option {written}: {meant}`{_command(problem)} --help` lists all options"


def _wrong_value(problem: CoercionError) -> str:
    token, kind, argument = problem.token, problem.target_type, problem.argument
    if token is None:
        return " ".join(str(problem).split())
    name = token.keyword or ("the value" if argument is None else argument.name.lstrip("-").upper())
    if name == "--settings":
        return f"--settings needs a name and a value, such as --settings.queries 100, not '{token.value}'"
    needed = _in_words(kind)
    return " ".join(str(problem).split()) if needed is None else f"{name} must be {needed}, not '{token.value}'"


def _in_words(kind: Any) -> str | None:
    """What values of a type are to people; None if there are no words for it."""
    for part in get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,):
        if get_origin(part) is Literal:
            *others, last = get_args(part)
            return f"{', '.join(others)} or {last}" if others else str(last)
        if part in _KINDS:
            return _KINDS[part]
    return None


def _left_over(problem: UnusedCliTokensError) -> str:
    left = list(problem.unused_tokens or ())
    given = problem.root_input_tokens or []
    before = given[given.index(left[0]) - 1] if left and left[0] in given[1:] else ""
    words, them = ", ".join(f"'{word}'" for word in left), "it" if len(left) == 1 else "them"
    if before.startswith("--") and "=" not in before:
        return f"{before} takes no value, so nothing uses {words}: {_help(problem)}"
    return f"nothing in `{_command(problem)}` uses {words}: leave {them} out, or give {them} to an option; {_help(problem)}"
