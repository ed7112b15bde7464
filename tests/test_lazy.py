"""Names that are imported when they are first used."""

from __future__ import annotations

import ast
import importlib
import inspect

import pytest

import detrkit.data

PACKAGES = [
    "detrkit.checkpoints",
    "detrkit.comparison",
    "detrkit.data",
    "detrkit.evaluation",
    "detrkit.prediction",
    "detrkit.studies",
    "detrkit.training",
]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_name_is_there_and_is_what_type_checkers_see(name: str) -> None:
    package = importlib.import_module(name)
    assert dir(package) == sorted(package.__all__)
    seen = {}
    for node in ast.walk(ast.parse(inspect.getsource(package))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"{name}."):
            seen |= {alias.name: node.module for alias in node.names}
    assert sorted(seen) == sorted(package.__all__)
    for each, module in seen.items():
        assert getattr(package, each) is getattr(importlib.import_module(str(module)), each)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match=r"module 'detrkit\.data' has no attribute 'open_dataste'"):
        _ = detrkit.data.open_dataste  # type: ignore[attr-defined]
