"""Runs with worker processes that are stopped: by Ctrl-C, and by a system that runs out of memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import heed_interrupts

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")


class Run:
    """A training run in a session of its own, as in a terminal: with workers, and far more epochs than a test waits for."""

    def __init__(self, data: Path, folder: Path) -> None:
        arguments = [
            "train", "detr-compact", "--data", data, "--output", folder / "run", "--workers", 2, "--epochs", 100_000,
            "--short-side", 64, "--long-side", 64, "--batch-size", 2, "--device", "cpu", "--settings.queries", 8,
            "--settings.width", 32, "--settings.hidden", 32, "--settings.encoder-layers", 1, "--settings.decoder-layers", 1,
        ]  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "detrkit", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=heed_interrupts,
        )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.members():
            os.kill(process, signal.SIGKILL)
        self.process.communicate()

    def members(self) -> list[int]:
        """All its processes."""
        return [process for process, (_, session, _) in _processes().items() if session == self.process.pid]

    def workers(self) -> list[int]:
        """The processes that read images: children of the server, which is a child of the main process."""
        all_of_them = _processes()
        return [
            process
            for process, (parent, session, state) in all_of_them.items()
            if session == self.process.pid and state != "Z" and self._is_server(parent)
        ]

    def _is_server(self, process: int) -> bool:
        return process != self.process.pid and b"forkserver" in _command(process)

    def wait_for_workers(self) -> int:
        """One of them, once it reads images."""
        while not (found := self.workers()):
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)
        return found[0]


def _command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def _processes() -> dict[int, tuple[int, int, str]]:
    """Parent, session and state of every process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it ended
            continue
        found[int(folder.name)] = (int(parent), int(session), state)
    return found


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_run_with_a_sentence(digits_folder: Path, tmp_path: Path) -> None:
    with Run(digits_folder, tmp_path) as run:
        while run.process.poll() is None:  # a worker that has done its work may be gone before the signal arrives
            if run.workers():
                for worker in run.workers():
                    _kill(worker)
            time.sleep(0.02)
        _, errors = run.process.communicate()
        assert errors == (
            "detrkit: A process that reads images was ended by the system, most likely for lack of memory: use fewer workers than 2 "
            "(--workers); 0 reads images in the main process.\n"
        )
        assert run.process.returncode == 2


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("moment", [pytest.param("workers start", marks=pytest.mark.slow), "in the midst of it"])
def test_ctrl_c_ends_a_run_and_its_workers(digits_folder: Path, tmp_path: Path, moment: str) -> None:
    with Run(digits_folder, tmp_path) as run:
        run.wait_for_workers()
        if moment == "in the midst of it":
            while not (tmp_path / "run" / "log.csv").is_file():
                assert run.process.poll() is None, run.process.communicate()
                time.sleep(0.05)
        os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does: to every process
        printed, errors = run.process.communicate()
        assert run.process.returncode == 130, errors
        assert errors == ""
        assert any(line.startswith("Stopped") for line in printed.splitlines()[-2:])
        while any(state != "Z" for process, (_, session, state) in _processes().items() if session == run.process.pid):
            time.sleep(0.05)  # workers and their server end by themselves


def test_sigterm_ends_a_run_as_ctrl_c_does(digits_folder: Path, tmp_path: Path) -> None:
    with Run(digits_folder, tmp_path) as run:
        while not (tmp_path / "run" / "log.csv").is_file():
            assert run.process.poll() is None, run.process.communicate()
            time.sleep(0.05)
        os.kill(run.process.pid, signal.SIGTERM)
        printed, errors = run.process.communicate()
        assert (run.process.returncode, errors) == (130, "")
        assert printed.splitlines()[-2].startswith("Stopped; kept up to the end of epoch ")
        assert printed.splitlines()[-1].startswith("Report so far: ")


def test_workers_end_with_a_main_process_that_is_killed(digits_folder: Path, tmp_path: Path) -> None:
    with Run(digits_folder, tmp_path) as run:
        run.wait_for_workers()
        run.process.kill()
        run.process.communicate()  # workers have these pipes, too: it returns once all of them are closed
        assert run.process.returncode == -signal.SIGKILL
        assert run.workers() == []
