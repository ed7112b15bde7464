"""When a run was at work: it may be stopped and resumed, so its configuration has an entry for each time."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch

import detrkit
from detrkit.files import write_json


@dataclass(frozen=True)
class Session:
    """One time that a run was at work.

    Attributes:
        began: when training began, with its time zone.
        ended: when it ended or was stopped; None if the process was killed, or is still at work.
        command: of the process.
        versions: of the software, by its name.
    """

    began: datetime
    ended: datetime | None
    command: str
    versions: dict[str, str]

    @property
    def seconds(self) -> float | None:
        """How long it was."""
        return None if self.ended is None else (self.ended - self.began).total_seconds()


def begin_session(config: Path) -> None:
    """Notes in a run's configuration that training begins."""
    content = _content(config)
    session = {"began": _now(), "command": command_of(sys.orig_argv), "versions": current_versions()}
    content.setdefault("sessions", []).append(session)
    write_json(config, content)


def end_session(config: Path) -> None:
    """Notes in a run's configuration that the training that began last has ended."""
    content = _content(config)
    content["sessions"][-1]["ended"] = _now()
    write_json(config, content)


def sessions_of(config: Path) -> tuple[Session, ...]:
    """The sessions that a run's configuration notes; none in those of older versions."""
    return tuple(
        Session(
            began=datetime.fromisoformat(entry["began"]),
            ended=datetime.fromisoformat(entry["ended"]) if "ended" in entry else None,
            command=entry["command"],
            versions=entry["versions"],
        )
        for entry in _content(config).get("sessions", [])
    )


def current_versions() -> dict[str, str]:
    """Versions of the software that a run depends on."""
    return {
        "detrkit": detrkit.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "lightning": lightning.__version__,
    }


def command_of(arguments: Sequence[str]) -> str:
    """A command as a person would type it.

    Args:
        arguments: of the process, from the interpreter on.
    """
    for place in (0, 1):
        if Path(*arguments[place : place + 1]).name == "detrkit":
            return shlex.join(["detrkit", *arguments[place + 1 :]])
    if list(arguments[1:3]) == ["-m", "detrkit"]:
        return shlex.join(["detrkit", *arguments[3:]])
    return shlex.join([Path(*arguments[:1]).name, *arguments[1:]])


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _content(config: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    return content
