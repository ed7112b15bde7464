"""The `detrkit` command: runs the subcommand, and turns errors that users can fix into one sentence and exit code 2."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback

from detrkit.errors import DetrkitError


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        arguments: without the program's name; None means those of the process. With `--debug`, errors show their tracebacks first.
    """
    from detrkit.allocation import keep_freed_memory
    from detrkit.terminal import print_any_character

    keep_freed_memory()
    print_any_character()
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        _run([argument for argument in given if argument != "--debug"])
        if sys.stdout is not None:
            sys.stdout.flush()  # here a closed pipe can still be told from an error
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _drop_output()
        sys.exit(1)
    except _ExplainedError as end:
        if debug:
            traceback.print_exception(end.__cause__)
        if str(end):  # a run that was stopped may have said so
            _print_error(str(end))
        sys.exit(end.code)


def _print_error(sentence: str) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        from detrkit.terminal import terminal

        terminal(stderr=True).print(sentence)
    else:
        print(sentence, file=sys.stderr)


class _ExplainedError(Exception):
    """The end of a command for a reason that the user can know: its sentence, and the exit code; the cause is the error itself."""

    def __init__(self, sentence: str, code: int = 2) -> None:
        super().__init__(sentence)
        self.code = code


def _run(arguments: list[str]) -> None:
    from cyclopts import CycloptsError

    from detrkit.commands.app import app
    from detrkit.commands.mistakes import explain, on_command_line

    try:
        app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as problem:
        raise _ExplainedError(f"detrkit: {explain(problem)}") from problem
    except DetrkitError as problem:
        raise _ExplainedError(f"detrkit: {on_command_line(problem, next(iter(arguments), ''))}") from problem
    except PermissionError as problem:
        raise _ExplainedError(
            f"detrkit: {problem.filename} cannot be used ({problem.strerror}): change its permissions, or choose another"
        ) from problem
    except KeyboardInterrupt as stop:
        raise _ExplainedError(str(stop.args[0]) if stop.args else "stopped", 130) from stop


def _drop_output() -> None:
    """Sends what is still to be written to a closed pipe nowhere, so that the end of the process does not complain about it."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())


if __name__ == "__main__":
    main()
