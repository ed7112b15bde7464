"""A handful of digits is enough."""

from __future__ import annotations

import pytest

from detrkit.data import digits


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "DEFAULT_COUNTS", {"train": 32, "val": 16})
