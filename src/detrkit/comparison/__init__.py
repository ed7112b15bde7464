"""Which of several detectors is best for some data? Variants are trained and checkpoints evaluated alike, then compared image by image.

`compare` does all of it and returns a `Comparison`, which `detrkit compare` prints. Each run has a process and a folder of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detrkit.lazy import lazy_names

if TYPE_CHECKING:
    from detrkit.comparison.comparing import compare
    from detrkit.comparison.differences import Difference
    from detrkit.comparison.figures import Comparison, ContestantFigures

__all__ = ["Comparison", "ContestantFigures", "Difference", "compare"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "comparing": ("compare",),
        "differences": ("Difference",),
        "figures": ("Comparison", "ContestantFigures"),
    },
)
