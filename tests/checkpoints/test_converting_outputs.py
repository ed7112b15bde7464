"""Where converted weights are written: nothing that exists is lost, and nothing half written is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints.small_models import assert_same, small

import detrkit
from detrkit.checkpoints import convert_weights
from detrkit.errors import ConfigurationError, DetrkitError, OutputError


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detrkit.save(small("detr-r18"), tmp_path_factory.mktemp("source") / "own.safetensors")


class TestOutputs:
    def refusal(self, source: Path, output: Path, **options: Any) -> str:
        before = {each: each.stat().st_mtime_ns for each in output.parent.rglob("*")}
        with pytest.raises(DetrkitError) as caught:
            convert_weights(source, output, **options)
        assert {each: each.stat().st_mtime_ns for each in output.parent.rglob("*")} == before
        return str(caught.value)

    def test_an_ending_that_is_none(self, source: Path, tmp_path: Path) -> None:
        assert self.refusal(source, tmp_path / "model.onnx") == (
            f"{tmp_path / 'model.onnx'} has the ending of no form: end it in .safetensors (detrkit) or .pth (authors), or give a folder's name "
            "(Hugging Face)"
        )

    def test_an_ending_of_another_form(self, source: Path, tmp_path: Path) -> None:
        assert self.refusal(source, tmp_path / "model.pth", to="own") == (
            f"{tmp_path / 'model.pth'} must end in .safetensors, as files in the form 'own' do"
        )
        assert self.refusal(source, tmp_path / "model.pth", to="huggingface") == (
            f"{tmp_path / 'model.pth'} would be a folder in Hugging Face's form: leave .pth out of its name"
        )

    def test_a_backbone_without_hugging_face(self, source: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="timm_backbone is for Hugging Face's form only: leave it out"):
            convert_weights(source, tmp_path / "model.pth", timm_backbone=True)

    @pytest.mark.parametrize("name", ["model.pth", "copy.safetensors", "folder"])
    def test_an_output_that_exists(self, name: str, source: Path, tmp_path: Path) -> None:
        convert_weights(source, tmp_path / name)
        assert self.refusal(source, tmp_path / name) == (
            f"{tmp_path / name} exists: choose another path, or replace it with --force (force=True in Python)"
        )
        (tmp_path / name / "README.md" if name == "folder" else tmp_path / "README.md").write_text("mine")
        (tmp_path / name / "config.json" if name == "folder" else tmp_path / name).write_text('{"model_type": "old"}')
        convert_weights(source, tmp_path / name, force=True)
        assert_same(detrkit.load(tmp_path / name), detrkit.load(source))
        assert next(tmp_path.rglob("README.md")).read_text() == "mine"
        assert not list(tmp_path.rglob(".*"))

    def test_other_folders_are_never_replaced(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "1.jpg").touch()
        assert self.refusal(source, tmp_path / "photos", force=True) == (
            f"{tmp_path / 'photos'} holds other things than a Hugging Face model: choose another folder"
        )

    def test_the_folder_of_a_run_is_never_replaced(self, source: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        run.mkdir()
        (run / "config.json").write_text(json.dumps({"options": {"variant": "detr-r18"}}))
        assert self.refusal(source, run, force=True) == (
            f"{run} holds other things than a Hugging Face model: choose another folder"
        )

    def test_files_of_a_folder_are_replaced_all_or_not_at_all(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = convert_weights(source, tmp_path / "folder").path
        before = {each.name: each.read_bytes() for each in folder.iterdir()}
        replace, count = Path.replace, 0

        def fail_in_the_middle(self: Path, target: Path) -> Path:
            nonlocal count
            count += self.parent.name == ".folder-new" and target.parent == folder
            if count == 2:
                count += 1
                raise OSError(5, "Input/output error")
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", fail_in_the_middle)
        with pytest.raises(OutputError, match="Input/output error"):
            convert_weights(source, folder, force=True)
        assert count == 3
        assert {each.name: each.read_bytes() for each in folder.iterdir()} == before

    def test_what_is_read_is_not_replaced(self, source: Path, tmp_path: Path) -> None:
        folder = convert_weights(source, tmp_path / "folder").path
        for given in (folder, folder / "model.safetensors"):
            assert (
                self.refusal(given, folder, force=True) == f"{folder} would replace what is read: choose another path"
            )

    @pytest.mark.parametrize("name", ["model.pth", "copy.safetensors", "folder"])
    @pytest.mark.parametrize("there", [False, True], ids=["new", "replaced"])
    def test_nothing_half_written_is_left(
        self, name: str, there: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if there:
            convert_weights(source, tmp_path / name)
        before = {each: each.stat().st_mtime_ns for each in tmp_path.rglob("*") if each.is_file()}

        def fail(content: Any, path: Any, *rest: Any) -> None:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")

        def fail_as_pytorch_does(content: Any, path: Any) -> None:
            Path(path).write_bytes(b"half")
            raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

        monkeypatch.setattr("torch.save", fail_as_pytorch_does)
        monkeypatch.setattr("detrkit.checkpoints.own_format.save_file", fail)
        with pytest.raises(OutputError, match=r"No space left on device|not enough room"):
            convert_weights(source, tmp_path / name, force=there)
        assert {each: each.stat().st_mtime_ns for each in tmp_path.rglob("*") if each.is_file()} == before
        assert there or not list(tmp_path.iterdir())
