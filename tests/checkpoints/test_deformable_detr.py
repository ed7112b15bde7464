"""Deformable DETR's files: all names in the authors' files, heads with several names, and how variants are distinguished."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detrkit.checkpoints import deformable_detr, from_official, load, loading, to_official
from detrkit.checkpoints.shared import OWN_RESNET
from detrkit.errors import CheckpointError
from detrkit.models.catalog import CATALOG, build
from detrkit.models.coco_categories import COCO_CATEGORIES
from detrkit.models.deformable_detr import Config
from detrkit.models.detector import Detector
from detrkit.structures import ImageBatch

PUBLISHED = {
    "deformable_detr_r50": "deformable-detr-r50",
    "deformable_detr_single_scale": "deformable-detr-r50-single-scale",
    "deformable_detr_single_scale_dc5": "deformable-detr-r50-single-scale-dc5",
    "deformable_detr_refine": "deformable-detr-r50-refine",
    "deformable_detr_two_stage": "deformable-detr-r50-two-stage",
}
VARIANTS = [name for name, entry in CATALOG.items() if entry.family == "deformable_detr"]
# Learned content has a place in other papers' files alone, and boxes' relation in none; READ are those that come back.
READ = list(VARIANTS)
SMALL = {"width": 64, "hidden": 48, "encoder_layers": 1, "decoder_layers": 2, "queries": 5}
TIMM = "model.backbone.conv_encoder.model.conv1.weight"


def skeleton(variant: str, **changes: Any) -> Detector:
    """A model without memory for its weights: names and shapes only."""
    with torch.device("meta"):
        return build(variant, **changes)


def small(variant: str, **changes: Any) -> Detector:
    return build(variant, **{**SMALL, "classes": ["a", "b"], **changes}).eval()


def hollow(variant: str, **changes: Any) -> dict[str, Tensor]:
    """A whole model under the authors' names; all its zeros share one stored number, so that the file is tiny."""
    model = skeleton(variant, **{**SMALL, **changes})
    zero = torch.zeros(())
    return {name: zero.expand(tensor.shape) for name, tensor in to_official(model.state_dict(), model).items()}


def hugging_face(model: Detector, *markers: str) -> dict[str, Tensor]:
    """A model under Hugging Face's names; markers are the names that identify a layout."""
    form = deformable_detr._form(to_official(model.state_dict(), model), "transformer.")
    tied = form.refine and not form.two_stage and "class_embed.1.weight" not in markers
    names = deformable_detr._hugging_face(form, timm=OWN_RESNET not in markers, tied=tied)
    return names.to_foreign(model.state_dict())


def write(path: Path, weights: dict[str, Tensor], **arguments: Any) -> Path:
    torch.save({"model": weights, "args": argparse.Namespace(**arguments)}, path)
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


