"""Training runs in tests end without their reports, which take most of the time of a small run, unless a test asks for them."""

from __future__ import annotations

import pytest
from training.small_runs import without_reports


@pytest.fixture(autouse=True)
def _reports_where_they_are_asked_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("reports") is None:
        without_reports(monkeypatch)
