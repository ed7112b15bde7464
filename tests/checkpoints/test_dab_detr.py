"""DAB-DETR's files: every name in the authors' files has its place, and shapes and stored options determine the settings."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.authors_files import SMALL, assert_equal, complaint, hollow, manifest_of, published, skeleton, write

from detrkit.checkpoints import from_official, load, to_official
from detrkit.checkpoints.dab_detr import HUGGING_FACE, HUGGING_FACE_TIMM, OFFICIAL, TABLE
from detrkit.checkpoints.key_mapping import KeyMapping
from detrkit.checkpoints.recognition import recognise
from detrkit.errors import CheckpointError
from detrkit.models.catalog import CATALOG, build
from detrkit.models.coco_categories import COCO_CATEGORIES

# The golden cases: their variant, their queries (anchors times patterns), and the number of names in the file.
PUBLISHED = {
    "dab_detr_r50": ("dab-detr-r50", 40, 590),
    "dab_detr_r50_dc5": ("dab-detr-r50-dc5", 40, 590),
    "dab_detr_r50_3patterns": ("dab-detr-r50-3patterns", 54, 591),
}


def arguments_of(shared: Path, case: str) -> dict[str, Any]:
    """The options that the authors' code stores beside the weights."""
    return dict(manifest_of(shared, case)["arguments"])


