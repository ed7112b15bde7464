"""Commands of detrkit in this process, which saves seconds of imports."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from detrkit.__main__ import main
from detrkit.commands.app import app


@dataclass
class Finished:
    returncode: int
    stdout: str
    stderr: str


def detrkit_command(*arguments: object, folder: Path) -> Finished:
    """Runs a command in this process, which saves seconds of imports."""
    app.console = Console()  # as wide as COLUMNS says now; that of an earlier command would be kept
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Finished(code, out.getvalue(), err.getvalue())


def refusal(*arguments: object, folder: Path) -> str:
    """The message of a command that refuses its arguments: one line on the error stream, exit code 2, no traceback."""
    result = detrkit_command(*arguments, folder=folder)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("detrkit: ")
    return lines[0]
