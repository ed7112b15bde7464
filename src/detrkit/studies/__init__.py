"""The experiments behind the papers, remade: `detrkit study NAME`. Each study is a short file; see `docs/why.md` for what came out.

`study.py` says what a study is, `learning.py` trains one of its detectors, `running.py` runs all of them, and `showing.py` draws the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detrkit.lazy import lazy_names

if TYPE_CHECKING:
    from detrkit.studies.listing import STUDIES, find_study
    from detrkit.studies.running import StudyResult, run_study

__all__ = ["STUDIES", "StudyResult", "find_study", "run_study"]

__getattr__, __dir__ = lazy_names(
    __name__, {"listing": ("STUDIES", "find_study"), "running": ("StudyResult", "run_study")}
)
