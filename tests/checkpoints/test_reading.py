"""Weight files of every layout are read, errors name what is wrong, and code in a file never runs."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from detrkit.checkpoints.reading import read_weights
from detrkit.errors import CheckpointError

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.0, 2.0], dtype=torch.float16)}
PICKLED_CODE = (
    "{path} holds Python objects besides tensors, which could run code when loaded: keep the weights alone in it, "
    "with torch.save({{'model': model.state_dict()}}, file)"
)
DAMAGED = "{path} is damaged or not a weight file: copy or download it again"


class Calls:
    """Pickles as a call: unpickling it runs `function(*arguments)`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def complaint(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_weights(path)
    return str(caught.value)


def assert_weights(path: Path) -> None:
    found = read_weights(path).tensors
    assert set(found) == set(WEIGHTS)
    for name, tensor in WEIGHTS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


class TestLayouts:
    @pytest.mark.parametrize("ending", [".pth", ".pt", ".bin", ""])
    @pytest.mark.parametrize("entry", [None, "model", "state_dict", "model_state_dict"])
    def test_weights_alone_or_in_an_entry(self, tmp_path: Path, entry: str | None, ending: str) -> None:
        path = tmp_path / f"weights{ending}"
        torch.save(WEIGHTS if entry is None else {entry: WEIGHTS, "epoch": 3}, path)
        assert_weights(path)

    def test_the_format_before_zip_archives(self, tmp_path: Path) -> None:
        torch.save({"model": WEIGHTS}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
        assert_weights(tmp_path / "old.pth")

    @pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "weights"])
    def test_safetensors_whatever_its_name(self, tmp_path: Path, name: str) -> None:
        save_file(WEIGHTS, tmp_path / name, {"writer": "someone"})
        assert_weights(tmp_path / name)
        assert read_weights(tmp_path / name).metadata == {"writer": "someone"}

    def test_text_may_name_the_file(self, tmp_path: Path) -> None:
        torch.save(WEIGHTS, tmp_path / "weights.pth")
        assert read_weights(str(tmp_path / "weights.pth")).path == tmp_path / "weights.pth"

    def test_what_else_lies_beside_weights_is_left_out(self, tmp_path: Path) -> None:
        torch.save({**WEIGHTS, "epoch": 3, "names": ["a"]}, tmp_path / "weights.pth")
        assert_weights(tmp_path / "weights.pth")

    def test_the_checksum_is_of_the_whole_file(self, tmp_path: Path) -> None:
        torch.save(WEIGHTS, tmp_path / "weights.pth")
        wanted = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
        assert read_weights(tmp_path / "weights.pth").sha256() == wanted


class TestRunningAverages:
    """Where a file holds weights and their running average, the average is what its authors evaluated."""

    LATEST: ClassVar = {name: tensor + 1 for name, tensor in WEIGHTS.items()}

    @pytest.mark.parametrize(
        "average",
        [
            {"ema": {"module": WEIGHTS, "updates": 7}},
            {"ema_model": WEIGHTS},
            {"ema_model": {f"module.{name}": tensor for name, tensor in WEIGHTS.items()}},
            {"ema_model": {f"module.module.{name}": tensor for name, tensor in WEIGHTS.items()}},
        ],
        ids=["RT-DETR's and D-FINE's", "DINO's", "within a module", "within two"],
    )
    def test_win_over_the_latest_weights(self, tmp_path: Path, average: dict[str, Any]) -> None:
        torch.save({"model": self.LATEST, **average, "args": argparse.Namespace(a=1)}, tmp_path / "run.pth")
        assert_weights(tmp_path / "run.pth")
        torch.save(average, tmp_path / "run.pth")
        assert_weights(tmp_path / "run.pth")

    @pytest.mark.parametrize(
        "average",
        [{"ema": None}, {"ema": {}}, {"ema": {"module": {}}}, {"ema": {"decay": 0.9}}, {"ema_model": None}],
        ids=str,
    )
    def test_that_are_empty_do_not(self, tmp_path: Path, average: dict[str, Any]) -> None:
        torch.save({"model": WEIGHTS, **average}, tmp_path / "run.pth")
        assert_weights(tmp_path / "run.pth")