class TestTheAuthorsNames:
    @pytest.mark.parametrize("case", list(PUBLISHED))
    def test_are_all_there_with_their_shapes_and_copies(self, shared: Path, case: str) -> None:
        manifest = json.loads((shared / "golden" / case / "manifest.json").read_text())
        model = skeleton(PUBLISHED[case], queries=40)
        official = to_official(model.state_dict(), model)
        shapes = {name: list(tensor.shape) for name, tensor in official.items()}
        assert shapes == manifest["tensors"]
        for alias, canonical in manifest["aliases"].items():
            assert official[alias] is official[canonical], alias
        assert len({id(tensor) for tensor in official.values()}) == len(official) - len(manifest["aliases"])

    @pytest.mark.parametrize("case", list(PUBLISHED))
    def test_the_first_of_several_names_is_the_one_of_the_gradients(self, shared: Path, case: str) -> None:
        manifest = json.loads((shared / "golden" / case / "manifest.json").read_text())
        rules = deformable_detr.official(CATALOG[PUBLISHED[case]].config).rules
        firsts = {rule.foreign[0] for rule in rules if rule.aliases}
        canonical = {re.sub(r"layers\.\d+", "layers.{n}", name) for name in manifest["aliases"].values()}
        assert firsts == {re.sub(r"\w+$", "{leaf}", name) for name in canonical}

    @pytest.mark.parametrize(
        ("variant", "count"), list(zip(PUBLISHED.values(), [561, 549, 549, 597, 630], strict=True))
    )
    def test_are_as_many_as_in_the_authors_files(self, variant: str, count: int) -> None:
        model = skeleton(variant)
        assert len(to_official(model.state_dict(), model)) == count

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_lead_there_and_back(self, variant: str) -> None:
        model = skeleton(variant)
        own = {name: torch.full((2, 1), float(index)) for index, name in enumerate(model.state_dict())}
        official = to_official(own, model)
        again = from_official(official, model)
        assert set(again) == set(own)
        for name, tensor in own.items():
            assert torch.equal(again[name], tensor), name

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("decoder.layers.1.cross_norm.weight", "transformer.decoder.layers.1.norm1.weight"),
            ("decoder.layers.1.self_norm.weight", "transformer.decoder.layers.1.norm2.weight"),
            ("decoder.layers.1.feed_forward.norm.bias", "transformer.decoder.layers.1.norm3.bias"),
            ("encoder.layers.0.norm.weight", "transformer.encoder.layers.0.norm1.weight"),
            ("encoder.layers.0.feed_forward.norm.weight", "transformer.encoder.layers.0.norm2.weight"),
            ("encoder.layers.0.attention.values.bias", "transformer.encoder.layers.0.self_attn.value_proj.bias"),
            ("decoder.layers.0.cross_attention.weights.bias", "transformer.decoder.layers.0.cross_attn.attention_weights.bias"),
            ("decoder.layers.0.self_attention.projection_bias", "transformer.decoder.layers.0.self_attn.in_proj_bias"),
            ("decoder.layers.0.self_attention.output.bias", "transformer.decoder.layers.0.self_attn.out_proj.bias"),
            ("neck.projections.3.1.weight", "input_proj.3.1.weight"),
        ],
    )  # fmt: skip
    def test_that_could_be_mistaken_for_each_other(self, ours: str, theirs: str) -> None:
        mapping, tensor = deformable_detr.official(Config()), torch.randn(3)
        assert list(mapping.to_foreign({ours: tensor})) == [theirs]
        assert list(mapping.from_foreign({theirs: tensor})) == [ours]

    def test_of_the_encoders_heads_follow_those_of_the_decoder(self) -> None:
        mapping = deformable_detr.official(Config(decoder_layers=3, refine=True, two_stage=True))
        tensor = torch.randn(3)
        assert list(mapping.to_foreign({"query_source.proposals.class_head.bias": tensor})) == [
            "class_embed.3.bias",
            "transformer.decoder.class_embed.3.bias",
        ]
        assert list(mapping.to_foreign({"heads.box_heads.2.layers.0.bias": tensor})) == [
            "bbox_embed.2.layers.0.bias",
            "transformer.decoder.bbox_embed.2.layers.0.bias",
        ]
        with pytest.raises(CheckpointError, match="no place in this model"):
            mapping.from_foreign({"class_embed.4.bias": tensor})

    @pytest.mark.parametrize("variant", ["deformable-detr-compact", "deformable-detr-compact-two-stage"])
    def test_carry_gradients(self, variant: str) -> None:
        model = small(variant).train()
        output = model(ImageBatch(torch.randn(2, 3, 64, 64)))
        (output.logits.square().sum() + output.boxes_cxcywh.sum()).backward()
        gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        official = to_official(gradients, model)
        assert official["class_embed.1.weight"].abs().sum() > 0
        again = from_official(official, model)
        assert set(again) == set(gradients)
        assert all(torch.equal(again[name], gradient) for name, gradient in gradients.items())


