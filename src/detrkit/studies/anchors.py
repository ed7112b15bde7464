"""Which parts of DAB-DETR's boxes matter (Liu et al. 2022, arXiv:2201.12329, sections 4.3 and 4.4, table 3)."""

from __future__ import annotations

from typing import Any

from detrkit.studies.setting import WATCHED, anchored
from detrkit.studies.study import Study, Trial


def _changed(**settings: Any) -> Trial:
    return Trial("dab-detr-compact", anchored(**settings))


STUDY = Study(
    title="DAB-DETR with one thing changed",
    claim="Modulation by width and height and a low temperature each add AP (DAB-DETR, table 3).",
    trials={
        "as it is": _changed(),
        "content is learned and scales the first layer, too": _changed(learned_content=True),
        "references pass gradients": _changed(detach_references=False),
        "a box head for each layer": _changed(box_head_per_layer=True),
        "no modulation by width and height": _changed(modulate=False),
        "temperature 10,000, as the queries' codes have it": _changed(temperature=10000.0),
    },
    options={**WATCHED, "epochs": 4},
    single_class=True,
)
