"""Who is compared, found out without PyTorch, so that a wrong name is told at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detrkit.checkpoints.places import find_weights
from detrkit.errors import ConfigurationError
from detrkit.files import expanded
from detrkit.models.listing import check_name, listed_variants

_LEAST = 2
_NAMED_BY_FOLDER = ("best", "last", "model", "pytorch_model")  # files that say nothing about what they hold


@dataclass(frozen=True)
class Contestant:
    """A variant that is trained, or a checkpoint that is only evaluated.

    Attributes:
        name: what tables and folders call it.
        variant: the variant's name; None for a checkpoint.
        checkpoint: absolute path of the weight file; None for a variant.
    """

    name: str
    variant: str | None = None
    checkpoint: str | None = None

    def run_name(self, seed: int) -> str:
        """The name of a run's folder; a checkpoint, also one that is called like a run, has a single one, whatever the seed."""
        return f"{self.name}-checkpoint" if self.variant is None else f"{self.name}-seed{seed}"

    def seeds(self, count: int) -> range:
        """The seeds of its runs."""
        return range(1 if self.variant is None else count)


def read_contestants(given: Sequence[str | Path]) -> tuple[Contestant, ...]:
    """What variants and checkpoints some names and paths stand for.

    A name that the catalog has is a variant, also where there is a file of this name: `./detr-r50` is that file.

    Args:
        given: names of variants, and paths of checkpoints or of runs' folders.

    Raises:
        ConfigurationError: fewer than two, one of them twice, or one that is neither a variant nor a file.
        CheckpointError: a folder without weights.
    """
    contestants: list[Contestant] = []
    for each in given:
        contestant = _read(str(each))
        if contestant in contestants:
            raise ConfigurationError(f"{each} is named twice: name what is to be compared once each")
        contestants.append(contestant)
    if len(contestants) < _LEAST:
        raise ConfigurationError(
            f"a comparison needs two or more variants or checkpoints, not {len(contestants)}: name them, such as "
            "detr-compact deformable-detr-compact"
        )
    return _with_own_names(contestants)


def _read(given: str) -> Contestant:
    if given in listed_variants():
        return Contestant(given, variant=given)
    path = expanded(given)
    if not path.exists() and not path.suffix and len(path.parts) == 1:  # looks like the name of a variant
        check_name(given)
    file = find_weights(given).absolute()
    name = file.parent.name if file.stem in _NAMED_BY_FOLDER and file.parent.name else file.stem
    return Contestant(name, checkpoint=str(file))


def _with_own_names(contestants: Sequence[Contestant]) -> tuple[Contestant, ...]:
    """The contestants; checkpoints whose name another has already have a number behind it."""
    taken = {each.name for each in contestants if each.variant is not None}
    named = []
    for each in contestants:
        name, number = each.name, 1
        while each.variant is None and name in taken:
            number += 1
            name = f"{each.name}-{number}"
        taken.add(name)
        named.append(replace(each, name=name))
    return tuple(named)
