"""Files of the authors and of Hugging Face: which model they hold, and what users must say if the file does not show it."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import detrkit
from detrkit.cards import Category, PublishedWeights
from detrkit.checkpoints import from_official, load, to_official
from detrkit.checkpoints.detr import HUGGING_FACE, HUGGING_FACE_TIMM, OFFICIAL
from detrkit.checkpoints.key_mapping import KeyMapping
from detrkit.checkpoints.recognition import TABLES
from detrkit.errors import CheckpointError, ConfigurationError
from detrkit.models.catalog import CATALOG, build
from detrkit.models.coco_categories import COCO_CATEGORIES
from detrkit.models.detector import Detector
from detrkit.structures import ImageBatch

SMALL = {"width": 64, "hidden": 64, "attention_heads": 4, "encoder_layers": 1, "decoder_layers": 2, "queries": 5}


def small_model(variant: str = "detr-r18-c4", classes: int = 2) -> Detector:
    return build(variant, classes=[f"class {index}" for index in range(classes)], **SMALL).eval()


def hollow(variant: str, mapping: KeyMapping = OFFICIAL, **changes: Any) -> dict[str, Tensor]:
    """A whole model's foreign names and shapes; all its zeros share one stored number, so that the file is tiny."""
    with torch.device("meta"):
        names = build(variant, **{**SMALL, **changes}).state_dict()
    zero = torch.zeros(1)
    return {name: zero.expand(tensor.shape) for name, tensor in mapping.to_foreign(names).items()}


