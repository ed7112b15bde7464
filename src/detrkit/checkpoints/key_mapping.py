"""Reversible tables between our parameter names and those of other code: renames and concatenations, nothing else.

Because no arithmetic is involved, the tables carry gradients as well as weights.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
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
        aliases: further patterns under which other code writes the same tensor whole, because a module of its sits in several places.

    Raises:
        ValueError: aliases of a concatenation.
    """

    own: str
    foreign: tuple[str, ...]
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.aliases and len(self.foreign) > 1:
            raise ValueError(f"'{self.own}' is a concatenation, which can have no aliases")


@dataclass(frozen=True)
class Dropped:
    """Foreign tensors that have no place here.

    Attributes:
        foreign: pattern of their names.
        reason: why nothing is lost.
    """

    foreign: str
    reason: str


def same(own: str, foreign: str) -> Rule:
    """A module of the same leaves under another name."""
    return Rule(own + ".{leaf}", (foreign + ".{leaf}",))


class KeyMapping:
    """A table between our names and foreign ones.

    Args:
        rules: one of our names belongs to the first rule that it matches; a table is right where it can match no other. A foreign name
            may match several: where other code shares a module that we have several of, each of ours gets its values.
        dropped: names that may occur without having a place in the model.
    """

    def __init__(self, rules: Collection[Rule], dropped: Collection[Dropped] = ()) -> None:
        self.rules, self.dropped = tuple(rules), tuple(dropped)
        self._own = [(_pattern(rule.own), rule) for rule in self.rules]
        self._foreign = [
            (_pattern(name), rule, part) for rule in self.rules for part, name in enumerate(rule.foreign + rule.aliases)
        ]
        self._dropped = [_pattern(entry.foreign) for entry in self.dropped]

    def to_foreign(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors under foreign names, all aliases included; any part of a model will do.

        Raises:
            CheckpointError: a name is none of ours, or the other code has one tensor where two of ours differ.
        """
        result: dict[str, Tensor] = {}
        writers: dict[str, str] = {}
        for name, tensor in tensors.items():
            rule, fields = self._find_own(name)
            parts = tensor.chunk(len(rule.foreign)) if len(rule.foreign) > 1 else (tensor,) * (1 + len(rule.aliases))
            for pattern, part in zip(rule.foreign + rule.aliases, parts, strict=True):
                foreign = pattern.format(**fields)
                first = writers.setdefault(foreign, name)
                _check_equal(first, result.setdefault(foreign, part), name, part)
        return result

    def from_foreign(
        self, tensors: Mapping[str, Tensor], own_names: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Foreign tensors under our names; any part of a model will do, but a concatenation needs all its parts.

        Of a tensor with aliases any one is enough.

        Args:
            tensors: by foreign name.
            own_names: all names of the model; None takes every name that the table knows and that is not one of `dropped`.

        Raises:
            CheckpointError: a name has no place in the model and is not one of `dropped`, a part is missing, or aliases differ.
        """
        parts: dict[str, dict[int, str]] = {}
        sizes: dict[str, int] = {}
        unknown = []
        for name, tensor in tensors.items():
            droppable = any(pattern.fullmatch(name) for pattern in self._dropped)
            known = False
            for own, part, size in self._find_foreign(name):
                wanted = not droppable if own_names is None else own in own_names
                if wanted:
                    known, sizes[own] = True, size
                    first = parts.setdefault(own, {}).setdefault(part, name)
                    _check_equal(first, tensors[first], name, tensor)
            if not known and not droppable:
                unknown.append(name)
        if unknown:
            raise CheckpointError(
                f"{len(unknown)} tensors have no place in this model ({_shortened(unknown)}): the weights are of another model"
            )
        return {
            own: _join(own, sizes[own], {part: tensors[name] for part, name in pieces.items()})
            for own, pieces in parts.items()
        }

    def _find_foreign(self, name: str) -> Iterator[tuple[str, int, int]]:
        """Our names that are made of it, which part of each it is, and how many parts there are."""
        for pattern, rule, place in self._foreign:
            if match := pattern.fullmatch(name):
                part = place if place < len(rule.foreign) else 0  # an alias is the whole tensor
                yield rule.own.format(**match.groupdict()), part, len(rule.foreign)

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


def _check_equal(first: str, values: Tensor, second: str, others: Tensor) -> None:
    if values is others:
        return
    alike = values.dtype == others.dtype and values.shape == others.shape
    if not alike or not torch.allclose(values, others, rtol=0, atol=0, equal_nan=True):
        raise CheckpointError(
            f"'{first}' and '{second}' stand for one tensor but hold different values: the weights are of another model or damaged"
        )


def _shortened(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
