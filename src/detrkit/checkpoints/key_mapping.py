"""Reversible tables between our parameter names and those of other code: renames and concatenations, nothing else.

Because no arithmetic is involved, the tables carry gradients as well as weights.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from detrkit.errors import CheckpointError

# What the fields of a name pattern stand for. Names are always matched as a whole.
_FIELDS = {"n": r"\d+", "leaf": r"\w+", "rest": r".+"}


@dataclass(frozen=True)
class Rule:
    """One line of a table.

    Attributes:
        own: pattern of our name, such as "encoder.layers.{n}.norm.{leaf}".
        foreign: pattern of the foreign name with the same fields; several are the parts that ours is the concatenation of, along the
            first axis and equally long.
    """

    own: str
    foreign: tuple[str, ...]


@dataclass(frozen=True)
class Dropped:
    """Foreign tensors that have no place here.

    Attributes:
        foreign: pattern of their names.
        reason: why nothing is lost.
    """

    foreign: str
    reason: str


class KeyMapping:
    """A table between our names and foreign ones.

    Args:
        rules: a name belongs to the first rule that it matches; a table is right where it can match no other.
        dropped: names that may occur without having a place in the model.
    """

    def __init__(self, rules: Collection[Rule], dropped: Collection[Dropped] = ()) -> None:
        self.rules, self.dropped = tuple(rules), tuple(dropped)
        self._own = [(_pattern(rule.own), rule) for rule in self.rules]
        self._foreign = [(_pattern(name), rule, part) for rule in self.rules for part, name in enumerate(rule.foreign)]
        self._dropped = [_pattern(entry.foreign) for entry in self.dropped]

    def to_foreign(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors under foreign names; any part of a model will do.

        Raises:
            CheckpointError: a name is none of ours.
        """
        result = {}
        for name, tensor in tensors.items():
            rule, fields = self._find_own(name)
            parts = tensor.chunk(len(rule.foreign)) if len(rule.foreign) > 1 else (tensor,)
            for foreign, part in zip(rule.foreign, parts, strict=True):
                result[foreign.format(**fields)] = part
        return result

    def from_foreign(
        self, tensors: Mapping[str, Tensor], own_names: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Foreign tensors under our names; any part of a model will do, but a concatenation needs all its parts.

        Args:
            tensors: by foreign name.
            own_names: all names of the model; None takes every name that the table knows and that is not one of `dropped`.

        Raises:
            CheckpointError: a name has no place in the model and is not one of `dropped`, or a part is missing.
        """
        parts: dict[str, dict[int, Tensor]] = {}
        sizes: dict[str, int] = {}
        unknown = []
        for name, tensor in tensors.items():
            own, part, size = self._find_foreign(name)
            droppable = any(pattern.fullmatch(name) for pattern in self._dropped)
            if own is not None and (not droppable if own_names is None else own in own_names):
                parts.setdefault(own, {})[part] = tensor
                sizes[own] = size
            elif not droppable:
                unknown.append(name)
        if unknown:
            raise CheckpointError(
                f"{len(unknown)} tensors have no place in this model ({_shortened(unknown)}): the weights are of another model"
            )
        return {own: _join(own, sizes[own], pieces) for own, pieces in parts.items()}

    def _find_foreign(self, name: str) -> tuple[str | None, int, int]:
        """Our name, which part of it this is, and how many parts there are."""
        for pattern, rule, part in self._foreign:
            if match := pattern.fullmatch(name):
                return rule.own.format(**match.groupdict()), part, len(rule.foreign)
        return None, 0, 0

    def _find_own(self, name: str) -> tuple[Rule, dict[str, str]]:
        for pattern, rule in self._own:
            if match := pattern.fullmatch(name):
                return rule, match.groupdict()
        raise CheckpointError(f"'{name}' is not the name of a parameter that this table knows")


def _pattern(name: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", name)
    text = "".join(
        f"(?P<{piece}>{_FIELDS[piece]})" if index % 2 else re.escape(piece) for index, piece in enumerate(pieces)
    )
    return re.compile(text)


def _join(own: str, size: int, pieces: Mapping[int, Tensor]) -> Tensor:
    if len(pieces) != size:
        raise CheckpointError(f"'{own}' is made of {size} tensors but only {len(pieces)} were given: give all of them")
    ordered = [pieces[index] for index in range(size)]
    return ordered[0] if size == 1 else torch.cat(ordered)


def _shortened(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
