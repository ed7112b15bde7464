"""The demo at its full length: what the README promises of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detrkit.commands.demo import demo


@pytest.mark.slow
def test_the_demo_learns(tmp_path: Path) -> None:
    demo(output=tmp_path / "demo")
    figures = json.loads((tmp_path / "demo" / "metrics.json").read_text())["evaluation"]["figures"]
    assert figures["AP50"] > 0.85  # the README has 0.923; other processors differ by a few points
    assert figures["AP"] > 0.6  # the README has 0.731
    assert "data:image/jpeg;base64" in (tmp_path / "demo" / "report.html").read_text()
