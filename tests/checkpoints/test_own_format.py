"""detrkit's own file restores the same model bit for bit, and holds all that is needed to build it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from detrkit.cards import Category, Preprocessing
from detrkit.checkpoints import load, own_format, save
from detrkit.checkpoints.own_format import store_thresholds
from detrkit.errors import CheckpointError, OutputError
from detrkit.models import detr
from detrkit.models.catalog import build, build_from_config
from detrkit.models.detector import Detector
from detrkit.structures import ImageBatch

SMALL = {"width": 64, "hidden": 64, "attention_heads": 4, "encoder_layers": 1, "decoder_layers": 2, "queries": 5}
CATEGORIES = [Category(90, "toothbrush", 0), Category(3, "é × car", 1)]


def small_model(variant: str = "detr-compact", dtype: torch.dtype = torch.float32) -> Detector:
    """A model with random values, each in its own precision, and with its own card."""
    model = build(variant, classes=CATEGORIES, preprocessing=Preprocessing(128, 200), **SMALL, l1_weight=3.5).to(dtype)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, dtype=torch.float64))
    model.card = dataclasses.replace(
        model.card, threshold=0.37, class_thresholds={1: 0.2}, metrics={"AP": 0.123, "AP50": 0.5}
    )
    return model


def header_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["detrkit"])


def write_with_header(model: Detector, path: Path, header: object) -> Path:
    """A file like ours, with another header."""
    text = header if isinstance(header, str) else json.dumps(header)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path, {"detrkit": text})
    return path


def assert_same(first: nn.Module, second: nn.Module) -> None:
    one, other = first.state_dict(), second.state_dict()
    assert list(one) == list(other)
    for name, tensor in one.items():
        assert other[name].dtype == tensor.dtype, name
        assert torch.equal(other[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_bit_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    model = small_model(dtype=dtype)
    assert save(model, tmp_path / "model.safetensors") == tmp_path / "model.safetensors"
    assert_same(model, load(tmp_path / "model.safetensors"))


def test_every_bit_comes_back_where_precisions_are_mixed(tmp_path: Path) -> None:
    model = small_model(dtype=torch.float16)
    model.heads.float()
    save(model, tmp_path / "model.safetensors")
    assert_same(model, load(tmp_path / "model.safetensors"))


def test_frozen_norms_and_layout_come_back(tmp_path: Path) -> None:
    model = small_model("detr-mobilenetv2")
    assert not model.backbone.blocks[0][0].weight.is_contiguous()  # it is channels-last
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert_same(model, again)
    for name, parameter in again.backbone.named_parameters():
        assert parameter.is_contiguous(memory_format=torch.channels_last), name
        assert parameter.requires_grad == dict(model.backbone.named_parameters())[name].requires_grad, name


def test_a_loaded_model_predicts_what_the_saved_one_did(tmp_path: Path) -> None:
    model = build("detr-compact", classes=CATEGORIES, **SMALL)
    model(ImageBatch(torch.randn(4, 3, 64, 64)))  # so that the norms have seen something
    save(model, tmp_path / "model.safetensors")
    assert model.training
    again = load(tmp_path / "model.safetensors")
    assert not again.training
    batch = ImageBatch(torch.randn(2, 3, 64, 64))
    wanted, found = model.eval()(batch), again(batch)
    torch.testing.assert_close(found.logits, wanted.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.boxes_cxcywh, wanted.boxes_cxcywh, atol=1e-5, rtol=1e-5)


def test_the_card_comes_back(tmp_path: Path) -> None:
    model = small_model()
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again.card == model.card
    assert again.card.preprocessing == Preprocessing(128, 200)
    assert again.card.categories == (Category(90, "toothbrush", 0), Category(3, "é × car", 1))
    assert (again.card.threshold, again.card.metrics) == (0.37, {"AP": 0.123, "AP50": 0.5})
    assert again.card.class_thresholds == {1: 0.2}
    save(again, tmp_path / "again.safetensors")
    assert header_of(tmp_path / "again.safetensors") == header_of(tmp_path / "model.safetensors")


def test_tuples_among_the_settings_stay_tuples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass(frozen=True)
    class Config(detr.Config):
        stages: tuple[int, ...] = (1,)
        pairs: tuple[tuple[str, int], ...] = ()

    monkeypatch.setattr(detr, "Config", Config)
    config = Config(**{**small_model().card.config, "stages": (3, 4), "pairs": (("a", 1), ("b", 2))})
    model = build_from_config("detr", "detr-compact", config, categories=CATEGORIES, preprocessing=Preprocessing())
    again = load(save(model, tmp_path / "model.safetensors"))
    assert (again.card.config["stages"], again.card.config["pairs"]) == ((3, 4), (("a", 1), ("b", 2)))
    assert again.card == model.card


def test_the_header_can_be_read_by_anyone(tmp_path: Path) -> None:
    save(small_model(), tmp_path / "model.safetensors")
    header = header_of(tmp_path / "model.safetensors")
    assert (header["format"], header["family"], header["variant"]) == (2, "detr", "detr-compact")
    assert header["config"]["queries"] == 5
    assert header["config"]["l1_weight"] == 3.5
    assert header["categories"][1] == {"id": 3, "name": "é × car", "index": 1, "thing": True}
    assert header["preprocessing"]["short_side"] == 128
    assert header["threshold"] == 0.37
    assert header["metrics"] == {"AP": 0.123, "AP50": 0.5}


def test_the_tensors_have_our_names(tmp_path: Path) -> None:
    model = small_model()
    save(model, tmp_path / "model.safetensors")
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())


def test_saving_twice_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    first, second = small_model(), small_model()
    save(first, tmp_path / "model.safetensors")
    save(second, tmp_path / "model.safetensors")
    assert_same(second, load(tmp_path / "model.safetensors"))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_saving_does_not_touch_the_model(tmp_path: Path) -> None:
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save(model, tmp_path / "model.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


class TestWhatIsRefused:
    @pytest.mark.parametrize("name", ["model.pth", "model", "model.safetensors.tmp"])
    def test_another_ending(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        with pytest.raises(CheckpointError) as caught:
            save(small_model(), path)
        assert str(caught.value) == f"{path} must end in .safetensors: that is the only format detrkit writes"
        assert list(tmp_path.iterdir()) == []

    def test_a_place_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "runs").write_text("a file")
        with pytest.raises(OutputError, match="cannot be written"):
            save(small_model(), tmp_path / "runs" / "model.safetensors")

    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = small_model()
        path = save(model, tmp_path / "model.safetensors")

        def full(tensors: object, temporary: Path, header: object) -> None:
            temporary.write_bytes(b"half")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

        monkeypatch.setattr(own_format, "save_file", full)
        with pytest.raises(OutputError) as caught:
            save(small_model(), path)
        assert str(path) in str(caught.value)
        assert "No space left on device" in str(caught.value)
        assert_same(model, load(path))
        assert list(tmp_path.iterdir()) == [path]

    def test_a_file_of_another_format(self, tmp_path: Path) -> None:
        model = small_model()
        save(model, tmp_path / "model.safetensors")
        header = {**header_of(tmp_path / "model.safetensors"), "format": 3}
        path = write_with_header(model, tmp_path / "newer.safetensors", header)
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert str(caught.value) == f"{path} has format 3, this detrkit reads format 2: install a newer detrkit"

    def test_a_file_with_names_from_before_they_changed(self, tmp_path: Path) -> None:
        model = small_model()
        save(model, tmp_path / "model.safetensors")
        header = {**header_of(tmp_path / "model.safetensors"), "format": 1}
        header["config"]["heads"] = header["config"].pop("attention_heads")
        path = write_with_header(model, tmp_path / "older.safetensors", header)
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert str(caught.value) == (
            f"{path} was written by an older detrkit, whose names of parameters and settings have changed since: "
            "train again, or load the authors' file again"
        )

    def test_an_unknown_family(self, tmp_path: Path) -> None:
        model = small_model()
        save(model, tmp_path / "model.safetensors")
        header = {**header_of(tmp_path / "model.safetensors"), "family": "quantum"}
        path = write_with_header(model, tmp_path / "newer.safetensors", header)
        with pytest.raises(
            CheckpointError, match="holds a model of the family 'quantum', which this detrkit does not know"
        ):
            load(path)

    def test_a_setting_that_this_version_does_not_know(self, tmp_path: Path) -> None:
        model = small_model()
        save(model, tmp_path / "model.safetensors")
        header = header_of(tmp_path / "model.safetensors")
        header["config"]["denoising_groups"] = 5
        path = write_with_header(model, tmp_path / "newer.safetensors", header)
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert str(path) in str(caught.value)
        assert "denoising_groups" in str(caught.value)

    def test_a_backbone_that_this_version_does_not_know(self, tmp_path: Path) -> None:
        model = small_model()
        save(model, tmp_path / "model.safetensors")
        header = header_of(tmp_path / "model.safetensors")
        header["config"]["backbone"] = "resnet52"
        path = write_with_header(model, tmp_path / "newer.safetensors", header)
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert str(caught.value) == (
            f"{path} has settings that this detrkit cannot use (there is no backbone 'resnet52': did you mean 'resnet50'?): "
            "install a newer detrkit"
        )

    def test_a_setting_that_an_older_version_did_not_know(self, tmp_path: Path) -> None:
        """It gets the default of the family's configuration, whatever the variant says now."""
        model = small_model("deformable-detr-compact")
        save(model, tmp_path / "model.safetensors")
        header = header_of(tmp_path / "model.safetensors")
        for name in ("refine", "two_stage"):
            del header["config"][name]
        header["variant"] = "deformable-detr-compact-two-stage"  # which has them on
        again = load(write_with_header(model, tmp_path / "older.safetensors", header))
        assert_same(again, model)
        assert again.decoder.refine is False

    @pytest.mark.parametrize(
        "header", ["{", "[]", {"format": 2}], ids=["not JSON", "no mapping", "without its entries"]
    )
    def test_a_header_that_is_not_ours(self, tmp_path: Path, header: object) -> None:
        path = write_with_header(small_model(), tmp_path / "model.safetensors", header)
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert str(path) in str(caught.value)

    def test_tensors_of_another_model(self, tmp_path: Path) -> None:
        model = small_model()
        save(model, tmp_path / "model.safetensors")
        header = header_of(tmp_path / "model.safetensors")
        header["config"]["queries"] = 6
        path = write_with_header(model, tmp_path / "other.safetensors", header)
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert str(caught.value) == (f"{path} does not hold the tensors that its own header describes: write it again")

    def test_a_file_cut_short(self, tmp_path: Path) -> None:
        path = save(small_model(), tmp_path / "model.safetensors")
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(CheckpointError, match="is not a complete safetensors file"):
            load(path)

    def test_another_variant_than_was_asked_for(self, tmp_path: Path) -> None:
        path = save(small_model(), tmp_path / "model.safetensors")
        assert load(path, variant="detr-compact").card.variant == "detr-compact"
        with pytest.raises(CheckpointError) as caught:
            load(path, variant="detr-r18")
        assert str(caught.value) == f"{path} holds a detr-compact, not a detr-r18: leave `variant` out"


