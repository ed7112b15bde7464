"""supervision, imported without warnings about OpenCV, which our drawings do not need, and about widgets for its progress bars in notebooks."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="OpenCV", category=UserWarning)
    warnings.filterwarnings("ignore", message="IProgress not found")
    import supervision as sv

__all__ = ["sv"]
