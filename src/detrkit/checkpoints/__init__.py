"""Reading and writing weights: detrkit's own files, the authors' and Hugging Face's."""

from __future__ import annotations

from detrkit.checkpoints.backbone_weights import load_backbone_weights
from detrkit.checkpoints.loading import from_official, load, to_official
from detrkit.checkpoints.own_format import save

__all__ = ["from_official", "load", "load_backbone_weights", "save", "to_official"]
