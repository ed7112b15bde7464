"""The `detrkit` command: runs the subcommand, and turns errors that users can fix into one sentence and exit code 2."""

from __future__ import annotations

import sys

from detrkit.errors import DetrkitError


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        arguments: without the program's name; None means those of the process. With `--debug`, errors keep their tracebacks.
    """
    from cyclopts import CycloptsError

    from detrkit.commands.app import app, explain
    from detrkit.commands.process import keep_freed_memory

    keep_freed_memory()
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    try:
        app(given, exit_on_error=False, print_error=False)
    except CycloptsError as problem:
        if debug:
            raise
        sys.exit(_print_error(explain(problem)))
    except DetrkitError as problem:
        if debug:
            raise
        sys.exit(_print_error(str(problem)))
    except PermissionError as problem:
        if debug:
            raise
        sys.exit(
            _print_error(
                f"{problem.filename} cannot be used ({problem.strerror}): change its permissions, or choose another"
            )
        )
    except KeyboardInterrupt as stop:
        if debug:
            raise
        print(stop.args[0] if stop.args else "stopped", file=sys.stderr)
        sys.exit(130)


def _print_error(sentence: str) -> int:
    print(f"detrkit: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
