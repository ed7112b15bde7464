"""Is one-to-one matching a cause of slow convergence? What denoising (DN-DETR, DINO), one-to-many matching (H-DETR) and groups (Group DETR) add.

Li et al. 2022, arXiv:2203.01305; Zhang et al. 2022, arXiv:2203.03605; Jia et al. 2023, arXiv:2207.13080; Chen et al. 2023, arXiv:2207.13085.
"""

from __future__ import annotations

from detrkit.measures import MATCHING_INSTABILITY, REPEATED_SHARE
from detrkit.studies.setting import WATCHED, sparse
from detrkit.studies.study import PLAIN_COLUMNS, SMALLEST, STEPS, Study, Trial, watched

_VARIANT = "deformable-detr-compact-two-stage"

STUDY = Study(
    title="More supervision",
    claim="Each object trains one query only; denoised copies, one-to-many matching and groups train more of them, and converge sooner.",
    trials={
        "Deformable DETR, two stages": Trial(_VARIANT, sparse()),
        "with denoising": Trial(_VARIANT, {**sparse(), "supervision": "denoising,copies=60"}),
        "with one-to-many queries": Trial(_VARIANT, {**sparse(), "supervision": "one-to-many"}),
        "with three more groups": Trial(_VARIANT, {**sparse(), "supervision": "groups,count=4"}),
        "DINO": Trial("dino-compact", sparse(class_cost=5.0, denoising=60)),
    },
    options={**WATCHED, "epochs": 3},
    columns=(*PLAIN_COLUMNS, STEPS, SMALLEST, watched(REPEATED_SHARE), watched(MATCHING_INSTABILITY)),
    panels=(MATCHING_INSTABILITY, REPEATED_SHARE),
)
