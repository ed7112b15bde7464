"""The experiments behind the papers, remade: `detrkit study NAME`. Each study is a short file; see `docs/why.md` for what came out.

`study.py` says what a study is, `learning.py` trains one of its detectors, `running.py` runs all of them, and `showing.py` draws the result.
"""

from detrkit.studies.listing import STUDIES, find_study
from detrkit.studies.running import run_study

__all__ = ["STUDIES", "find_study", "run_study"]
