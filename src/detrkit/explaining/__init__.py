"""Why a model finds what it finds, and why not: where its attention looked, layer by layer.

`explain` says where a model looked for what it found in a picture, `why_missed` why it did not find an
object, and `query_uses` what each of its queries is for. Models know nothing of this package: it watches them from outside, while it is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detrkit.lazy import lazy_names

if TYPE_CHECKING:
    from detrkit.explaining.explaining import explain
    from detrkit.explaining.missed import Answers, why_missed
    from detrkit.explaining.records import Explanation
    from detrkit.explaining.slots import QueryUses, query_uses

__all__ = ["Answers", "Explanation", "QueryUses", "explain", "query_uses", "why_missed"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "explaining": ("explain",),
        "missed": ("Answers", "why_missed"),
        "records": ("Explanation",),
        "slots": ("QueryUses", "query_uses"),
    },
)