class TestOptionsBesideWeights:
    @pytest.mark.parametrize("options", [argparse.Namespace(dilation=True, nheads=8), {"dilation": True, "nheads": 8}])
    def test_in_the_file(self, tmp_path: Path, options: object) -> None:
        torch.save({"model": WEIGHTS, "args": options, "optimizer": {"state": {}}, "epoch": 7}, tmp_path / "run.pth")
        assert_weights(tmp_path / "run.pth")
        assert read_weights(tmp_path / "run.pth").arguments == {"dilation": True, "nheads": 8}

    @pytest.mark.parametrize("archive", [True, False], ids=["archive", "old"])
    def test_as_paths_and_numpys_numbers(self, tmp_path: Path, archive: bool) -> None:
        options = argparse.Namespace(
            folder=PurePosixPath("runs/a"),
            windows=PureWindowsPath("C:/runs"),
            here=Path("b"),
            lr=np.float64(1e-4),
            queries=np.int64(300),
            big=np.array(7, dtype=">i4")[()],
            half=np.float16(0.5),
            dilation=np.bool_(True),
        )
        content = {"model": WEIGHTS, "args": options, "best": {"AP": np.float32(0.25)}}
        torch.save(content, tmp_path / "run.pth", _use_new_zipfile_serialization=archive)
        assert_weights(tmp_path / "run.pth")
        found = read_weights(tmp_path / "run.pth").arguments
        assert found == {
            "folder": PurePosixPath("runs/a"),
            "windows": PureWindowsPath("C:/runs"),
            "here": PurePath("b"),
            "lr": 1e-4,
            "queries": 300,
            "big": 7,
            "half": 0.5,
            "dilation": True,
        }
        assert type(found["lr"]) is float
        assert found["dilation"] is True
        assert not hasattr(found["folder"], "touch")  # only a name, which cannot access files

    @pytest.mark.parametrize("name", ["pathlib.PosixPath", "pathlib._local.PosixPath", "pathlib.WindowsPath"])
    def test_as_paths_of_other_systems_and_releases(self, tmp_path: Path, name: str) -> None:
        module, _, kind = name.rpartition(".")
        other = type(kind, (), {"__module__": module, "__reduce__": lambda self: (type(self), ("a", "b"))})
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, module, types.SimpleNamespace(**{kind: other}))
            torch.save({"model": WEIGHTS, "args": {"folder": other()}}, tmp_path / "run.pth")
        folder = read_weights(tmp_path / "run.pth").arguments["folder"]
        assert folder == (PureWindowsPath if kind == "WindowsPath" else PurePosixPath)("a/b")

    @pytest.mark.parametrize("value", [np.datetime64("2020-01-01"), np.zeros(3), np.dtype("O")], ids=str)
    def test_as_other_things_of_numpy_are_refused(self, tmp_path: Path, value: object) -> None:
        torch.save({"model": WEIGHTS, "args": {"value": value}}, tmp_path / "run.pth")
        assert complaint(tmp_path / "run.pth") == PICKLED_CODE.format(path=tmp_path / "run.pth")

    @pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
    def test_in_a_file_of_settings(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"dilation": False, "id2label": {"0": "cat"}}))
        if name.endswith("bin"):
            torch.save(WEIGHTS, tmp_path / name)
        else:
            save_file(WEIGHTS, tmp_path / name)
        assert read_weights(tmp_path / name).arguments == {"dilation": False, "id2label": {"0": "cat"}}

    def test_those_in_the_file_count_first(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"dilation": False}))
        torch.save({"model": WEIGHTS, "args": argparse.Namespace(dilation=True)}, tmp_path / "run.pth")
        assert read_weights(tmp_path / "run.pth").arguments == {"dilation": True}

    @pytest.mark.parametrize("text", ['{"dilation": tr', "\udcff"])
    def test_settings_cut_in_half(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
        save_file(WEIGHTS, tmp_path / "model.safetensors")
        found = complaint(tmp_path / "model.safetensors")
        assert found.startswith(f"{tmp_path / 'config.json'} is not complete JSON (")
        assert found.endswith("copy or download it again")

    def test_settings_that_are_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("[1, 2]")
        save_file(WEIGHTS, tmp_path / "model.safetensors")
        assert read_weights(tmp_path / "model.safetensors").arguments == {}


def harmful(marker: Path) -> dict[str, Calls]:
    """Calls with which a pickle could create `marker`."""
    return {
        "open": Calls(open, str(marker), "w"),
        "os.system": Calls(os.system, f"{sys.executable} -c \"open(r'{marker}', 'w')\""),
        "subprocess": Calls(subprocess.call, [sys.executable, "-c", f"open(r'{marker}', 'w')"]),
        "pathlib": Calls(Path.touch, marker),
        "exec": Calls(exec, f"open(r'{marker}', 'w')"),
    }


class TestPickledCode:
    @pytest.mark.parametrize("means", list(harmful(Path("marker"))))
    @pytest.mark.parametrize("layout", ["archive", "old", "bare"])
    def test_is_refused_with_a_sentence_and_does_not_run(self, tmp_path: Path, means: str, layout: str) -> None:
        marker, path = tmp_path / "it-ran", tmp_path / "weights.pth"
        content = {"model": WEIGHTS, "extra": harmful(marker)[means]}
        if layout == "bare":
            path.write_bytes(pickle.dumps(content["extra"], protocol=2))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=layout == "archive")
        assert complaint(path) == PICKLED_CODE.format(path=path)
        assert not marker.exists()

    def test_the_same_file_does_run_elsewhere(self, tmp_path: Path) -> None:
        """So that the test above cannot pass because of a file that does nothing."""
        for means, call in harmful(tmp_path / "it-ran").items():
            pickle.loads(pickle.dumps(call))
            assert (tmp_path / "it-ran").exists(), means
            (tmp_path / "it-ran").unlink()

    def test_a_whole_module_is_refused_too(self, tmp_path: Path) -> None:
        path = tmp_path / "module.pth"
        torch.save(torch.nn.Linear(2, 3), path)
        assert complaint(path) == PICKLED_CODE.format(path=path)

    def test_namespaces_are_allowed_for_this_file_only(self, tmp_path: Path) -> None:
        path = tmp_path / "run.pth"
        torch.save({"model": WEIGHTS, "args": argparse.Namespace(a=1)}, path)
        read_weights(path)
        with pytest.raises(pickle.UnpicklingError):
            torch.load(path, weights_only=True)