class TestHeadsUnderSeveralNames:
    def test_any_one_name_is_enough(self, tmp_path: Path) -> None:
        model = small("deformable-detr-r18")
        weights = to_official(model.state_dict(), model)
        del weights["class_embed.1.weight"], weights["bbox_embed.0.layers.2.bias"]
        assert_same_weights(load(write(tmp_path / "file.pth", weights)), model)

    def test_names_of_one_tensor_must_agree(self, tmp_path: Path) -> None:
        model = small("deformable-detr-r18")
        weights = to_official(model.state_dict(), model)
        weights["class_embed.0.bias"] = weights["class_embed.0.bias"] + 1
        path = write(tmp_path / "file.pth", weights)
        assert complaint(path) == (
            f"{path}: 'class_embed.1.bias' and 'class_embed.0.bias' stand for one tensor but hold different values: "
            "the weights are of another model or damaged"
        )

    def test_the_decoders_copies_must_agree_too(self, tmp_path: Path) -> None:
        weights = hollow("deformable-detr-r18-two-stage")
        name = "transformer.decoder.class_embed.2.weight"
        weights[name] = torch.ones(weights[name].shape)
        found = complaint(write(tmp_path / "file.pth", weights))
        assert f"'class_embed.2.weight' and '{name}' stand for one tensor" in found


