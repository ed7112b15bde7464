"""Reversible tables between our parameter names and those of other code: renames, concatenations and splits, nothing else.

Because no arithmetic is involved, the tables carry gradients as well as weights.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from detrkit.errors import CheckpointError

# What the fields of a name pattern match; a number may follow the word ({leaf2}). Patterns must match the whole name.
_FIELDS = {"n": r"\d+", "m": r"\d+", "leaf": r"\w+", "rest": r".+"}
_FIELD = re.compile(r"\{([a-z]+)(\d*)\}")


@dataclass(frozen=True)
class Rule:
    """One row of a table.

    A field that occurs twice in a pattern stands for the same text both times; use {n} and {m} for two different numbers.

    Attributes:
        own: pattern of our name, such as "encoder.layers.{n}.norm.{leaf}"; several patterns are parts of one foreign tensor, which is split
            into equal parts.
        foreign: pattern of the foreign name, with the same fields; several patterns are equal parts that are concatenated to give our tensor.
        aliases: further patterns under which other code writes the same whole tensor, because it uses a module in several places.
        axis: the axis along which parts are split or concatenated.

    Raises:
        ValueError: several names on both sides, aliases of a concatenation, patterns with different fields, or an unknown field.
    """

    own: str | tuple[str, ...]
    foreign: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    axis: int = 0

    def __post_init__(self) -> None:
        if len(self.foreign) > 1 and len(self.own_parts) > 1:
            raise ValueError(
                f"{self.own} and {self.foreign} are several names on both sides: use one rule for each pair"
            )
        if self.aliases and (len(self.foreign) > 1 or len(self.own_parts) > 1):
            raise ValueError(f"'{self.own_parts[0]}' is a concatenation, which can have no aliases")
        fields = {pattern: _fields(pattern) for pattern in (*self.own_parts, *self.foreign, *self.aliases)}
        for pattern, fields_of_pattern in fields.items():
            if fields_of_pattern != fields[self.own_parts[0]]:
                raise ValueError(f"'{self.own_parts[0]}' and '{pattern}' must have the same fields")

    @property
    def own_parts(self) -> tuple[str, ...]:
        """Our names; several if other code packs them into one tensor."""
        return (self.own,) if isinstance(self.own, str) else self.own


@dataclass(frozen=True)
class Dropped:
    """Foreign tensors that detrkit's models do not need.

    Attributes:
        foreign: pattern of their names.
        reason: why they can be dropped.
    """

    foreign: str
    reason: str


def same(own: str, foreign: str) -> Rule:
    """A module with the same leaves under another name."""
    return Rule(own + ".{leaf}", (foreign + ".{leaf}",))


class _Assembly:
    """Assembles tensors from parts, which arrive in any order and possibly more than once."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._axes: dict[str, int] = {}
        self._parts: dict[str, dict[int, tuple[str, Tensor]]] = {}

    def add(self, name: str, part: int, size: int, source: str, values: Tensor, *, axis: int = 0) -> None:
        """Adds part number `part` of `size` along `axis` from the tensor `source`; a part that was added before must be equal."""
        self._sizes[name], self._axes[name] = size, axis
        first_source, first_values = self._parts.setdefault(name, {}).setdefault(part, (source, values))
        _check_equal(first_source, first_values, source, values)

    def joined(self) -> dict[str, Tensor]:
        """All tensors, complete."""
        return {name: self._join(name, parts) for name, parts in self._parts.items()}

    def _join(self, name: str, parts: Mapping[int, tuple[str, Tensor]]) -> Tensor:
        size = self._sizes[name]
        if len(parts) != size:
            raise CheckpointError(
                f"'{name}' is made of {size} tensors but only {len(parts)} were given: give all of them"
            )
        ordered = [parts[index][1] for index in range(size)]
        return ordered[0] if size == 1 else torch.cat(ordered, dim=self._axes[name])


