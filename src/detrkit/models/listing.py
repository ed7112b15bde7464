"""What can be built, as a file: names and what `detrkit models` prints, without loading PyTorch.

`make variants` writes the file again after a variant was added or changed; a test says when that is due.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from detrkit.errors import ConfigurationError, closest

FILE = Path(__file__).with_name("variants.json")


@dataclass(frozen=True)
class Listed:
    """A variant as it is listed.

    Attributes:
        family: the paper's file.
        backbone: name of its backbone.
        queries: number of queries.
        ap: the best that its authors published on COCO val2017; None where they published none.
        weights: an address, its licence and, where there are several, a tag for each published file.
        exceptions: sentences on what to know before it is used.
    """

    family: str
    backbone: str
    queries: int
    ap: float | None
    weights: tuple[tuple[str, str, str], ...]
    exceptions: tuple[str, ...]


@cache
def listed_variants() -> dict[str, Listed]:
    """Every variant by its name, in the catalog's order."""
    entries = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        name: Listed(
            family=entry["family"],
            backbone=entry["backbone"],
            queries=entry["queries"],
            ap=entry["ap"],
            weights=tuple((address, licence, tag) for address, licence, tag in entry["weights"]),
            exceptions=tuple(entry["exceptions"]),
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
            ap=max((weights.ap for weights in variant.weights), default=None),
            weights=tuple((weights.address, weights.licence, weights.tag) for weights in variant.weights),
            exceptions=tuple(variant.exceptions.values()),
        )
        for name, variant in CATALOG.items()
    }


def write() -> None:
    """Writes the file from the models."""
    entries = {name: asdict(entry) for name, entry in from_catalog().items()}
    FILE.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
