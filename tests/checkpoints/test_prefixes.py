"""Files whose names have prefixes, weights that were saved without anything beside them, and what is no file at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import detrkit
from detrkit.backbones import build_backbone
from detrkit.checkpoints import load_backbone_weights, to_official
from detrkit.checkpoints.detr import HUGGING_FACE
from detrkit.errors import CheckpointError
from detrkit.models.catalog import build
from detrkit.models.detector import Detector
from detrkit.structures import ImageBatch

SMALL = {"width": 64, "hidden": 64, "encoder_layers": 1, "decoder_layers": 2, "queries": 5}
PREFIXES = (
    "model.",
    "_orig_mod.",
    "module.",
    "detr.",
    "net.",
    "module._orig_mod.",
    "model.detr._orig_mod.",
    "state.a.b.",
)
BATCH = ImageBatch(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))


def small_model(variant: str = "detr-r18-c4", **changes: Any) -> Detector:
    return build(variant, classes=["cat", "dog"], **SMALL | changes).eval()


def complaint(path: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        detrkit.load(path, **options)
    return str(caught.value)


def assert_same(found: Detector, wanted: Detector) -> None:
    assert torch.equal(found(BATCH).logits, wanted(BATCH).logits)
    assert torch.equal(found(BATCH).boxes_cxcywh, wanted(BATCH).boxes_cxcywh)


def contents(model: Detector, code: str) -> dict[str, Tensor]:
    """A model's tensors by the names of its authors, of Hugging Face, or by ours."""
    if code == "ours":
        return dict(model.state_dict())
    if code == "authors":
        return to_official(model.state_dict(), model)
    return {name: tensor.contiguous() for name, tensor in HUGGING_FACE.to_foreign(model.state_dict()).items()}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("code", ["authors", "Hugging Face", "ours"])
def test_one_common_prefix_is_taken_off(tmp_path: Path, code: str, prefix: str) -> None:
    model = small_model()
    tensors = {prefix + name: tensor for name, tensor in contents(model, code).items()}
    torch.save({"state_dict": tensors}, tmp_path / "file.pth")
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, tmp_path / "file.safetensors")
    for name in ("file.pth", "file.safetensors"):
        found = detrkit.load(tmp_path / name, variant="detr-r18-c4", classes=["cat", "dog"])
        assert_same(found, model)


def test_a_compiled_part_in_an_authors_file(tmp_path: Path) -> None:
    model = small_model()
    tensors = {
        name.replace("transformer.", "transformer._orig_mod."): value
        for name, value in contents(model, "authors").items()
    }
    torch.save(tensors, tmp_path / "file.pth")
    assert_same(detrkit.load(tmp_path / "file.pth"), model)


def test_a_loss_beside_the_model_does_not_hide_it(tmp_path: Path) -> None:
    """DETR's loss keeps the weights of classes, which training modules of users save with the model."""
    model = small_model()
    tensors = {f"model.{name}": tensor for name, tensor in contents(model, "authors").items()}
    torch.save({"state_dict": {**tensors, "criterion.empty_weight": torch.ones(3)}}, tmp_path / "file.ckpt")
    assert_same(detrkit.load(tmp_path / "file.ckpt"), model)


def test_what_common_begins_only_some_names_stays(tmp_path: Path) -> None:
    tensors = {f"student.{name}": tensor for name, tensor in contents(small_model(), "authors").items()}
    torch.save({**tensors, "teacher.weight": torch.ones(1)}, tmp_path / "file.pth")
    assert "holds none of the models that detrkit knows" in complaint(tmp_path / "file.pth")