class TestTheAuthorsNames:
    @pytest.mark.parametrize("case", list(PUBLISHED))
    def test_have_a_place_each_and_lead_back(self, shared: Path, case: str) -> None:
        variant, queries, count = PUBLISHED[case]
        model, theirs = skeleton(variant, queries=queries), published(shared, case)
        own = from_official(theirs, model)
        assert len(theirs) == count
        assert len(own) == count - 6 + 1  # the box head stands twice in the file, and anchors are two tensors of ours
        assert {name: value.shape for name, value in own.items()} == {
            name: value.shape for name, value in model.state_dict().items()
        }
        assert_equal(to_official(own, model), theirs)

    def test_of_the_box_head_stand_for_one_tensor(self, shared: Path) -> None:
        manifest = json.loads((shared / "golden" / "dab_detr_r50" / "manifest.json").read_text())
        tensor = torch.randn(3)
        for alias, name in manifest["aliases"].items():
            (own,) = OFFICIAL.from_foreign({alias: tensor})
            assert list(OFFICIAL.from_foreign({name: tensor})) == [own]
            assert list(OFFICIAL.to_foreign({own: tensor})) == [name, alias]

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("query_source.patterns.weight", "transformer.patterns.weight"),
            ("query_source.content.weight", "tgt_embed.weight"),
            ("encoder.position_scale.layers.1.weight", "transformer.encoder.query_scale.layers.1.weight"),
            ("decoder.position_scale.layers.1.weight", "transformer.decoder.query_scale.layers.1.weight"),
            ("decoder.position_head.layers.1.bias", "transformer.decoder.ref_point_head.layers.1.bias"),
            ("decoder.side_head.layers.1.bias", "transformer.decoder.ref_anchor_head.layers.1.bias"),
            ("encoder.layers.1.feed_forward.activation.weight", "transformer.encoder.layers.1.activation.weight"),
            ("decoder.layers.1.feed_forward.activation.weight", "transformer.decoder.layers.1.activation.weight"),
            ("encoder.layers.1.attention.projection_bias", "transformer.encoder.layers.1.self_attn.in_proj_bias"),
            ("encoder.layers.1.attention.output.bias", "transformer.encoder.layers.1.self_attn.out_proj.bias"),
            ("encoder.layers.1.norm.bias", "transformer.encoder.layers.1.norm1.bias"),
            ("encoder.layers.1.feed_forward.norm.bias", "transformer.encoder.layers.1.norm2.bias"),
            ("decoder.layers.1.self_attention.content_query.weight", "transformer.decoder.layers.1.sa_qcontent_proj.weight"),
            ("decoder.layers.1.self_attention.position_query.weight", "transformer.decoder.layers.1.sa_qpos_proj.weight"),
            ("decoder.layers.1.self_attention.content_key.weight", "transformer.decoder.layers.1.sa_kcontent_proj.weight"),
            ("decoder.layers.1.self_attention.position_key.weight", "transformer.decoder.layers.1.sa_kpos_proj.weight"),
            ("decoder.layers.1.self_attention.value.bias", "transformer.decoder.layers.1.sa_v_proj.bias"),
            ("decoder.layers.1.self_attention.output.bias", "transformer.decoder.layers.1.self_attn.out_proj.bias"),
            ("decoder.layers.1.cross_attention.content_query.weight", "transformer.decoder.layers.1.ca_qcontent_proj.weight"),
            ("decoder.layers.1.cross_attention.spatial_query.weight", "transformer.decoder.layers.1.ca_qpos_sine_proj.weight"),
            ("decoder.layers.1.cross_attention.content_key.weight", "transformer.decoder.layers.1.ca_kcontent_proj.weight"),
            ("decoder.layers.1.cross_attention.spatial_key.weight", "transformer.decoder.layers.1.ca_kpos_proj.weight"),
            ("decoder.layers.1.cross_attention.value.bias", "transformer.decoder.layers.1.ca_v_proj.bias"),
            ("decoder.layers.1.cross_attention.output.bias", "transformer.decoder.layers.1.cross_attn.out_proj.bias"),
            ("decoder.layers.0.cross_attention.position_query.bias", "transformer.decoder.layers.0.ca_qpos_proj.bias"),
            ("decoder.layers.1.self_norm.weight", "transformer.decoder.layers.1.norm1.weight"),
            ("decoder.layers.1.cross_norm.weight", "transformer.decoder.layers.1.norm2.weight"),
            ("decoder.layers.1.feed_forward.norm.weight", "transformer.decoder.layers.1.norm3.weight"),
            ("decoder.layers.1.feed_forward.expand.weight", "transformer.decoder.layers.1.linear1.weight"),
            ("decoder.layers.1.feed_forward.contract.weight", "transformer.decoder.layers.1.linear2.weight"),
            ("decoder.norm.weight", "transformer.decoder.norm.weight"),
            ("heads.class_head.bias", "class_embed.bias"),
            ("neck.projections.0.weight", "input_proj.weight"),
            ("backbone.layer4.0.downsample.1.running_var", "backbone.0.body.layer4.0.downsample.1.running_var"),
        ],
    )  # fmt: skip
    def test_are_those_of_the_same_part(self, ours: str, theirs: str) -> None:
        tensor = torch.randn(3)
        assert list(OFFICIAL.to_foreign({ours: tensor})) == [theirs]
        assert list(OFFICIAL.from_foreign({theirs: tensor})) == [ours]

    def test_of_anchors_hold_centers_before_sides(self) -> None:
        anchors = torch.randn(5, 4)
        own = OFFICIAL.from_foreign({"refpoint_embed.weight": anchors})
        assert_equal(own, {"query_source.center_logits": anchors[:, :2], "query_source.side_logits": anchors[:, 2:]})
        assert_equal(OFFICIAL.to_foreign(own), {"refpoint_embed.weight": anchors})

    def test_of_separate_box_heads_have_numbers(self) -> None:
        """No published model has them, but the authors' class has the option."""
        tensor = torch.randn(3)
        names = ["bbox_embed.1.layers.2.bias", "transformer.decoder.bbox_embed.1.layers.2.bias"]
        assert list(OFFICIAL.to_foreign({"heads.box_heads.1.layers.2.bias": tensor})) == names
        assert list(OFFICIAL.from_foreign({names[1]: tensor})) == ["heads.box_heads.1.layers.2.bias"]

    def test_belong_to_one_rule_each(self, shared: Path) -> None:
        tables = [KeyMapping([rule]) for rule in OFFICIAL.rules]
        for name in published(shared, "dab_detr_r50_3patterns"):
            knowing = 0
            for table in tables:
                with contextlib.suppress(CheckpointError):
                    table.from_foreign({name: torch.zeros(1, 2)})
                    knowing += 1
            assert knowing == 1, name

    def test_only_the_first_layer_projects_positions_of_queries(self) -> None:
        with pytest.raises(CheckpointError, match="1 tensors have no place in this model"):
            OFFICIAL.from_foreign({"transformer.decoder.layers.1.ca_qpos_proj.weight": torch.zeros(1)})

    def test_of_a_relu_are_not_enough(self, tmp_path: Path) -> None:
        """The authors' option for another activation leaves its slopes out."""
        weights = {name: value for name, value in hollow("dab-detr-compact").items() if "activation" not in name}
        assert "it lacks 3 tensors such as 'decoder.layers.0.feed_forward.activation.weight'" in complaint(
            write(tmp_path / "file.pth", weights, nheads=4)
        )

    @pytest.mark.parametrize("mapping", [HUGGING_FACE, HUGGING_FACE_TIMM], ids=["own ResNet", "timm"])
    def test_distinguish_both_of_hugging_faces_backbones(self, shared: Path, mapping: KeyMapping) -> None:
        """`tests/parity/test_transformers_dab.py` reads what `transformers` writes."""
        own = OFFICIAL.from_foreign(published(shared, "dab_detr_r50_3patterns"))
        theirs = mapping.to_foreign(own)
        assert TABLE.layout(theirs) is mapping
        assert_equal(mapping.from_foreign(theirs), own)


