"""The studies by name; each is imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from detrkit.errors import ConfigurationError, closest

if TYPE_CHECKING:
    from detrkit.studies.study import Study

# What each is about, in the order of docs/why.md.
STUDIES = {
    "sparsity": "how sharply attention looks, epoch by epoch, in DETR and its heirs (TSP)",
    "matching": "whether it is the changing matches that slow DETR down (TSP)",
    "decoders": "leaving out the encoder, or the decoder (TSP)",
    "learned-queries": "queries of a trained DETR for a new one: is it learning the queries that takes so long? (DAB-DETR)",
    "attention-maps": "where learned queries, points and boxes look before they have seen the image (DAB-DETR)",
    "order": "what the first self-attention does among queries without content (DETR)",
    "query-count": "how many queries there should be, and whether later layers need as many",
    "positions": "codes of positions: which, where, and in how many layers (DETR)",
    "supervision": "one-to-one matching, one-to-many matching, groups and denoising (DN-DETR, DINO, H-DETR)",
    "attention-weights": "attention without dot products: weights from the query alone, or random ones (Synthesizer)",
    "anchors": "which parts of DAB-DETR's boxes matter",
    "self-supervision": "learning to find patches of images without annotations first (UP-DETR)",
}


def check_study(name: str) -> None:
    """Refuses names of no study.

    Raises:
        ConfigurationError: it is one.
    """
    if name not in STUDIES:
        raise ConfigurationError(f"there is no study '{name}': {closest(name, STUDIES)}")


def find_study(name: str) -> Study:
    """The study of this name.

    Raises:
        ConfigurationError: there is none.
    """
    check_study(name)
    module = importlib.import_module(f"detrkit.studies.{name.replace('-', '_')}")
    return module.STUDY  # type: ignore[no-any-return]