class TestBareWeights:
    @pytest.mark.parametrize(
        "variant", ["detr-compact", "deformable-detr-compact", "light-detr-compact", "dab-detr-compact"]
    )
    def test_are_loaded_as_the_variant_that_is_given(self, tmp_path: Path, variant: str) -> None:
        model = build(variant, classes=["cat", "dog"]).eval()
        torch.save(model.state_dict(), tmp_path / "weights.pth")
        found = detrkit.load(tmp_path / "weights.pth", variant=variant, classes=["cat", "dog"])
        assert_same(found, model)
        assert found.card == model.card
        numbered = detrkit.load(tmp_path / "weights.pth", variant=variant)
        assert [category.name for category in numbered.card.categories] == ["class 0", "class 1"]

    def test_settings_that_shapes_show_are_read(self, tmp_path: Path) -> None:
        model = small_model("detr-compact", queries=9, decoder_layers=3)
        torch.save(model.state_dict(), tmp_path / "weights.pth")
        found = detrkit.load(tmp_path / "weights.pth", variant="detr-compact", classes=["cat", "dog"])
        assert found.card.config == model.card.config
        assert_same(found, model)

    @pytest.mark.parametrize(
        "wrap", [lambda model: torch.compile(model, backend="eager"), nn.DataParallel, AveragedModel]
    )
    def test_of_wrapped_models(self, tmp_path: Path, wrap: Any) -> None:
        model = small_model("detr-compact")
        torch.save(wrap(model).state_dict(), tmp_path / "weights.pth")
        assert_same(detrkit.load(tmp_path / "weights.pth", variant="detr-compact"), model)

    def test_without_a_variant_are_named_as_such(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        torch.save(small_model().state_dict(), path)
        assert complaint(path) == (
            f"{path} holds the weights of a detrkit model without its card (variant, classes, preprocessing): load the .safetensors that "
            "detrkit.save or training wrote, or give `variant`, and `classes` for their names"
        )

    @pytest.mark.parametrize("variant", ["conditional-detr-r50", "dab-detr-r50", "detr-r50", "light-detr-compact"])
    def test_of_another_variant_are_refused(self, tmp_path: Path, variant: str) -> None:
        path = tmp_path / "weights.pth"
        torch.save(small_model("detr-r18-c4").state_dict(), path)
        assert complaint(path, variant=variant) == (
            f"{path} holds a detrkit model's weights that do not fit {variant}: give the variant that it was trained as"
        )

    def test_a_whole_model_is_refused_with_the_remedy(self, tmp_path: Path) -> None:
        path = tmp_path / "model.pth"
        torch.save(small_model("detr-compact"), path)
        assert complaint(path) == (
            f"{path} holds Python objects besides tensors, which could run code when loaded: write the model with detrkit.save(model, file)"
        )


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "module.backbone."])
@pytest.mark.parametrize("names", [("bbox_attention.q_linear.weight",), ("bbox_attention.q_proj.weight",)])
def test_mask_heads_of_other_sizes_are_named_as_such(tmp_path: Path, prefix: str, names: tuple[str, ...]) -> None:
    tensors = {f"{prefix}detr.{name}": tensor for name, tensor in contents(small_model(), "authors").items()}
    torch.save({**tensors, **{prefix + name: torch.zeros(8, 8) for name in names}}, tmp_path / "file.pth")
    wanted = (
        f"{tmp_path / 'file.pth'} is a checkpoint of a detector with DETR's mask head, which detrkit does not build yet"
    )
    assert complaint(tmp_path / "file.pth") == wanted


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model.backbone."])
def test_backbone_weights_may_have_a_prefix(tmp_path: Path, prefix: str) -> None:
    source, target = build_backbone("resnet18"), build_backbone("resnet18")
    torch.save({f"{prefix}{name}": tensor for name, tensor in source.state_dict().items()}, tmp_path / "weights.pth")
    load_backbone_weights(target, tmp_path / "weights.pth")
    state = target.state_dict()
    for name, tensor in source.state_dict().items():
        assert torch.equal(state[name], tensor), name


class TestWhatIsGivenInThePlaceOfAFile:
    def test_a_variant(self) -> None:
        assert complaint(Path("detr-r50")) == (
            "'detr-r50' is the name of a variant, but a weight file is needed: give one that training wrote, or that was downloaded "
            "(`detrkit models` lists the addresses of published ones)"
        )

    def test_the_folder_of_a_run_means_its_best_model(self, tmp_path: Path) -> None:
        model = small_model("detr-compact")
        detrkit.save(small_model("detr-compact"), tmp_path / "last.safetensors")
        detrkit.save(model, tmp_path / "best.safetensors")
        assert_same(detrkit.load(tmp_path), model)

    def test_the_folder_of_a_run_without_a_best_model_means_its_last(self, tmp_path: Path) -> None:
        model = small_model("detr-compact")
        detrkit.save(model, tmp_path / "last.safetensors")
        assert_same(detrkit.load(tmp_path), model)

    def test_a_folder_of_hugging_face(self, tmp_path: Path) -> None:
        model = small_model()
        save_file(contents(model, "Hugging Face"), tmp_path / "model.safetensors")
        assert_same(detrkit.load(tmp_path), model)

    def test_another_folder(self, tmp_path: Path) -> None:
        assert complaint(tmp_path) == (
            f"{tmp_path} is a folder without best.safetensors, last.safetensors, model.safetensors or pytorch_model.bin: give a weight file"
        )

    def test_a_model(self) -> None:
        with pytest.raises(CheckpointError) as caught:
            detrkit.load(small_model("detr-compact"))  # type: ignore[arg-type]
        end = "not by an object of type EncoderDecoder: give the file's name"
        assert str(caught.value) == f"a weight file is given by its path, {end}"