class TestTheAuthorsFiles:
    @pytest.mark.parametrize("case", list(PUBLISHED))
    def test_say_their_variant_and_come_back_bit_for_bit(self, shared: Path, tmp_path: Path, case: str) -> None:
        variant, queries, _ = PUBLISHED[case]
        theirs = published(shared, case)
        model = load(write(tmp_path / "checkpoint.pth", theirs, **arguments_of(shared, case)))
        assert model.card.variant == variant
        assert model.card.config == skeleton(variant, queries=queries).card.config
        assert model.backbone.strides == ((16,) if variant.endswith("dc5") else (32,))
        assert model.card.categories == COCO_CATEGORIES
        assert_equal(to_official(model.state_dict(), model), theirs)

    @pytest.mark.parametrize(
        ("patterns", "candidates"),
        [
            (0, ["dab-detr-r50", "dab-detr-r50-dc5", "dab-detr-r50-dc5-fixxy"]),
            (3, ["dab-detr-r50-3patterns", "dab-detr-r50-dc5-3patterns"]),
        ],
    )
    def test_ask_for_the_variant_where_nothing_tells(
        self, tmp_path: Path, patterns: int, candidates: list[str]
    ) -> None:
        path = write(tmp_path / "file.pth", hollow("dab-detr-r50", patterns=patterns, attention_heads=8))
        assert complaint(path) == (
            f"{path} could be any of {', '.join(candidates)}, between which its contents do not decide: say which one with `variant`"
        )
        for variant in candidates:
            model = load(path, variant=variant)
            assert (model.card.variant, model.backbone.strides) == (variant, (16,) if "dc5" in variant else (32,))
            assert model.card.config["centers"] == ("random" if variant.endswith("fixxy") else "learned")
        other = "dab-detr-r50" if patterns else "dab-detr-r50-3patterns"
        assert complaint(path, variant=other) == f"{path} is not a {other}: its weights fit {' or '.join(candidates)}"

    @pytest.mark.parametrize(
        ("options", "variant"),
        [
            ({"dilation": False}, "dab-detr-r50"),
            ({"dilation": True}, "dab-detr-r50-dc5"),
            ({"dilation": True, "random_refpoints_xy": False}, "dab-detr-r50-dc5"),
            ({"dilation": True, "random_refpoints_xy": True}, "dab-detr-r50-dc5-fixxy"),
        ],
    )
    def test_stored_options_tell_dilation_and_fixed_centers(
        self, tmp_path: Path, options: dict[str, Any], variant: str
    ) -> None:
        path = write(tmp_path / "file.pth", hollow("dab-detr-r50"), nheads=4, **options)
        model = load(path)
        assert model.card.variant == variant
        assert model.card.config == skeleton(variant, **SMALL).card.config
        assert model.query_source.center_logits.requires_grad == (not variant.endswith("fixxy"))
        assert model.query_source.side_logits.requires_grad
        other = "dab-detr-r50" if "dc5" in variant else "dab-detr-r50-dc5"
        assert complaint(path, variant=other) == (
            f"{path} is a {variant}, as its contents say, not a {other}: leave `variant` out"
        )

    def test_fixed_centers_do_not_stand_for_dilation(self, tmp_path: Path) -> None:
        """The only variant with fixed centres is dilated, but such a file need not be."""
        path = write(tmp_path / "file.pth", hollow("dab-detr-r50"), nheads=4, dilation=False, random_refpoints_xy=True)
        model = load(path)
        assert model.card.config["centers"] == "random"
        assert model.backbone.strides == (32,)
        assert (model.card.variant, model.card.config["backbone"]) == ("dab-detr-r50", "resnet50")

    def test_any_number_of_patterns_tells_the_variant(self, tmp_path: Path) -> None:
        weights = hollow("dab-detr-r50", patterns=2, queries=10)
        model = load(write(tmp_path / "file.pth", weights, nheads=4, dilation=False))
        assert model.card.variant == "dab-detr-r50-3patterns"
        assert (model.card.config["patterns"], model.card.config["queries"]) == (2, 10)

    def test_of_the_deeper_backbone(self, tmp_path: Path) -> None:
        weights = hollow("dab-detr-r101")
        for dilation, variant in ((False, "dab-detr-r101"), (True, "dab-detr-r101-dc5")):
            model = load(write(tmp_path / "file.pth", weights, nheads=4, dilation=dilation))
            assert model.card.variant == variant
            assert model.card.config == skeleton(variant, **SMALL).card.config


