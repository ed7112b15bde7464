"""Commands and Python scripts in processes of their own, forked from one that has imported everything: a fork takes no seconds of imports.

As a script it is that one process: it reads a request a line, and writes the exit code of each.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# What commands import by and by.
IMPORTED = (
    "detrkit.__main__", "detrkit.commands.compare", "detrkit.commands.convert", "detrkit.commands.demo", "detrkit.commands.doctor",
    "detrkit.commands.evaluate", "detrkit.commands.inspect", "detrkit.commands.models", "detrkit.commands.predict",
    "detrkit.commands.report", "detrkit.commands.study", "detrkit.commands.train", "detrkit.data", "detrkit.evaluation", "detrkit.prediction",
    "detrkit.training", "detrkit.training.run", "faster_coco_eval", "lightning.pytorch", "matplotlib.pyplot", "numba",
    "scipy.optimize", "sklearn.datasets", "supervision", "tensorboard", "torchvision.transforms.v2",
)  # fmt: skip


@dataclass(frozen=True)
class Finished:
    returncode: int
    stdout: str
    stderr: str


class ForkedCommands:
    """Runs commands one after the other.

    Args:
        process: runs this file.
        folder: for what commands print.
    """

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder

    def run(self, command: list[str], folder: Path) -> Finished:
        """What became of a command.

        Args:
            command: `detrkit` or `python` with their arguments; the only ones for `python` are a script, or `-c` and a program.
            folder: where it runs.
        """
        out, err = self._folder / "stdout", self._folder / "stderr"
        request = {"command": command, "folder": str(folder), "stdout": str(out), "stderr": str(err)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that commands are forked from has ended"
        return Finished(int(answer), out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))


@contextmanager
def forked_commands(folder: Path) -> Iterator[ForkedCommands]:
    """The process that commands are forked from, while the context is open.

    Args:
        folder: for files that it needs.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads do not survive a fork
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield ForkedCommands(process, folder)
        assert process.stdin is not None
        process.stdin.close()  # ends it


def serve() -> None:
    """Forks a process for every request. The built-in digits are fewer: every command that reads them lays all of them out anew."""
    for name in IMPORTED:
        importlib.import_module(name)
    sys.modules["detrkit.data.digits"].DEFAULT_COUNTS.update(train=400, val=40)
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if not process:
            code = 70
            try:
                code = carried_out(**request)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def carried_out(command: list[str], folder: str, stdout: str, stderr: str) -> int:
    """Runs a command in this process; returns its exit code."""
    os.chdir(folder)
    for path, mode, stream in (
        (os.devnull, os.O_RDONLY, 0),
        (stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 1),
        (stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 2),
    ):
        os.dup2(os.open(path, mode), stream)
    program, *arguments = command
    try:
        if program not in ("detrkit", "python"):
            raise ValueError(f"there is no way to run {program}")
        if program == "detrkit":
            sys.argv = list(command)
            sys.modules["detrkit.__main__"].main()
        elif arguments[0] == "-c":
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve()
