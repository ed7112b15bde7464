"""DAB-Deformable-DETR's files: every name in the authors' file has its place, and shapes and stored options determine the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.authors_files import SMALL, assert_equal, complaint, hollow, manifest_of, published, skeleton, write

from detrkit.checkpoints import from_official, load, to_official
from detrkit.checkpoints.dab_deformable_detr import TABLE, official
from detrkit.checkpoints.recognition import recognise
from detrkit.errors import CheckpointError
from detrkit.models.catalog import CATALOG, build
from detrkit.models.coco_categories import COCO_CATEGORIES
from detrkit.models.dab_deformable_detr import Config

CASE, VARIANT, COMPACT = "dab_deformable_detr_r50", "dab-deformable-detr-r50", "dab-deformable-detr-compact"


class TestTheAuthorsNames:
    def test_have_a_place_each_and_lead_back(self, shared: Path) -> None:
        model, theirs = skeleton(VARIANT, queries=40), published(shared, CASE)
        own = from_official(theirs, model)
        assert len(theirs) == 604
        assert len(own) == 604 - 36 + 1  # box heads stand twice in the file, and anchors are two tensors of ours
        assert {name: value.shape for name, value in own.items()} == {
            name: value.shape for name, value in model.state_dict().items()
        }
        assert_equal(to_official(own, model), theirs)

    def test_of_box_heads_stand_for_one_tensor(self, shared: Path) -> None:
        mapping, tensor = official(Config()), torch.randn(3)
        for alias, name in manifest_of(shared, CASE)["aliases"].items():
            (own,) = mapping.from_foreign({alias: tensor})
            assert list(mapping.from_foreign({name: tensor})) == [own]
            assert list(mapping.to_foreign({own: tensor})) == [name, alias]

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("query_source.content.weight", "tgt_embed.weight"),
            ("query_source.patterns.weight", "patterns_embed.weight"),
            ("decoder.position_head.layers.1.weight", "transformer.decoder.ref_point_head.layers.1.weight"),
            ("decoder.position_scale.layers.1.weight", "transformer.decoder.query_scale.layers.1.weight"),
            ("decoder.layers.1.cross_norm.weight", "transformer.decoder.layers.1.norm1.weight"),
            ("decoder.layers.1.self_norm.weight", "transformer.decoder.layers.1.norm2.weight"),
            ("decoder.layers.1.feed_forward.norm.bias", "transformer.decoder.layers.1.norm3.bias"),
            ("decoder.layers.1.feed_forward.expand.bias", "transformer.decoder.layers.1.linear1.bias"),
            ("decoder.layers.1.feed_forward.contract.bias", "transformer.decoder.layers.1.linear2.bias"),
            ("decoder.layers.1.self_attention.projection_bias", "transformer.decoder.layers.1.self_attn.in_proj_bias"),
            ("decoder.layers.1.self_attention.output.bias", "transformer.decoder.layers.1.self_attn.out_proj.bias"),
            ("decoder.layers.1.cross_attention.output.bias", "transformer.decoder.layers.1.cross_attn.output_proj.bias"),
            ("decoder.layers.1.cross_attention.values.bias", "transformer.decoder.layers.1.cross_attn.value_proj.bias"),
            ("decoder.layers.1.cross_attention.offsets.bias", "transformer.decoder.layers.1.cross_attn.sampling_offsets.bias"),
            ("decoder.layers.1.cross_attention.weights.bias", "transformer.decoder.layers.1.cross_attn.attention_weights.bias"),
            ("encoder.layers.1.attention.values.bias", "transformer.encoder.layers.1.self_attn.value_proj.bias"),
            ("encoder.layers.1.attention.weights.bias", "transformer.encoder.layers.1.self_attn.attention_weights.bias"),
            ("encoder.layers.1.norm.weight", "transformer.encoder.layers.1.norm1.weight"),
            ("encoder.layers.1.feed_forward.norm.weight", "transformer.encoder.layers.1.norm2.weight"),
            ("encoder.level_code", "transformer.level_embed"),
            ("heads.class_heads.1.bias", "class_embed.1.bias"),
            ("neck.projections.3.0.weight", "input_proj.3.0.weight"),
            ("neck.projections.3.1.weight", "input_proj.3.1.weight"),
        ],
    )  # fmt: skip
    def test_that_could_be_mistaken_for_each_other(self, ours: str, theirs: str) -> None:
        mapping, tensor = official(Config()), torch.randn(3)
        assert list(mapping.to_foreign({ours: tensor})) == [theirs]
        assert list(mapping.from_foreign({theirs: tensor})) == [ours]

    def test_of_anchors_hold_centers_before_sides(self) -> None:
        mapping, anchors = official(Config()), torch.randn(5, 4)
        own = mapping.from_foreign({"refpoint_embed.weight": anchors})
        assert_equal(own, {"query_source.center_logits": anchors[:, :2], "query_source.side_logits": anchors[:, 2:]})
        assert_equal(mapping.to_foreign(own), {"refpoint_embed.weight": anchors})

    @pytest.mark.parametrize(
        "name",
        [
            "query_embed.weight",  # Deformable DETR's queries
            "transformer.reference_points.weight",
            "transformer.patterns.weight",  # DAB-DETR's patterns
            "transformer.decoder.ref_anchor_head.layers.0.weight",  # no modulation here
            "transformer.encoder.query_scale.layers.0.weight",
            "transformer.decoder.norm.weight",
            "transformer.enc_output.weight",  # of two stages, which the authors' code cannot run
            "transformer.pos_trans.weight",
        ],
    )
    def test_of_relatives_have_no_place(self, name: str) -> None:
        with pytest.raises(CheckpointError, match="1 tensors have no place in this model"):
            official(Config()).from_foreign({name: torch.zeros(1)})


class TestTheAuthorsFile:
    def test_says_its_variant_and_comes_back_bit_for_bit(self, shared: Path, tmp_path: Path) -> None:
        theirs = published(shared, CASE)
        model = load(write(tmp_path / "checkpoint.pth", theirs, **manifest_of(shared, CASE)["arguments"]))
        assert model.card.variant == VARIANT
        assert model.card.config == skeleton(VARIANT, queries=40).card.config
        assert model.backbone.strides == (8, 16, 32)
        assert model.card.categories == COCO_CATEGORIES
        assert_equal(to_official(model.state_dict(), model), theirs)

    def test_needs_no_arguments(self, shared: Path, tmp_path: Path) -> None:
        """Only one variant has this backbone, and its heads, dilation and weights of the loss are taken for granted."""
        path = tmp_path / "checkpoint.pth"
        torch.save({"model": published(shared, CASE)}, path)
        card = load(path).card
        assert card.variant == VARIANT
        assert card.config == skeleton(VARIANT, queries=40).card.config

    def test_refuses_another_variant(self, tmp_path: Path) -> None:
        path = write(tmp_path / "file.pth", hollow(VARIANT), nheads=4)
        assert complaint(path, variant=COMPACT) == f"{path} is not a {COMPACT}: its weights fit {VARIANT}"

    @pytest.mark.parametrize(
        ("options", "backbone", "strides"),
        [({"dilation": False}, "resnet50", (8, 16, 32)), ({"dilation": True}, "resnet50-dc5", (8, 16, 16))],
    )
    def test_tells_dilation(
        self, tmp_path: Path, options: dict[str, Any], backbone: str, strides: tuple[int, ...]
    ) -> None:
        """No variant is dilated, but a model may be."""
        model = load(write(tmp_path / "file.pth", hollow(VARIANT), nheads=4, **options))
        assert (model.card.variant, model.card.config["backbone"]) == (VARIANT, backbone)
        assert model.backbone.strides == strides


class TestSettings:
    """Read from files of compact models, which are quick to build."""

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"attention_heads": 8, "hidden": 96, "points": 2, "class_count": 80},
            {"levels": 4},
            {"levels": 1},
            {"encoder_layers": 0},
            {"encoder_layers": 2, "decoder_layers": 3},
            {"patterns": 3},
        ],
        ids=str,
    )
    def test_of_changed_models_come_back_with_every_bit(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        model = build(COMPACT, **{**SMALL, **changes})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        heads = model.card.config["attention_heads"]
        again = load(write(tmp_path / "file.pth", to_official(model.state_dict(), model), nheads=heads))
        assert again.card.config == model.card.config
        assert_equal(dict(again.state_dict()), dict(model.state_dict()))

    @pytest.mark.parametrize(
        ("options", "settings"),
        [
            ({"cls_loss_coef": 1.5}, {"class_weight": 1.5}),
            ({"bbox_loss_coef": 1.5}, {"l1_weight": 1.5}),
            ({"giou_loss_coef": 1.5}, {"giou_weight": 1.5}),
            ({"set_cost_class": 1.5}, {"class_cost": 1.5}),
            ({"cls_loss_coef": 0, "bbox_loss_coef": 3, "giou_loss_coef": 4}, {"class_weight": 0, "l1_weight": 3, "giou_weight": 4}),
            ({"giou_loss_coef": None}, {}),
            ({"random_refpoints_xy": True}, {"centers": "random"}),
            ({"random_refpoints_xy": False}, {}),
            ({"pe_temperatureH": 20, "pe_temperatureW": 30}, {}),  # this paper's code ignores both
            ({"transformer_activation": "prelu", "two_stage": True, "num_select": 300}, {}),
        ],
        ids=str,
    )  # fmt: skip
    def test_in_stored_options(self, tmp_path: Path, options: dict[str, Any], settings: dict[str, Any]) -> None:
        path = write(tmp_path / "file.pth", hollow(COMPACT), nheads=4, **options)
        assert load(path).card.config == skeleton(COMPACT, **SMALL, **settings).card.config

    def test_fixed_centers_do_not_train(self, tmp_path: Path) -> None:
        path = write(tmp_path / "file.pth", hollow(COMPACT), nheads=4, random_refpoints_xy=True)
        frozen = [name for name, value in load(path).query_source.named_parameters() if not value.requires_grad]
        assert frozen == ["center_logits"]

    @pytest.mark.parametrize(("heads", "points"), [(4, 4), (2, 8), (8, 2), (16, 1)])
    def test_heads_tell_points(self, tmp_path: Path, heads: int, points: int) -> None:
        config = load(write(tmp_path / "file.pth", hollow(COMPACT), nheads=heads)).card.config
        assert (config["attention_heads"], config["points"]) == (heads, points)

    @pytest.mark.parametrize("name", ["cls_loss_coef", "bbox_loss_coef", "giou_loss_coef", "set_cost_class"])
    @pytest.mark.parametrize("value", ["x", [2], False], ids=str)
    def test_that_should_be_numbers(self, tmp_path: Path, name: str, value: Any) -> None:
        path = write(tmp_path / "file.pth", hollow(COMPACT), nheads=4, **{name: value})
        assert complaint(path) == (
            f"{path}: the stored setting {name} must be a finite number, not {value!r}: correct it"
        )

    def test_that_should_be_true_or_false(self, tmp_path: Path) -> None:
        path = write(tmp_path / "file.pth", hollow(COMPACT), nheads=4, random_refpoints_xy="no")
        assert complaint(path) == (
            f"{path}: the stored setting random_refpoints_xy must be true or false, not 'no': correct it"
        )

    def test_of_a_part_of_a_model(self, shared: Path) -> None:
        own = official(Config()).from_foreign(published(shared, CASE))
        del own["decoder.layers.0.feed_forward.expand.weight"]
        with pytest.raises(CheckpointError) as caught:
            TABLE.fit_config(CATALOG[VARIANT].config, own, {})
        assert str(caught.value) == (
            "the weights lack 'decoder.layers.0.feed_forward.expand.weight': this is only a part of a DAB-Deformable-DETR"
        )


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ("class_embed", ": the weights lack 'heads.class_head"),
        ("bbox_embed", f" does not fit {COMPACT}: it lacks 12 tensors such as 'heads.box_heads.0.layers.0.bias'"),
        ("input_proj", ": the weights lack 'neck.projections.0.0.weight'"),
        ("query_scale", f" does not fit {COMPACT}: it lacks 4 tensors such as 'decoder.position_scale.layers.0.bias'"),
        ("backbone", " holds no backbone that detrkit knows: give the whole model's file"),
    ],
)
def test_a_part_that_is_missing_altogether(tmp_path: Path, part: str, problem: str) -> None:
    weights = {name: tensor for name, tensor in hollow(COMPACT).items() if part not in name}
    path = write(tmp_path / "file.pth", weights, nheads=4)
    assert complaint(path).startswith(f"{path}{problem}")


def test_copies_of_box_heads_must_agree(tmp_path: Path) -> None:
    weights = hollow(COMPACT)
    weights["transformer.decoder.bbox_embed.1.layers.2.bias"] = torch.ones(4)
    path = write(tmp_path / "file.pth", weights, nheads=4)
    assert complaint(path) == (
        f"{path}: 'bbox_embed.1.layers.2.bias' and 'transformer.decoder.bbox_embed.1.layers.2.bias' stand for one tensor "
        "but hold different values: the weights are of another model or damaged"
    )


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        ("dab_detr_r50", "a DAB-DETR"),
        ("dn_dab_detr_r50", "a DN-DETR"),
        ("conditional_detr_r50", "a Conditional DETR"),
        ("deformable_detr_r50", "a Deformable DETR"),
        ("deformable_detr_refine", "a Deformable DETR"),
        ("dino_r50_4scale", "a DINO"),
        ("h_deformable_detr_r50", "an H-DETR"),
    ],
)
def test_relatives_are_refused_by_name(shared: Path, tmp_path: Path, case: str, problem: str) -> None:
    """In one sentence that ends in what to do, which depends on what detrkit builds."""
    path = write(tmp_path / "checkpoint.pth", published(shared, case))
    message = complaint(path, variant=VARIANT)
    assert message.startswith(f"{path} holds {problem}, not a {VARIANT}: ")
    remedies = ("leave `variant` out", f"detrkit does not build {problem.partition(' ')[2]} yet")
    assert message.endswith(remedies)


def test_the_denoising_descendant_is_not_taken_for_it() -> None:
    recognised = [recognise(hollow(variant)) for variant in (VARIANT, f"dn-{VARIANT}")]
    assert [each and each.family for each in recognised] == ["dab_deformable_detr", "dn_deformable_detr"]


def test_others_variants_refuse_it(shared: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "checkpoint.pth", published(shared, CASE))
    for variant in ("dab-detr-r50", "deformable-detr-r50-refine"):
        assert complaint(path, variant=variant) == (
            f"{path} holds a DAB-Deformable-DETR, not a {variant}: leave `variant` out"
        )