class TestTheVariant:
    @pytest.mark.parametrize("variant", [name for name in READ if "single-scale" not in name])
    def test_follows_from_the_weights(self, tmp_path: Path, variant: str) -> None:
        model = load(write(tmp_path / "file.pth", hollow(variant)))
        config = model.card.config
        assert model.card.variant == variant
        visible = {**SMALL, "queries": CATALOG[variant].config.queries} if config["two_stage"] else SMALL
        assert {name: config[name] for name in visible} == visible
        for name in ("levels", "points", "attention_heads", "refine", "two_stage", "backbone", "class_count"):
            assert config[name] == getattr(CATALOG[variant].config, name), name
        assert model.card.categories == COCO_CATEGORIES

    def test_dilation_must_be_given(self, tmp_path: Path) -> None:
        path = write(tmp_path / "file.pth", hollow("deformable-detr-r50-single-scale"))
        candidates = ["deformable-detr-r50-single-scale", "deformable-detr-r50-single-scale-dc5"]
        assert complaint(path) == (
            f"{path} could be any of {', '.join(candidates)}, between which its contents do not decide: say which one with `variant`"
        )
        for variant in candidates:
            assert load(path, variant=variant).backbone.strides == ((16,) if variant.endswith("dc5") else (32,))
        assert complaint(path, variant="deformable-detr-r50") == (
            f"{path} is not a deformable-detr-r50: its weights fit {' or '.join(candidates)}"
        )

    @pytest.mark.parametrize("dilation", [True, False])
    def test_stored_options_tell_dilation(self, tmp_path: Path, dilation: bool) -> None:
        path = write(tmp_path / "file.pth", hollow("deformable-detr-r50-single-scale"), dilation=dilation)
        variant = "deformable-detr-r50-single-scale" + "-dc5" * dilation
        model = load(path)
        assert model.card.variant == variant
        assert model.card.config["backbone"] == CATALOG[variant].config.backbone

    def test_several_variants_may_agree_with_the_stored_options(self, tmp_path: Path) -> None:
        """No variant has three levels, so the weights fit those with one and with four equally well."""
        path = write(tmp_path / "file.pth", hollow("deformable-detr-r50", levels=3), dilation=False)
        agreeing = ["deformable-detr-r50", "deformable-detr-r50-single-scale"]
        assert complaint(path) == (
            f"{path} could be any of {', '.join(agreeing)}, between which its contents do not decide: say which one with `variant`"
        )
        for variant in agreeing:
            card = load(path, variant=variant).card
            assert (card.variant, card.config["levels"], card.config["backbone"]) == (variant, 3, "resnet50")
        assert complaint(path, variant="deformable-detr-r50-single-scale-dc5") == (
            f"{path} is a {' or a '.join(agreeing)}, as its contents say, not a deformable-detr-r50-single-scale-dc5: "
            "give one of these"
        )

    def test_stored_options_that_agree_with_no_variant_do_not_choose_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        others = {name: entry for name, entry in CATALOG.items() if name != "deformable-detr-r50-single-scale-dc5"}
        monkeypatch.setattr(loading, "CATALOG", others)  # a copy, since an item that comes back comes last
        path = write(tmp_path / "file.pth", hollow("deformable-detr-r50", levels=3), dilation=True)
        assert "could be any of deformable-detr-r50, deformable-detr-r50-single-scale," in complaint(path)
        card = load(path, variant="deformable-detr-r50-single-scale").card
        assert (card.variant, card.config["backbone"]) == ("deformable-detr-r50-single-scale", "resnet50-dc5")

    def test_dilation_on_several_levels_has_no_variant_but_works(self, tmp_path: Path) -> None:
        model = load(write(tmp_path / "file.pth", hollow("deformable-detr-r50"), dilation=True))
        assert model.card.config["backbone"] == "resnet50-dc5"
        assert model.backbone.strides == (8, 16, 16)

    @pytest.mark.parametrize(("heads", "points"), [(4, 3), (2, 6), (12, 1)])
    def test_stored_options_tell_heads_and_with_them_points(self, tmp_path: Path, heads: int, points: int) -> None:
        weights = hollow("deformable-detr-r18", attention_heads=4, points=3, width=96)
        config = load(write(tmp_path / "file.pth", weights, nheads=heads)).card.config
        assert (config["attention_heads"], config["points"]) == (heads, points)

    def test_heads_that_do_not_divide_are_refused(self, tmp_path: Path) -> None:
        weights = hollow("deformable-detr-r18", attention_heads=4, points=3, width=96)
        path = write(tmp_path / "file.pth", weights, nheads=8)
        assert complaint(path) == (
            f"{path}: 48 attention weights do not fit 8 heads on 4 levels: give the variant that it was trained as"
        )

    def test_stored_options_that_cannot_be_built_are_refused_with_the_files_name(self, tmp_path: Path) -> None:
        path = write(tmp_path / "file.pth", hollow("deformable-detr-r18"), dilation=True)
        assert complaint(path).startswith(
            f"{path} has settings that detrkit cannot build (there is no backbone 'resnet18-dc5': "
        )
        path = write(tmp_path / "file.pth", hollow("deformable-detr-r18"), nheads=0)
        assert complaint(path) == f"{path}: the stored setting nheads must be a whole number above 0, not 0: correct it"

    @pytest.mark.parametrize(
        ("options", "queries"),
        [
            ({}, 300),
            ({"num_queries": 40}, 40),
            ({"num_queries": 40, "two_stage_num_proposals": None}, 40),
            ({"num_queries": 40, "two_stage_num_proposals": 50}, 50),
        ],
    )
    def test_stored_options_tell_the_number_of_proposals(self, tmp_path: Path, options: Any, queries: int) -> None:
        model = load(write(tmp_path / "file.pth", hollow("deformable-detr-r18-two-stage"), **options))
        assert model.query_source.count == queries

    @pytest.mark.parametrize(
        "changes",
        [{"levels": 5}, {"levels": 2}, {"refine": True}, {"points": 2}, {"encoder_layers": 0}, {"decoder_layers": 1}],
        ids=str,
    )
    def test_settings_that_no_variant_has(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        model = small("deformable-detr-r18", **changes)
        again = load(write(tmp_path / "file.pth", to_official(model.state_dict(), model)))
        assert_same_weights(again, model)
        assert again.card.config == model.card.config
        batch = ImageBatch(torch.randn(1, 3, 160, 192))
        torch.testing.assert_close(again(batch).logits, model(batch).logits, atol=1e-5, rtol=1e-5)

    def test_stages_and_refinement_name_a_model_before_its_levels_do(self, tmp_path: Path) -> None:
        model = load(write(tmp_path / "file.pth", hollow("deformable-detr-r50-refine", levels=1)))
        assert model.card.variant == "deformable-detr-r50-refine"
        assert (model.card.config["levels"], model.backbone.strides) == (1, (32,))

    @pytest.mark.parametrize(
        "part", ["class_embed", "bbox_embed", "input_proj", "query_embed", "transformer.decoder.layers.0.linear1", "backbone"]
    )  # fmt: skip
    def test_a_part_that_is_missing_altogether(self, tmp_path: Path, part: str) -> None:
        weights = {name: tensor for name, tensor in hollow("deformable-detr-r18").items() if not name.startswith(part)}
        path = write(tmp_path / "file.pth", weights)
        assert str(path) in complaint(path)


class TestHuggingFacesFiles:
    @pytest.mark.parametrize("variant", ["deformable-detr-r18", "deformable-detr-r18-two-stage"])
    @pytest.mark.parametrize("marker", [OWN_RESNET, TIMM], ids=["own ResNet", "timm"])
    def test_every_bit_arrives(self, tmp_path: Path, variant: str, marker: str) -> None:
        model = small(variant, attention_heads=4, points=2)
        weights = hugging_face(model, marker, "class_embed.1.weight")
        assert marker in weights
        torch.save(weights, tmp_path / "pytorch_model.bin")
        settings = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "two_stage_num_proposals": 5}
        settings |= {"id2label": {"0": "cat", "1": "dog"}, "dilation": False, "num_queries": 300}
        (tmp_path / "config.json").write_text(json.dumps(settings))
        again = load(tmp_path / "pytorch_model.bin")
        assert_same_weights(again, model)
        assert again.card.config == model.card.config
        assert [category.name for category in again.card.categories] == ["cat", "dog"]

    def test_separate_class_heads_of_older_files(self, tmp_path: Path) -> None:
        model = small("deformable-detr-r18", refine=True)
        with torch.no_grad():
            for parameter in model.heads.parameters():
                parameter.normal_()
        weights = hugging_face(model, OWN_RESNET, "class_embed.1.weight")
        torch.save(weights, tmp_path / "pytorch_model.bin")
        assert_same_weights(load(tmp_path / "pytorch_model.bin"), model)

    def test_one_class_head_for_all_layers_of_newer_files(self, tmp_path: Path) -> None:
        model = small("deformable-detr-r18", refine=True)
        with torch.no_grad():
            model.heads.class_heads[0].weight.normal_()
        with pytest.raises(
            CheckpointError, match=r"'heads.class_heads.0.weight' and 'heads.class_heads.1.weight' stand for one"
        ):
            hugging_face(model, OWN_RESNET)
        model.heads.class_heads[1].load_state_dict(model.heads.class_heads[0].state_dict())
        weights = hugging_face(model, OWN_RESNET)
        assert "class_embed.1.weight" not in weights
        torch.save(weights, tmp_path / "pytorch_model.bin")
        assert_same_weights(load(tmp_path / "pytorch_model.bin"), model)

    @pytest.mark.parametrize(
        "settings",
        [
            {"dilation": True},
            {"dilation": False, "backbone_config": {"output_stride": 16}},
            {"dilation": True, "backbone_config": {"output_stride": None}},
        ],
        ids=["dilation", "output stride", "output stride not stated"],
    )
    def test_settings_tell_dilation(self, tmp_path: Path, settings: dict[str, Any]) -> None:
        model = skeleton("deformable-detr-r50-single-scale", **SMALL)
        weights = {name: torch.zeros(1).expand(value.shape) for name, value in hugging_face(model, TIMM).items()}
        torch.save(weights, tmp_path / "pytorch_model.bin")
        (tmp_path / "config.json").write_text(json.dumps(settings))
        assert load(tmp_path / "pytorch_model.bin").card.variant == "deformable-detr-r50-single-scale-dc5"

    def test_different_heads_in_encoder_and_decoder_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "pytorch_model.bin"
        torch.save(hugging_face(small("deformable-detr-r18"), OWN_RESNET), path)
        (tmp_path / "config.json").write_text('{"encoder_attention_heads": 8, "decoder_attention_heads": 4}')
        assert complaint(path) == (
            f"{path}: the settings give encoder and decoder 4 and 8 attention heads: "
            "detrkit builds them with the same number only"
        )
