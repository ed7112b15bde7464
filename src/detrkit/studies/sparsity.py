"""How sharply queries look, epoch by epoch (Sun et al. 2021, TSP, arXiv:2011.10881, section 3.2 and figure 2)."""

from __future__ import annotations

from detrkit.measures import ATTENTION_DISTANCE, ATTENTION_SPARSITY, REFERENCE_DISTANCE
from detrkit.studies.setting import WATCHED, anchored, dense, sparse
from detrkit.studies.study import PLAIN_COLUMNS, Study, Trial, watched

STUDY = Study(
    title="How sharply queries look",
    claim="DETR's cross-attention becomes sparser all through training: its queries need that long to learn where to look (TSP).",
    trials={
        "DETR": Trial("detr-compact", dense()),
        "Conditional DETR": Trial("conditional-detr-compact", dense()),
        "SMCA-DETR": Trial("smca-detr-compact", dense()),
        "DAB-DETR": Trial("dab-detr-compact", anchored()),
        "Anchor DETR": Trial("anchor-detr-compact", dense()),
        "SAM-DETR": Trial("sam-detr-compact", dense()),
        "Deformable DETR": Trial("deformable-detr-compact", sparse()),
    },
    options={**WATCHED, "epochs": 4},
    columns=(
        *PLAIN_COLUMNS,
        watched(ATTENTION_SPARSITY, epoch=1),
        watched(ATTENTION_SPARSITY),
        watched(ATTENTION_DISTANCE),
        watched(REFERENCE_DISTANCE),
    ),
    panels=(ATTENTION_SPARSITY, ATTENTION_DISTANCE),
    single_class=True,
)
