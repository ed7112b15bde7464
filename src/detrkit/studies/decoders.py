"""Leaving out the encoder, or the decoder (Sun et al. 2021, "Rethinking Transformer-based Set Prediction", arXiv:2011.10881, sections 3.3 and 4)."""

from __future__ import annotations

from detrkit.measures import ATTENTION_SPARSITY, MATCHED_CLASS_ACCURACY, MATCHING_INSTABILITY, OVERLAP_LOSS
from detrkit.studies.setting import SGD, WATCHED, dense, without_decoder
from detrkit.studies.study import PLAIN_COLUMNS, SMALLEST, Study, Trial, ap, watched

STUDY = Study(
    title="Decoder or none",
    claim="A decoder's cross-attention takes most of DETR's long training; an encoder over well chosen features predicts sets without it (TSP).",
    trials={
        "DETR": Trial("detr-compact", dense()),
        "DETR without encoder": Trial("detr-compact", dense(encoder_layers=0)),
        "TSP-FCOS": Trial("tsp-fcos-compact", without_decoder()),
        "TSP-RCNN": Trial("tsp-rcnn-compact", without_decoder()),
    },
    options={**WATCHED, **SGD, "epochs": 4},
    columns=(
        *PLAIN_COLUMNS,
        ap("AP_small", "AP of small objects"),
        SMALLEST,
        watched(MATCHED_CLASS_ACCURACY),
        watched(OVERLAP_LOSS),
        watched(ATTENTION_SPARSITY),
        watched(MATCHING_INSTABILITY),
    ),
    panels=(ATTENTION_SPARSITY, MATCHING_INSTABILITY),
)
