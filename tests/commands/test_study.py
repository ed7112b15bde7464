"""`detrkit study` as a user runs it; tests/studies has what studies do."""

from __future__ import annotations

from pathlib import Path

from commands.running import detrkit_command, refusal

from detrkit.studies import STUDIES


def test_without_a_name_it_lists_the_studies(tmp_path: Path) -> None:
    finished = detrkit_command("study", folder=tmp_path)
    assert finished.returncode == 0, finished.stderr
    words = finished.stdout.split()
    assert [name for name in STUDIES if name not in words] == []
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_told_before_anything_is_trained(tmp_path: Path) -> None:
    assert "there is no study 'matchin': did you mean 'matching'?" in refusal("study", "matchin", folder=tmp_path)
    assert "no_data does not exist" in refusal("study", "matching", "--data", "no_data", folder=tmp_path)
    assert "--seeds must be at least 1, not 0" in refusal("study", "matching", "--seeds", 0, folder=tmp_path)
    refused = refusal("study", "matching", "--settings.width", "wide", folder=tmp_path)
    assert "--settings.width must be of type" in refused
    assert list(tmp_path.iterdir()) == []
