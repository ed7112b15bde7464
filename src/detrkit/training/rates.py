"""Factors of the learning rates of single parts of a model: by the depth of a backbone's block, and by the names of parameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from detrkit.errors import OptionError, closest


def fits(part: str, name: str) -> bool:
    """Whether a component of a parameter's name, or several that follow each other, is this part.

    Args:
        part: such as "offsets" or "backbone.layer1".
        name: of a parameter, such as "backbone.layer1.0.conv1.weight".
    """
    return f".{part}." in f".{name}."


def named_factor(name: str, rates: Mapping[str, float]) -> float:
    """The product of the factors of all parts that fit a parameter's name; 1 where none does."""
    return math.prod(factor for part, factor in rates.items() if fits(part, name))


def layer_factors(names: Iterable[str], decay: float) -> dict[str, float]:
    """The factors of a backbone's parameters: 1 in its last block, `decay` in the one before, and so on.

    Args:
        names: of its parameters, in the order of the network. Without what all of them begin with, a block is what the components up to the first
            number name ("layer3.2", "blocks.7"), or the first component where there is no number ("conv1").
        decay: above 0 and at most 1.
    """
    names = list(names)
    outer = _common_beginning(names)
    block_of = {name: _block(name.removeprefix(outer)) for name in names}
    last_first = list(reversed(dict.fromkeys(block_of.values())))
    depths = {block: depth for depth, block in enumerate(last_first)}
    return {name: decay ** depths[block] for name, block in block_of.items()}


def _common_beginning(names: Sequence[str]) -> str:
    """The components that all names begin with, such as the modules around a network of another library."""
    of_names = zip(*(name.split(".")[:-1] for name in names), strict=False)
    common = itertools.takewhile(lambda components: len(set(components)) == 1, of_names)
    return "".join(f"{components[0]}." for components in common)


def _block(name: str) -> str:
    components = name.split(".")[:-1]
    for place, component in enumerate(components):
        if component.isdigit():
            return ".".join(components[: place + 1])
    return ".".join(components[:1])


def check_rates(names: Iterable[str], rates: Mapping[str, float]) -> None:
    """Refuses a factor of something that the model does not have.

    Args:
        names: of the model's parameters.
        rates: factors by the components of names.

    Raises:
        OptionError: no parameter has such a component; the message names the closest one.
    """
    names = list(names)
    for part in rates:
        if not any(fits(part, name) for name in names):
            known, listing = _parts(names), ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
            meant = closest(part, known, listing=f"the parts of the model are {listing}, and the parts of these")
            raise OptionError(
                f"rates names '{part}', which no parameter of the model has in its name: {meant}", "rates"
            )


def _parts(names: Iterable[str]) -> list[str]:
    """What people may have meant: single components without numbers, and beginnings of names."""
    parts: dict[str, None] = {}
    for name in names:
        components = name.split(".")
        parts |= dict.fromkeys(each for each in components if not each.isdigit())
        parts |= dict.fromkeys(".".join(components[:length]) for length in range(2, len(components)))
    return list(parts)
