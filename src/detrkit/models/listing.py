"""What can be built, as a file: names and what `detrkit models` prints, without loading PyTorch.

`make variants` writes the file again after a variant was added or changed; a test says when that is due.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from detrkit.cards import PublishedResult, PublishedWeights, Source
from detrkit.errors import ConfigurationError, closest

FILE = Path(__file__).with_name("variants.json")


@dataclass(frozen=True)
class Listed:
    """A variant as it is listed.

    Attributes:
        family: the paper's file.
        backbone: name of its backbone.
        queries: number of queries.
        parameters: numbers that it is made of, without what batch norms keep.
        ap: the best that its authors published on COCO val2017; None where they published none.
        weights: the files that they offer.
        results: what else they published.
        source: their code; None for detrkit's own models.
        exceptions: sentences on what to know before it is used.
    """

    family: str
    backbone: str
    queries: int
    parameters: int
    ap: float | None
    weights: tuple[PublishedWeights, ...]
    results: tuple[PublishedResult, ...]
    source: Source | None
    exceptions: tuple[str, ...]

    @property
    def licence(self) -> str:
        """Of the authors' code and weights, in a few letters; "own" for detrkit's own models."""
        return "own" if self.source is None else self.source.licence or "none"


@cache
def listed_variants() -> dict[str, Listed]:
    """Every variant by its name, in the catalog's order."""
    entries: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        name: Listed(
            **entry
            | {
                "weights": tuple(PublishedWeights(**each) for each in entry["weights"]),
                "results": tuple(PublishedResult(**each) for each in entry["results"]),
                "source": None if entry["source"] is None else Source(**entry["source"]),
                "exceptions": tuple(entry["exceptions"]),
            }
        )
        for name, entry in entries.items()
    }


def check_name(variant: str) -> None:
    """Refuses what is not the name of a variant, before PyTorch is loaded.

    Raises:
        ConfigurationError: there is no such variant; the message names the closest ones.
    """
    if variant not in listed_variants():
        raise ConfigurationError(
            f"there is no variant '{variant}': {closest(variant, listed_variants(), listing='`detrkit models` lists all')}"
        )


def from_catalog() -> dict[str, Listed]:
    """The same, made from the models themselves."""
    from detrkit.models.catalog import CATALOG

    return {
        name: Listed(
            family=variant.family,
            backbone=variant.config.backbone,
            queries=variant.config.queries,
            parameters=count_parameters(name),
            ap=variant.ap,
            weights=variant.weights,
            results=variant.results,
            source=variant.source,
            exceptions=tuple(variant.exceptions.values()),
        )
        for name, variant in CATALOG.items()
    }


def count_parameters(variant: str) -> int:
    """The number of parameters of a variant, trained or not, of a model without memory for them."""
    import torch

    from detrkit.models.catalog import build

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(variant).parameters())


def write() -> None:
    """Writes the file from the models."""
    entries = {name: asdict(entry) for name, entry in from_catalog().items()}
    FILE.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