class TestSettings:
    """Read from files of compact models, which are quick to build."""

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"attention_heads": 8, "hidden": 96, "class_count": 80},
            {"encoder_layers": 0},
            {"encoder_layers": 2, "decoder_layers": 3},
            {"patterns": 3},
            {"learned_content": True},
            {"patterns": 2, "learned_content": True},
            {"modulate": False},
            {"box_head_per_layer": True},
            {"box_head_per_layer": True, "modulate": False, "decoder_layers": 3},
        ],
        ids=str,
    )
    def test_of_changed_models_come_back_with_every_bit(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        model = build("dab-detr-compact", **{**SMALL, **changes})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        heads = model.card.config["attention_heads"]
        path = write(tmp_path / "file.pth", to_official(model.state_dict(), model), nheads=heads)
        again = load(path)
        assert again.card.config == model.card.config
        assert_equal(dict(again.state_dict()), dict(model.state_dict()))

    @pytest.mark.parametrize(
        ("options", "settings"),
        [
            ({"pe_temperatureH": 30, "pe_temperatureW": 30}, {"temperature": 30}),
            ({"pe_temperatureH": 7.5}, {"temperature": 7.5}),
            ({"pe_temperatureW": 10000, "pe_temperatureH": None}, {"temperature": 10000}),
            ({"temperature_height": 30, "temperature_width": 30}, {"temperature": 30}),
            ({"cls_loss_coef": 1.5}, {"class_weight": 1.5}),
            ({"bbox_loss_coef": 1.5}, {"l1_weight": 1.5}),
            ({"giou_loss_coef": 1.5}, {"giou_weight": 1.5}),
            ({"set_cost_class": 1.5}, {"class_cost": 1.5}),
            ({"set_cost_bbox": 1.5, "set_cost_giou": 3}, {"l1_cost": 1.5, "giou_cost": 3}),
            ({"sine_position_embedding_scale": 2 * math.pi}, {}),
            ({"cls_loss_coef": 0, "bbox_loss_coef": 3, "giou_loss_coef": 4}, {"class_weight": 0, "l1_weight": 3, "giou_weight": 4}),
            ({"cls_loss_coef": None}, {}),
            ({"random_refpoints_xy": True}, {"centers": "random"}),
            ({"random_refpoints_xy": None}, {}),
            ({"bbox_loss_coefficient": 7, "giou_loss_coefficient": 1.5}, {"l1_weight": 7, "giou_weight": 1.5}),
            ({"class_cost": 1.5, "bbox_cost": 7, "giou_cost": 3}, {"class_cost": 1.5, "l1_cost": 7, "giou_cost": 3}),
            ({"cls_loss_coefficient": 7, "num_queries": 7, "num_patterns": 7}, {}),
        ],
        ids=str,
    )  # fmt: skip
    def test_in_stored_options(self, tmp_path: Path, options: dict[str, Any], settings: dict[str, Any]) -> None:
        path = write(tmp_path / "file.pth", hollow("dab-detr-compact"), nheads=4, **options)
        assert load(path).card.config == skeleton("dab-detr-compact", **SMALL, **settings).card.config

    @pytest.mark.parametrize(
        ("options", "pairs"),
        [
            ({"pe_temperatureH": 20, "pe_temperatureW": 30}, "pe_temperatureH 20 and pe_temperatureW 30"),
            ({"temperature_height": 20, "temperature_width": 7.5}, "temperature_height 20 and temperature_width 7.5"),
        ],
    )
    def test_two_temperatures_are_refused(self, tmp_path: Path, options: dict[str, Any], pairs: str) -> None:
        path = write(tmp_path / "file.pth", hollow("dab-detr-compact"), nheads=4, **options)
        assert complaint(path) == (f"{path}: the settings have {pairs}: detrkit builds one temperature for both axes")

    def test_position_codes_of_more_than_one_turn_are_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "file.pth", hollow("dab-detr-compact"), nheads=4, sine_position_embedding_scale=12.0)
        assert complaint(path) == (
            f"{path}: the settings have sine_position_embedding_scale 12.0: detrkit builds position codes of one turn, 2 pi, only"
        )

    @pytest.mark.parametrize("name", ["pe_temperatureH", "cls_loss_coef"])
    @pytest.mark.parametrize("value", ["20", "x", [20], True, float("nan"), float("inf"), 10**400, torch.ones(2)])
    def test_that_should_be_numbers(self, tmp_path: Path, name: str, value: Any) -> None:
        path = write(tmp_path / "file.pth", hollow("dab-detr-compact"), nheads=4, **{name: value})
        assert complaint(path) == (
            f"{path}: the stored setting {name} must be a finite number, not {value!r}: correct it"
        )

    @pytest.mark.parametrize(
        "name", ["pe_temperatureW", "temperature_height", "bbox_loss_coef", "giou_loss_coef", "set_cost_class"]
    )
    def test_that_should_be_numbers_have_several_names(self, tmp_path: Path, name: str) -> None:
        path = write(tmp_path / "file.pth", hollow("dab-detr-compact"), nheads=4, **{name: "x"})
        assert complaint(path) == f"{path}: the stored setting {name} must be a finite number, not 'x': correct it"

    @pytest.mark.parametrize("value", ["False", 1, [], torch.ones(2)], ids=str)
    def test_that_should_be_true_or_false(self, tmp_path: Path, value: Any) -> None:
        path = write(tmp_path / "file.pth", hollow("dab-detr-compact"), nheads=4, random_refpoints_xy=value)
        assert complaint(path) == (
            f"{path}: the stored setting random_refpoints_xy must be true or false, not {value!r}: correct it"
        )

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"pe_temperatureH": 0}, "temperature must be at least 1, not 0.0"),
            ({"cls_loss_coef": -1}, "class_weight must be at least 0, not -1.0"),
            ({"nheads": 5}, "width 64 must be a multiple of 4 (sine and cosine of two axes) and of the 5 attention heads"),
        ],
        ids=str,
    )  # fmt: skip
    def test_that_cannot_be_built(self, tmp_path: Path, options: dict[str, Any], problem: str) -> None:
        path = write(tmp_path / "file.pth", hollow("dab-detr-compact"), **{"nheads": 4, **options})
        assert complaint(path) == (
            f"{path} has settings that detrkit cannot build ({problem}): correct those stored with the weights"
        )

    @pytest.mark.parametrize("name", ["cls_loss_coef", "pe_temperatureH"])
    def test_of_other_variants_rule_out_no_candidate(self, tmp_path: Path, name: str) -> None:
        """No variant has such values; they were changed for this model."""
        path = write(tmp_path / "file.pth", hollow("dab-detr-compact"), nheads=4, **{name: 3})
        assert load(path, variant="dab-detr-compact").card.variant == "dab-detr-compact"

    def test_of_a_part_of_a_model(self, shared: Path) -> None:
        own = OFFICIAL.from_foreign(published(shared, "dab_detr_r50"))
        del own["heads.class_head.weight"]
        with pytest.raises(CheckpointError) as caught:
            TABLE.fit_config(CATALOG["dab-detr-r50"].config, own, {})
        assert str(caught.value) == "the weights lack 'heads.class_head.weight': this is only a part of a DAB-DETR"


