"""YAML as people write it into data sets, read without guesses about what texts mean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from detrkit.errors import DataError


def parse_yaml(text: str, file: Path, *, first_line: int = 1) -> Any:
    """The content of a YAML text with all scalars as text: the class names `no`, `on` and `1e3` stay what they are.

    Args:
        text: to be parsed.
        file: it comes from, for messages.
        first_line: the number of its first line in that file.

    Raises:
        DataError: a key is in a mapping twice; YAML would keep the last one only.
        yaml.YAMLError: it cannot be parsed.
    """
    loader = yaml.BaseLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        repeated = list(_repeated_keys(node, set()))
        if repeated:
            key, line = repeated[0]
            more = f" ({len(repeated)} keys are there again.)" if len(repeated) > 1 else ""
            raise DataError(f"{file}, line {first_line + line} has the key '{key}' again: remove one of the two.{more}")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _repeated_keys(node: yaml.Node, visited: set[int]) -> Iterator[tuple[str, int]]:
    """The keys that a mapping has already, and their lines, counted from 0."""
    if id(node) in visited:  # an alias, perhaps of a node around it
        return
    visited.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    yield key.value, key.start_mark.line
                seen.add(key.value)
            yield from _repeated_keys(value, visited)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _repeated_keys(value, visited)