class TestFilesThatAreNoWeights:
    def test_a_missing_file(self, tmp_path: Path) -> None:
        path = tmp_path / "none.pth"
        assert complaint(path) == f"there is no weight file {path}: check the path"
        assert complaint(tmp_path) == (
            f"{tmp_path} is a folder without best.safetensors, last.safetensors, model.safetensors or pytorch_model.bin: give a weight file"
        )

    @pytest.mark.parametrize("content", ["", "hello", "version 1\n", "<xml>\n", "." * 99, "q"])
    def test_a_text_file(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "weights.pth"
        path.write_text(content)
        assert complaint(path) == DAMAGED.format(path=path)

    def test_whatever_it_begins_with(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        for first in map(chr, range(32, 127)):  # many letters are instructions in a pickle
            path.write_text(first + "and then some text that is no pickle")
            assert complaint(path) == DAMAGED.format(path=path), first

    @pytest.mark.parametrize("archive", [True, False], ids=["archive", "old"])
    def test_a_file_cut_short_anywhere(self, tmp_path: Path, archive: bool) -> None:
        buffer, path = io.BytesIO(), tmp_path / "weights.pth"
        torch.save({"model": WEIGHTS}, buffer, _use_new_zipfile_serialization=archive)
        content = buffer.getvalue()
        for length in range(0, len(content), 11 if archive else 1):
            path.write_bytes(content[:length])
            found = complaint(path)
            # In the old format the file may be cut within a type's name, which then becomes an unknown name.
            assert found == DAMAGED.format(path=path) or (found == PICKLED_CODE.format(path=path) and not archive), (
                length
            )

    def test_safetensors_cut_short_anywhere(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.safetensors"
        save_file(WEIGHTS, path)
        content = path.read_bytes()
        for length in range(len(content)):
            path.write_bytes(content[:length])
            found = complaint(path)
            assert found.startswith(f"{path} is not a complete safetensors file (")
            assert found.endswith("copy or download it again")

    @pytest.mark.parametrize(
        "content", [{}, [torch.ones(1)], torch.ones(1), {"model": {}}, {"model": "r50"}, 3], ids=repr
    )
    def test_nothing_in_it(self, tmp_path: Path, content: object) -> None:
        path = tmp_path / "weights.pth"
        torch.save(content, path)
        assert complaint(path) == (
            f"{path} holds no weights: expected tensors by name, alone or under 'model' or 'state_dict'"
        )
