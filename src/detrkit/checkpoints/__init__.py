"""Reading and writing weights: detrkit's own files, the authors' and Hugging Face's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detrkit.lazy import lazy_names

if TYPE_CHECKING:
    from detrkit.checkpoints.backbone_weights import load_backbone_weights
    from detrkit.checkpoints.converting import convert_weights, save_authors, save_hugging_face
    from detrkit.checkpoints.detector_weights import load_detector
    from detrkit.checkpoints.loading import from_official, load, to_official
    from detrkit.checkpoints.own_format import save
    from detrkit.checkpoints.query_weights import load_queries

__all__ = [
    "convert_weights",
    "from_official",
    "load",
    "load_backbone_weights",
    "load_detector",
    "load_queries",
    "save",
    "save_authors",
    "save_hugging_face",
    "to_official",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "backbone_weights": ("load_backbone_weights",),
        "converting": ("convert_weights", "save_authors", "save_hugging_face"),
        "detector_weights": ("load_detector",),
        "loading": ("from_official", "load", "to_official"),
        "own_format": ("save",),
        "query_weights": ("load_queries",),
    },
)
