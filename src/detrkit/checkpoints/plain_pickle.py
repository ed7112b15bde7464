"""Reads pickles of dictionaries with NumPy arrays, as detectron2's model zoo holds them, without running anything that a pickle names."""

from __future__ import annotations

import codecs
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class _Array:
    """Stands in for an array that is being read: it becomes one of plain numbers, or an error."""

    values: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, type_, by_columns, content = state
        if not isinstance(content, bytes) or not isinstance(type_, NumPyType):
            raise pickle.UnpicklingError("an array holds no plain numbers")
        self.values = np.frombuffer(content, type_.type).reshape(shape, order="F" if by_columns else "C")


class NumPyType:
    """Stands in for a NumPy type in a pickle: it keeps what plain numbers need and ignores everything else."""

    def __init__(self, name: str, *_: object) -> None:
        self.type = np.dtype(name)
        if self.type.kind not in "biuf":
            raise pickle.UnpicklingError(f"GLOBAL numpy.dtype('{name}') is not the type of a plain number")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.type = self.type.newbyteorder(state[1])


def numpy_scalar(type_: NumPyType, content: bytes) -> bool | int | float:
    """Stands in for a NumPy scalar in a pickle: returns its value as a plain number."""
    (number,) = np.frombuffer(content, type_.type)
    return number.item()  # type: ignore[no-any-return]


def _array(*_: object) -> _Array:
    return _Array()


def _array_of_buffer(content: bytes, type_: NumPyType, shape: tuple[int, ...], order: str) -> _Array:
    """As protocol 5 writes arrays."""
    found = _Array()
    found.__setstate__((1, shape, type_, order == "F", bytes(content)))
    return found


def _encoded(text: str, encoding: str) -> bytes:
    """As older protocols write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are in the encoding '{encoding}'")
    return codecs.latin_1_encode(text)[0]


_KNOWN: dict[str, Callable[..., Any]] = {
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": numpy_scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _array_of_buffer for core in ("core", "_core")},
    "numpy.ndarray": _Array,
    "numpy.dtype": NumPyType,
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encoded,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of this name; nothing else is ever looked up."""
        known = _KNOWN.get(f"{module}.{name}")
        if known is None:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is no plain value")
        return known


def read_plain_pickle(path: Path) -> Any:
    """The content, with tensors in place of arrays.

    Raises:
        pickle.UnpicklingError: it holds other objects, which could run code when loaded; the message begins with GLOBAL.
        Exception: it is damaged.
    """
    with path.open("rb") as file:
        return _with_tensors(_Unpickler(file, encoding="latin1").load())


def _with_tensors(value: Any) -> Any:
    if isinstance(value, _Array):
        return _tensor(value.values)
    if isinstance(value, dict):
        return {key: _with_tensors(each) for key, each in value.items()}
    return value


def _tensor(values: np.ndarray) -> Tensor:
    native = values.astype(values.dtype.newbyteorder("="))  # a copy that can be written to
    return torch.from_numpy(native)
