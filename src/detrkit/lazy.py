"""Names of a package that are imported when they are first used, so that nobody waits for what a command does not need."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detrkit.notebooks import import_tqdm_quietly


def lazy_names(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__`.

    Type checkers read the imports below `if TYPE_CHECKING` instead; a test compares the two with `__all__`.

    Args:
        package: its `__name__`.
        homes: the modules of the package, each with the names that it defines; the name of the module itself stands for the module.

    Returns:
        `__getattr__`, which imports the module of a name, and `__dir__`, which lists these names and no others.
    """
    home_of = {name: module for module, names in homes.items() for name in names}

    def get(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        import_tqdm_quietly()
        module = importlib.import_module(f"{package}.{home_of[name]}")
        return module if name == home_of[name] else getattr(module, name)

    def names() -> list[str]:
        return sorted(home_of)

    return get, names
