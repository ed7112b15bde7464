"""Why a model finds what it finds, and why not: where its attention looked, layer by layer.

`explain` says where a model looked for what it found in a picture, and `why_missed` why it did not find an object. Nothing else of detrkit imports this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detrkit.lazy import lazy_names

if TYPE_CHECKING:
    from detrkit.explaining.explaining import explain
    from detrkit.explaining.missed import Answers, why_missed
    from detrkit.explaining.records import Explanation

__all__ = ["Answers", "Explanation", "explain", "why_missed"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "explaining": ("explain",),
        "missed": ("Answers", "why_missed"),
        "records": ("Explanation",),
    },
)