def test_stored_thresholds_change_nothing_else(tmp_path: Path) -> None:
    model = small_model(dtype=torch.bfloat16)
    path = save(model, tmp_path / "model.safetensors")
    before = header_of(path)
    assert store_thresholds(path, 0.25, {0: 0.125, 1: 0.75}) == path
    assert header_of(path) == before | {"threshold": 0.25, "class_thresholds": {"0": 0.125, "1": 0.75}}
    again = load(path)
    assert_same(model, again)
    assert (again.card.threshold, again.card.class_thresholds) == (0.25, {0: 0.125, 1: 0.75})
    store_thresholds(path, 0.5, {}, 0.7)
    assert header_of(path) == before | {"threshold": 0.5, "class_thresholds": {}, "nms": 0.7}
    assert load(path).card.nms == 0.7
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_other_metadata_and_links_stay(tmp_path: Path) -> None:
    path = save(small_model(), tmp_path / "model.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | {"note": "mine"}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata)
    link = tmp_path / "link.safetensors"
    link.symlink_to(path)
    store_thresholds(link, 0.25, {})
    assert link.is_symlink()
    assert load(path).card.threshold == 0.25
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["note"] == "mine"


def test_thresholds_that_cannot_be_written_leave_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(small_model(), tmp_path / "model.safetensors")
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("detrkit.checkpoints.own_format.save_file", full_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        store_thresholds(path, 0.25, {})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_thresholds_go_into_no_other_file(tmp_path: Path) -> None:
    model = small_model()
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "bare.safetensors")
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    for name in ("bare.safetensors", "model.pth"):
        with pytest.raises(CheckpointError) as caught:
            store_thresholds(tmp_path / name, 0.25, {})
        assert str(caught.value) == (
            f"{tmp_path / name} is not a checkpoint of detrkit, so thresholds cannot be stored in it: load it and write it with detrkit.save first"
        )
    newer = write_with_header(model, tmp_path / "newer.safetensors", {"format": 99})
    with pytest.raises(CheckpointError, match="has format 99"):
        store_thresholds(newer, 0.25, {})