class TestTheBoxHeadUnderSeveralNames:
    @pytest.mark.parametrize("kept", ["bbox_embed", "transformer.decoder.bbox_embed"])
    def test_one_name_is_enough(self, tmp_path: Path, kept: str) -> None:
        model = build("dab-detr-compact", **SMALL)
        weights = to_official(model.state_dict(), model)
        wanted = {name: value for name, value in weights.items() if "bbox_embed" not in name or name.startswith(kept)}
        assert len(weights) - len(wanted) == 6
        again = load(write(tmp_path / "file.pth", wanted, nheads=4))
        assert_equal(dict(again.state_dict()), dict(model.state_dict()))

    def test_both_names_must_agree(self, tmp_path: Path) -> None:
        weights = hollow("dab-detr-compact")
        weights["transformer.decoder.bbox_embed.layers.2.bias"] = torch.ones(4)
        path = write(tmp_path / "file.pth", weights, nheads=4)
        assert complaint(path) == (
            f"{path}: 'bbox_embed.layers.2.bias' and 'transformer.decoder.bbox_embed.layers.2.bias' stand for one tensor "
            "but hold different values: the weights are of another model or damaged"
        )


@pytest.mark.parametrize("changes", [{}, {"modulate": False}, {"box_head_per_layer": True}, {"learned_content": True}])
def test_every_form_is_recognised_under_both_schemes(changes: dict[str, Any]) -> None:
    model = skeleton("dab-detr-r50", **SMALL, **changes)
    for weights in (to_official(model.state_dict(), model), HUGGING_FACE.to_foreign(model.state_dict())):
        recognised = recognise(weights)
        assert recognised is not None
        assert recognised.family == "dab_detr"


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        ("dn_dab_detr_r50", "a DN-DETR"),
        ("conditional_detr_r50", "a Conditional DETR"),
        ("dab_deformable_detr_r50", "a DAB-Deformable-DETR"),
        ("deformable_detr_r50", "a Deformable DETR"),
        ("detr_r50", "a DETR"),
        ("dino_r50_4scale", "a DINO"),
        ("anchor_detr_r50_c5", "an Anchor DETR"),
    ],
)
def test_relatives_are_refused_by_name(shared: Path, tmp_path: Path, case: str, problem: str) -> None:
    """In one sentence that ends in what to do, which depends on what detrkit builds."""
    path = write(tmp_path / "checkpoint.pth", published(shared, case))
    message = complaint(path, variant="dab-detr-r50")
    assert message.startswith(f"{path} holds {problem}, not a dab-detr-r50: ")
    remedies = ("leave `variant` out", f"detrkit does not build {problem.partition(' ')[2]} yet")
    assert message.endswith(remedies)


def test_others_variants_refuse_it(shared: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "checkpoint.pth", published(shared, "dab_detr_r50"))
    for variant in ("conditional-detr-r50", "dab-deformable-detr-r50", "detr-r50"):
        assert complaint(path, variant=variant) == f"{path} holds a DAB-DETR, not a {variant}: leave `variant` out"