class KeyMapping:
    """A table between our names and foreign ones.

    Args:
        rules: the rows of the table. The first rule that one of our names matches applies; a correct table has only one. A foreign name may
            match several rules: if other code shares a module where we have several, each of ours gets its values.
        dropped: foreign names that may occur but are not used.
    """

    def __init__(self, rules: Collection[Rule], dropped: Collection[Dropped] = ()) -> None:
        self.rules, self.dropped = tuple(rules), tuple(dropped)
        self._own = [(_pattern(name), rule, part) for rule in self.rules for part, name in enumerate(rule.own_parts)]
        self._foreign = [
            (_pattern(name), rule, part) for rule in self.rules for part, name in enumerate(rule.foreign + rule.aliases)
        ]
        self._dropped = [_pattern(entry.foreign) for entry in self.dropped]

    def to_foreign(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors under foreign names, including all aliases; part of a model is enough, but a packed tensor needs all its parts.

        Raises:
            CheckpointError: a name is not one of ours, a part is missing, or two of our tensors differ for which other code has one.
        """
        result = _Assembly()
        for name, tensor in tensors.items():
            rule, part, fields = self._find_own(name)
            if len(rule.own_parts) > 1:
                foreign_name = rule.foreign[0].format(**fields)
                result.add(foreign_name, part, len(rule.own_parts), name, tensor, axis=rule.axis)
                continue
            pieces = _split(name, tensor, len(rule.foreign), rule.axis)
            for pattern, piece in zip(rule.foreign, pieces, strict=True):
                result.add(pattern.format(**fields), 0, 1, name, piece)
            for pattern in rule.aliases:
                result.add(pattern.format(**fields), 0, 1, name, tensor)
        return result.joined()

    def from_foreign(
        self, tensors: Mapping[str, Tensor], own_names: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Foreign tensors under our names; part of a model is enough, but a concatenation needs all its parts.

        A tensor with aliases needs only one of its names.

        Args:
            tensors: by foreign name.
            own_names: all names in our model; None means every name that the table knows and that is not in `dropped`.

        Raises:
            CheckpointError: a name has no place in the model and is not in `dropped`, a part is missing, or aliases differ.
        """
        result = _Assembly()
        unknown = []
        for name, tensor in tensors.items():
            droppable = any(pattern.fullmatch(name) for pattern in self._dropped)
            known = False
            for rule, part, fields in self._find_foreign(name):
                our_names = [pattern.format(**fields) for pattern in rule.own_parts]
                wanted = not droppable if own_names is None else any(our_name in own_names for our_name in our_names)
                if wanted:
                    known = True
                    for our_name, piece in zip(our_names, _split(name, tensor, len(our_names), rule.axis), strict=True):
                        result.add(our_name, part, len(rule.foreign), name, piece, axis=rule.axis)
            if not known and not droppable:
                unknown.append(name)
        if unknown:
            raise CheckpointError(
                f"{len(unknown)} tensors have no place in this model ({_shortened(unknown)}): the weights are of another model"
            )
        return result.joined()

    def _find_foreign(self, name: str) -> Iterator[tuple[Rule, int, dict[str, str]]]:
        """The rules that a foreign name matches, which part of our tensor it is, and the values of the fields."""
        for pattern, rule, position in self._foreign:
            if match := pattern.fullmatch(name):
                part = position if position < len(rule.foreign) else 0  # an alias is the whole tensor
                yield rule, part, match.groupdict()

    def _find_own(self, name: str) -> tuple[Rule, int, dict[str, str]]:
        for pattern, rule, part in self._own:
            if match := pattern.fullmatch(name):
                return rule, part, match.groupdict()
        raise CheckpointError(f"'{name}' is not the name of a parameter that this table knows")


def _fields(pattern: str) -> set[str]:
    return {"".join(match.groups()) for match in _FIELD.finditer(pattern)}


def _pattern(name: str) -> re.Pattern[str]:
    """A regular expression for a name pattern; the second occurrence of a field must repeat the first."""
    text, end, seen = "", 0, set()
    for match in _FIELD.finditer(name):
        field, kind = "".join(match.groups()), match.group(1)
        if kind not in _FIELDS:
            raise ValueError(f"'{name}' has an unknown field '{field}': fields are {', '.join(_FIELDS)}")
        text += re.escape(name[end : match.start()])
        text += f"(?P={field})" if field in seen else f"(?P<{field}>{_FIELDS[kind]})"
        seen.add(field)
        end = match.end()
    return re.compile(text + re.escape(name[end:]))


def _split(name: str, tensor: Tensor, count: int, axis: int) -> tuple[Tensor, ...]:
    """Splits a tensor into equal parts."""
    if count == 1:
        return (tensor,)
    if tensor.dim() <= axis or tensor.shape[axis] % count:
        raise CheckpointError(
            f"'{name}' of shape {list(tensor.shape)} does not split into {count} equal parts: the weights are of another model"
        )
    return tensor.chunk(count, dim=axis)


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
