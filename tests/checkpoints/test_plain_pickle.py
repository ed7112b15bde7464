"""Pickles with NumPy arrays are read without running anything that they name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detrkit.checkpoints.reading import read_weights
from detrkit.errors import CheckpointError


class Harmful:
    """Would write a file when it is loaded as usual."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return open, (str(self.file), "w")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_become_tensors(tmp_path: Path, protocol: int) -> None:
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = {
        "rows": numbers,
        "columns": np.asfortranarray(numbers),
        "far": numbers.astype(">f8"),
        "count": np.int64(3),
    }
    content = {"model": arrays | {"empty": np.zeros((), np.int64)}, "iteration": 7, "rate": np.float64(0.5)}
    file = tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_weights(file).tensors
    assert set(found) == {"rows", "columns", "far", "empty"}
    for name in ("rows", "columns", "far"):
        assert found[name].tolist() == numbers.tolist()
    assert (found["rows"].dtype, found["far"].dtype, found["empty"].shape) == (torch.float32, torch.float64, ())


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in an array"])
def test_nothing_that_a_pickle_names_is_run(tmp_path: Path, inside: bool) -> None:
    harmful = Harmful(tmp_path / "written")
    file = tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps({"model": {"weight": np.array([harmful], dtype=object) if inside else harmful}}))
    with pytest.raises(CheckpointError) as caught:
        read_weights(file)
    assert "holds Python objects besides tensors, which could run code when loaded" in str(caught.value)
    assert not (tmp_path / "written").exists()


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps({"model": {"weight": np.zeros(100)}})[:200])
    with pytest.raises(CheckpointError, match="is damaged or not a weight file"):
        read_weights(file)