def write(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def complaint(path: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path, **options)
    return str(caught.value)


def assert_same_weights(found: Detector, wanted: Detector) -> None:
    weights = wanted.state_dict()
    assert set(found.state_dict()) == set(weights)
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


class TestTables:
    @pytest.mark.parametrize("variant", ["detr-r18", "detr-mobilenetv2", "detr-compact"])
    def test_weights_go_to_the_authors_names_and_back(self, variant: str) -> None:
        model = small_model(variant)
        official = to_official(model.state_dict(), model)
        assert "transformer.decoder.norm.weight" in official
        again = from_official(official, model)
        assert set(again) == set(model.state_dict())
        for name, tensor in model.state_dict().items():
            assert torch.equal(again[name], tensor), name

    def test_gradients_go_the_same_way(self) -> None:
        model = small_model("detr-compact")
        model(ImageBatch(torch.randn(2, 3, 64, 64))).logits.square().sum().backward()
        gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        official = to_official(gradients, model)
        assert torch.equal(official["class_embed.weight"], model.heads.class_head.weight.grad)
        again = from_official(official, model)
        assert set(again) == set(gradients)
        assert all(torch.equal(again[name], gradient) for name, gradient in gradients.items())

    def test_a_part_of_a_model_is_enough(self) -> None:
        model, tensor = small_model(), torch.randn(3)
        assert to_official({"heads.class_head.bias": tensor}, model) == {"class_embed.bias": tensor}
        assert from_official({"class_embed.bias": tensor}, model) == {"heads.class_head.bias": tensor}
        assert to_official({}, model) == from_official({}, model) == {}

    def test_names_of_another_model(self) -> None:
        with pytest.raises(CheckpointError, match="'nonsense' is not the name"):
            to_official({"nonsense": torch.zeros(1)}, small_model())
        with pytest.raises(CheckpointError, match=r"no place in this model \(backbone\.0\.body\.layer4"):
            from_official({"backbone.0.body.layer4.0.conv1.weight": torch.zeros(1)}, small_model())

    def test_the_public_names(self) -> None:
        model = small_model()
        assert detrkit.checkpoints.to_official({}, model) == {}
        assert detrkit.load is load


class TestAuthorsFiles:
    @pytest.mark.parametrize("wrap", [lambda weights: weights, lambda weights: {"model": weights}])
    def test_every_bit_arrives(self, tmp_path: Path, wrap: Any) -> None:
        model = small_model()
        again = load(write(tmp_path / "file.pth", wrap(to_official(model.state_dict(), model))))
        assert_same_weights(again, model)
        assert again.card.variant == "detr-r18-c4"
        assert not again.training
        assert again.card.config["queries"] == 5
        assert again.card.config["hidden"] == 64
        assert (again.card.config["encoder_layers"], again.card.config["decoder_layers"]) == (1, 2)

    def test_the_number_of_heads_comes_from_the_stored_options(self, tmp_path: Path) -> None:
        model = small_model()
        content = {
            "model": to_official(model.state_dict(), model),
            "args": argparse.Namespace(nheads=4, dilation=False, lr=1e-4, output_dir="runs"),
            "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
            "epoch": 299,
        }
        again = load(write(tmp_path / "checkpoint.pth", content))
        batch = ImageBatch(torch.randn(1, 3, 64, 64))
        torch.testing.assert_close(again(batch).logits, model(batch).logits, atol=1e-5, rtol=1e-5)

    def test_stored_options_that_cannot_be_built_are_refused_with_the_files_name(self, tmp_path: Path) -> None:
        options = argparse.Namespace(nheads=7)
        path = write(tmp_path / "file.pth", {"model": hollow("detr-r18"), "args": options})
        assert complaint(path) == (
            f"{path} has settings that detrkit cannot build (width 64 must be a multiple of 4 (sine and cosine of two axes) "
            "and of the 7 attention heads): correct those stored with the weights"
        )

    def test_classes_that_cannot_be_are_the_callers_mistake(self, tmp_path: Path) -> None:
        path = write(tmp_path / "file.pth", hollow("detr-r18-c4", classes=["a", "b"]))
        with pytest.raises(ConfigurationError, match="the class name 'a' occurs twice"):
            load(path, classes=["a", "a"])

    def test_half_precision_is_widened(self, tmp_path: Path) -> None:
        model = small_model()
        weights = {name: tensor.half() for name, tensor in to_official(model.state_dict(), model).items()}
        again = load(write(tmp_path / "file.pth", weights))
        assert_same_weights(again, model.half().float())

    def test_counters_of_batch_norm_do_not_matter(self, tmp_path: Path) -> None:
        model = small_model()
        weights = to_official(model.state_dict(), model)
        weights["backbone.0.body.bn1.num_batches_tracked"] = torch.tensor(7)
        assert_same_weights(load(write(tmp_path / "file.pth", weights)), model)

    def test_a_network_with_norms_that_train(self, tmp_path: Path) -> None:
        model = small_model("detr-compact")
        model.train()(ImageBatch(torch.randn(2, 3, 64, 64)))
        again = load(write(tmp_path / "file.pth", to_official(model.state_dict(), model)))
        assert_same_weights(again, model)

    @pytest.mark.parametrize("variant", ["detr-r18", "detr-r34", "detr-r18-c4", "detr-mobilenetv2"])
    def test_the_backbone_determines_the_variant(self, tmp_path: Path, variant: str) -> None:
        assert load(write(tmp_path / "file.pth", hollow(variant))).card.variant == variant


class TestCategories:
    def test_ninety_one_outputs_are_cocos(self, tmp_path: Path) -> None:
        path = write(tmp_path / "file.pth", hollow("detr-r18-c4"))
        model = load(path)
        assert model.heads.class_head.out_features == 92
        assert model.card.categories == COCO_CATEGORIES

    def test_others_are_numbered(self, tmp_path: Path) -> None:
        path = write(tmp_path / "file.pth", hollow("detr-r18-c4", classes=["a", "b"]))
        assert load(path).card.categories == (Category(0, "class 0", 0), Category(1, "class 1", 1))

    def test_or_named_by_the_caller(self, tmp_path: Path) -> None:
        path = write(tmp_path / "file.pth", hollow("detr-r18-c4", classes=["a", "b"]))
        found = load(path, classes=["cat", Category(7, "dog", 0)]).card.categories
        assert found == (Category(0, "cat", 0), Category(7, "dog", 1))
        assert complaint(path, classes=["cat"]) == f"{path} has 2 class outputs but 1 class was given"


class TestWhatAFileCannotTell:
    """A dilated ResNet-50 has the same names and shapes as a plain one."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return write(tmp_path / "file.pth", {"model": hollow("detr-r50")})

    def test_is_asked_and_the_candidates_are_named(self, path: Path) -> None:
        assert complaint(path) == (
            f"{path} could be any of detr-r50, detr-r50-dc5, between which its contents do not decide: say which one with `variant`"
        )

    @pytest.mark.parametrize("variant", ["detr-r50", "detr-r50-dc5"])
    def test_can_be_given(self, path: Path, variant: str) -> None:
        model = load(path, variant=variant)
        assert model.card.variant == variant
        assert model.card.config["backbone"] == CATALOG[variant].config.backbone
        assert model.backbone.strides == ((16,) if variant.endswith("dc5") else (32,))

    @pytest.mark.parametrize(("dilation", "variant"), [(True, "detr-r50-dc5"), (False, "detr-r50")])
    def test_follows_from_the_stored_options(self, tmp_path: Path, dilation: bool, variant: str) -> None:
        options = argparse.Namespace(dilation=dilation, nheads=4)
        path = write(tmp_path / "run.pth", {"model": hollow("detr-r50"), "args": options})
        model = load(path)
        assert model.card.variant == variant
        assert model.card.config["attention_heads"] == 4

    def test_stored_options_cannot_be_overruled(self, tmp_path: Path) -> None:
        options = argparse.Namespace(dilation=True)
        path = write(tmp_path / "run.pth", {"model": hollow("detr-r50"), "args": options})
        assert load(path, variant="detr-r50-dc5").card.variant == "detr-r50-dc5"
        assert complaint(path, variant="detr-r50") == (
            f"{path} is a detr-r50-dc5, as its contents say, not a detr-r50: leave `variant` out"
        )

    @pytest.mark.parametrize("variant", ["detr-r50", "detr-r50-dc5"])
    def test_follows_from_the_published_checksum(
        self, path: Path, variant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prefix = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        file, licence = "https://example.org/file.pth", "Apache-2.0"
        published = (
            PublishedWeights(file, 0.3, licence, tag="12 epochs"),
            PublishedWeights(file, 0.4, licence, sha256_prefix="0" * 8, tag="24 epochs"),
            PublishedWeights(file, 0.5, licence, sha256_prefix=prefix, tag="36 epochs"),
        )
        monkeypatch.setitem(CATALOG, variant, dataclasses.replace(CATALOG[variant], weights=published))
        assert load(path).card.variant == variant

    def test_a_variant_of_other_weights_is_refused(self, tmp_path: Path, path: Path) -> None:
        deeper = write(tmp_path / "deeper.pth", hollow("detr-r101"))
        wanted = "is not a detr-r50: its weights fit detr-r101 or detr-r101-dc5"
        assert complaint(deeper, variant="detr-r50") == f"{deeper} {wanted}"
        wanted = "is not a detr-r101: its weights fit detr-r50 or detr-r50-dc5"
        assert complaint(path, variant="detr-r101") == f"{path} {wanted}"

    def test_a_variant_that_does_not_exist(self, path: Path) -> None:
        with pytest.raises(ConfigurationError, match="there is no variant 'detr-r51': did you mean 'detr-r50'"):
            load(path, variant="detr-r51")


class TestHuggingFacesFiles:
    @pytest.mark.parametrize("mapping", [HUGGING_FACE, HUGGING_FACE_TIMM], ids=["own ResNet", "timm"])
    def test_every_bit_arrives(self, tmp_path: Path, mapping: KeyMapping) -> None:
        model = small_model(classes=3)
        tensors = {name: tensor.contiguous() for name, tensor in mapping.to_foreign(model.state_dict()).items()}
        save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
        settings = {"encoder_attention_heads": 4, "id2label": {"0": "cat", "1": "N/A", "2": "dog"}, "dilation": False}
        (tmp_path / "config.json").write_text(json.dumps(settings))
        again = load(tmp_path / "model.safetensors")
        assert_same_weights(again, model)
        assert again.card.variant == "detr-r18-c4"
        assert again.card.categories == (Category(0, "cat", 0), Category(2, "dog", 2))
        batch = ImageBatch(torch.randn(1, 3, 64, 64))
        torch.testing.assert_close(again(batch).logits, model(batch).logits, atol=1e-5, rtol=1e-5)

    def test_labels_are_sorted_by_number_and_end_with_the_head(self, tmp_path: Path) -> None:
        write(tmp_path / "pytorch_model.bin", hollow("detr-r18-c4", HUGGING_FACE, classes=list("abcdefghijkl")))
        labels = {str(index): f"name {index}" for index in (10, 2, 0, 12, 11)}
        (tmp_path / "config.json").write_text(json.dumps({"id2label": labels}))
        found = load(tmp_path / "pytorch_model.bin").card.categories
        assert [category.index for category in found] == [0, 2, 10, 11]
        assert found[2] == Category(10, "name 10", 10)

    @pytest.mark.parametrize(("dilation", "variant"), [(True, "detr-r50-dc5"), (False, "detr-r50")])
    def test_settings_tell_what_names_cannot(self, tmp_path: Path, dilation: bool, variant: str) -> None:
        path = write(tmp_path / "pytorch_model.bin", hollow("detr-r50", HUGGING_FACE_TIMM))
        (tmp_path / "config.json").write_text(json.dumps({"dilation": dilation}))
        assert load(path).card.variant == variant

    @pytest.mark.parametrize(
        "settings",
        [
            {"backbone_config": {"output_stride": None}},
            {"dilation": None},
            {"dilation": None, "backbone_config": {"output_stride": None}, "encoder_attention_heads": None},
        ],
        ids=str,
    )
    def test_null_states_nothing(self, tmp_path: Path, settings: dict[str, Any]) -> None:
        """Hugging Face writes null for settings that have their default."""
        path = write(tmp_path / "pytorch_model.bin", hollow("detr-r50", HUGGING_FACE_TIMM))
        (tmp_path / "config.json").write_text(json.dumps(settings))
        assert "say which one with `variant`" in complaint(path)
        config = load(path, variant="detr-r50-dc5").card.config
        assert (config["backbone"], config["attention_heads"]) == ("resnet50-dc5", 8)

    @pytest.mark.parametrize(
        ("settings", "what"),
        [
            (
                {"encoder_attention_heads": "eight"},
                "encoder_attention_heads must be a whole number above 0, not 'eight'",
            ),
            ({"backbone_config": {"output_stride": [16]}}, "output_stride must be a whole number above 0, not [16]"),
            ({"dilation": "False"}, "dilation must be true or false, not 'False'"),
        ],
    )
    def test_settings_of_another_type_are_named(self, tmp_path: Path, settings: dict[str, Any], what: str) -> None:
        path = write(tmp_path / "pytorch_model.bin", hollow("detr-r50", HUGGING_FACE_TIMM))
        (tmp_path / "config.json").write_text(json.dumps(settings))
        assert complaint(path, variant="detr-r50") == f"{path}: the stored setting {what}: correct it"

    def test_without_settings_the_variant_must_be_given(self, tmp_path: Path) -> None:
        path = write(tmp_path / "pytorch_model.bin", hollow("detr-r50", HUGGING_FACE))
        assert "say which one with `variant`" in complaint(path)
        model = load(path, variant="detr-r50")
        assert model.card.categories == COCO_CATEGORIES


class TestFilesThatDoNotFit:
    def test_a_classifier(self, tmp_path: Path) -> None:
        path = write(tmp_path / "file.pth", {"conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)})
        assert complaint(path) == (
            f"{path} holds none of the models that detrkit knows ({', '.join(TABLES)}): its first tensor is 'conv1.weight'"
        )

    @pytest.mark.parametrize("variant", [name for name in CATALOG if name.endswith(("r50", "compact", "mobilenetv2"))])
    @pytest.mark.parametrize("prefix", ["", "model."], ids=["state_dict", "resume.ckpt"])
    def test_our_weights_without_their_header(self, tmp_path: Path, variant: str, prefix: str) -> None:
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in build(variant).state_dict().items()}
        weights = {prefix + name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
        path = write(tmp_path / "resume.ckpt", {"state_dict": weights, "epoch": 3})
        assert complaint(path) == (
            f"{path} holds the weights of a detrkit model without its card (variant, classes, preprocessing): load the .safetensors that "
            "detrkit.save or training wrote, or give `variant`, and `classes` for their names"
        )

    def test_one_tensor_of_another_paper(self, tmp_path: Path) -> None:
        weights = {**hollow("detr-r18"), "transformer.decoder.layers.0.ca_qcontent_proj.weight": torch.zeros(1)}
        assert (
            "1 tensors have no place in this model (transformer.decoder.layers.0.ca_qcontent_proj.weight)"
            in complaint(write(tmp_path / "file.pth", weights))
        )

    def test_one_tensor_too_many(self, tmp_path: Path) -> None:
        weights = {**hollow("detr-r18"), "transformer.encoder.norm.weight": torch.zeros(64)}
        found = complaint(write(tmp_path / "file.pth", weights))
        assert "1 tensors have no place in this model (transformer.encoder.norm.weight)" in found
        assert str(tmp_path / "file.pth") in found

    def test_one_tensor_too_few(self, tmp_path: Path) -> None:
        weights = hollow("detr-r18")
        del weights["transformer.decoder.norm.weight"]
        path = write(tmp_path / "file.pth", weights)
        assert complaint(path) == (
            f"{path} does not fit detr-r18: it lacks 1 tensors such as 'decoder.norm.weight'; "
            "give the variant that it was trained as"
        )

    @pytest.mark.parametrize("part", ["class_embed", "transformer.decoder.layers.0.linear1", "input_proj", "backbone"])
    def test_a_part_that_is_missing_altogether(self, tmp_path: Path, part: str) -> None:
        weights = {name: tensor for name, tensor in hollow("detr-r18").items() if not name.startswith(part)}
        assert str(tmp_path / "file.pth") in complaint(write(tmp_path / "file.pth", weights))

    def test_a_backbone_that_is_missing_altogether_is_named(self, tmp_path: Path) -> None:
        weights = {name: tensor for name, tensor in hollow("detr-r18").items() if not name.startswith("backbone")}
        path = write(tmp_path / "file.pth", weights)
        assert "()" not in complaint(path)
        assert "backbone" in complaint(path, variant="detr-r18")

    def test_a_concatenation_without_one_of_its_parts(self, tmp_path: Path) -> None:
        weights = hollow("detr-r18", HUGGING_FACE)
        del weights["model.encoder.layers.0.self_attn.k_proj.weight"]
        found = complaint(write(tmp_path / "file.pth", weights))
        assert "'encoder.layers.0.attention.projection_weight' is made of 3 tensors but only 2 were given" in found
        assert str(tmp_path / "file.pth") in found

    def test_another_shape(self, tmp_path: Path) -> None:
        weights = {**hollow("detr-r18"), "input_proj.weight": torch.zeros(64, 2048, 1, 1)}
        path = write(tmp_path / "file.pth", weights)
        assert complaint(path) == (
            f"{path} does not fit detr-r18: it has in another shape 1 tensors such as 'neck.projections.0.weight'; "
            "give the variant that it was trained as"
        )

    def test_a_backbone_that_no_variant_has(self, tmp_path: Path) -> None:
        path = write(tmp_path / "file.pth", hollow("detr-r50", backbone="resnet50-c4"))
        assert complaint(path) == f"{path} has a backbone (resnet50-c4) that no detr variant has"
