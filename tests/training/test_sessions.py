"""When a run was at work, and with which command."""

from __future__ import annotations

from pathlib import Path

import pytest

import detrkit
from detrkit.files import write_json
from detrkit.training.sessions import begin_session, command_of, end_session, sessions_of


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["/v/bin/python3", "/v/bin/detrkit", "train", "detr-r50", "--data", "my data"], "detrkit train detr-r50 --data 'my data'"),
        (["/v/bin/detrkit", "train"], "detrkit train"),
        (["/usr/bin/python3", "-m", "detrkit", "train"], "detrkit train"),
        (["/usr/bin/python3", "learn.py", "5"], "python3 learn.py 5"),
        (["python3"], "python3"),
    ],
)  # fmt: skip
def test_a_command_is_written_as_a_person_would_type_it(arguments: list[str], command: str) -> None:
    assert command_of(arguments) == command


def test_every_time_at_work_is_noted(tmp_path: Path) -> None:
    config = write_json(tmp_path / "config.json", {"options": {"seed": 3}})
    assert sessions_of(config) == ()  # of an older version
    begin_session(config)
    end_session(config)
    begin_session(config)
    first, second = sessions_of(config)
    assert first.seconds is not None
    assert first.seconds >= 0
    assert second.seconds is None
    assert second.began.tzinfo is not None
    assert second.versions["detrkit"] == detrkit.__version__
