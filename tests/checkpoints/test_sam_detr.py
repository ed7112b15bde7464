"""SAM-DETR's files: shapes tell heads, the Gaussian and the hidden width of the encoder, names whether levels are normed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.authors_files import SMALL, assert_equal, complaint, hollow, manifest_of, published, skeleton, write

from detrkit.checkpoints import from_official, load, to_official
from detrkit.checkpoints.key_mapping import KeyMapping
from detrkit.checkpoints.recognition import recognise
from detrkit.checkpoints.sam_detr import TABLE, official
from detrkit.errors import CheckpointError
from detrkit.models.catalog import CATALOG, build
from detrkit.models.coco_categories import COCO_CATEGORIES
from detrkit.models.sam_detr import Config

# The golden cases: their variant, what they have otherwise, and the number of names in the file.
PUBLISHED: dict[str, tuple[str, dict[str, Any], int]] = {
    "sam_detr_r50": ("sam-detr-r50", {}, 736),
    "sam_detr_r50_smca": ("sam-detr-r50-smca", {}, 736),
    "sam_detr_r50_dc5": ("sam-detr-r50-dc5", {"normed_levels": True}, 738),  # trained for 12 epochs
    "sam_detr_r50_multiscale": ("sam-detr-r50-multiscale-smca", {}, 771),
}
COMPACT = "sam-detr-compact"
LEVELS = {"levels": 2}
BOXES = "bbox_embed.{}.layers.{}.{}"


class TestTheAuthorsNames:
    @pytest.mark.parametrize("case", list(PUBLISHED))
    def test_have_a_place_each_and_lead_back(self, shared: Path, case: str) -> None:
        variant, changes, count = PUBLISHED[case]
        model, theirs = skeleton(variant, queries=40, **changes), published(shared, case)
        own = from_official(theirs, model)
        assert len(theirs) == count
        assert len(own) == count - 36  # box heads stand twice in the file
        assert {name: value.shape for name, value in own.items()} == {
            name: value.shape for name, value in model.state_dict().items()
        }
        assert_equal(to_official(own, model), theirs)

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("query_source.logits", "query_embed.weight"),
            ("neck.projections.0.0.weight", "input_proj.0.0.weight"),
            ("neck.projections.0.1.bias", "input_proj.0.1.bias"),
            ("decoder.layers.1.aligner.squeeze.weight", "transformer.decoder.layers.1.point1.0.weight"),
            ("decoder.layers.1.aligner.points.layers.0.bias", "transformer.decoder.layers.1.point2.0.bias"),
            ("decoder.layers.1.aligner.points.layers.3.bias", "transformer.decoder.layers.1.point2.6.bias"),
            ("decoder.layers.1.aligner.content_gate.bias", "transformer.decoder.layers.1.attn1.bias"),
            ("decoder.layers.1.aligner.position_gate.bias", "transformer.decoder.layers.1.attn2.bias"),
            ("decoder.layers.1.self_attention.content_query.weight", "transformer.decoder.layers.1.sa_qcontent_proj.weight"),
            ("decoder.layers.1.self_attention.position_key.weight", "transformer.decoder.layers.1.sa_kpos_proj.weight"),
            ("decoder.layers.1.self_attention.output.bias", "transformer.decoder.layers.1.self_attn.out_proj.bias"),
            ("decoder.layers.1.cross_attention.content_query.bias", "transformer.decoder.layers.1.ca_qcontent_proj.bias"),
            ("decoder.layers.1.cross_attention.content_key.bias", "transformer.decoder.layers.1.ca_kcontent_proj.bias"),
            ("decoder.layers.1.cross_attention.position_query.layers.1.bias", "transformer.decoder.layers.1.ca_qpos_sine_proj.layers.1.bias"),
            ("decoder.layers.1.cross_attention.position_key.layers.1.bias", "transformer.decoder.layers.1.ca_kpos_sine_proj.layers.1.bias"),
            ("decoder.layers.1.cross_attention.value.bias", "transformer.decoder.layers.1.ca_v_proj.bias"),
            ("decoder.layers.1.cross_attention.output.bias", "transformer.decoder.layers.1.cross_attn.out_proj.bias"),
            ("decoder.layers.1.self_norm.weight", "transformer.decoder.layers.1.norm1.weight"),
            ("decoder.layers.1.cross_norm.weight", "transformer.decoder.layers.1.norm2.weight"),
            ("decoder.layers.1.feed_forward.norm.weight", "transformer.decoder.layers.1.norm3.weight"),
            ("heads.class_heads.1.bias", "class_embed.1.bias"),
        ],
    )  # fmt: skip
    def test_are_those_of_the_same_part(self, ours: str, theirs: str) -> None:
        tensor = torch.randn(3)
        for levels in (1, 3):
            assert list(official(Config(levels=levels)).to_foreign({ours: tensor})) == [theirs]
            assert list(official(Config(levels=levels)).from_foreign({theirs: tensor})) == [ours]

    def test_of_the_encoder_depend_on_the_levels(self) -> None:
        one, several = official(Config()), official(Config(levels=3))
        tensor, layer = torch.randn(3), "transformer.encoder.layers.1"
        assert list(one.from_foreign({f"{layer}.self_attn.in_proj_bias": tensor})) == [
            "encoder.layers.1.attention.projection_bias"
        ]
        assert list(several.from_foreign({f"{layer}.self_attn.sampling_offsets.bias": tensor})) == [
            "encoder.layers.1.attention.offsets.bias"
        ]
        assert list(several.from_foreign({"transformer.level_embed": tensor})) == ["encoder.level_code"]

    @pytest.mark.parametrize("case", list(PUBLISHED))
    def test_belong_to_one_rule_each(self, shared: Path, case: str) -> None:
        theirs = published(shared, case)
        tables = [KeyMapping([rule]) for rule in TABLE.layout(theirs).rules]
        for name in theirs:
            knowing = 0
            for table in tables:
                with contextlib.suppress(CheckpointError):
                    table.from_foreign({name: torch.zeros(1, 2)})
                    knowing += 1
            assert knowing == 1, name


class TestTheAuthorsFiles:
    @pytest.mark.parametrize("case", list(PUBLISHED))
    def test_say_their_variant_and_come_back_bit_for_bit(self, shared: Path, tmp_path: Path, case: str) -> None:
        variant, changes, _ = PUBLISHED[case]
        theirs = published(shared, case)
        counters = {"backbone.0.body.layer2.0.bn3.num_batches_tracked": torch.tensor(0)}
        path = write(tmp_path / "checkpoint.pth", theirs | counters, **manifest_of(shared, case)["arguments"])
        model = load(path)
        assert model.card.variant == variant
        assert model.card.config == skeleton(variant, queries=40, **changes).card.config
        assert model.card.categories == COCO_CATEGORIES
        assert model.backbone.strides[-1] == (16 if "dc5" in variant else 32)
        assert_equal(to_official(model.state_dict(), model), theirs)

    @pytest.mark.parametrize("ending", ["", "-smca"])
    def test_ask_for_the_variant_where_nothing_tells(self, tmp_path: Path, ending: str) -> None:
        candidates = [f"sam-detr-r50{ending}", f"sam-detr-r50-dc5{ending}"]
        weights = hollow(candidates[0], attention_heads=8)
        path = write(tmp_path / "file.pth", weights)
        assert complaint(path) == (
            f"{path} could be any of {', '.join(candidates)}, between which its contents do not decide: say which one with `variant`"
        )
        for dilation, variant in zip((False, True), candidates, strict=True):
            assert load(path, variant=variant).backbone.strides == (16 if dilation else 32,)
            stored = write(tmp_path / "stored.pth", weights, dilation=dilation)
            model = load(stored)
            assert (model.card.variant, model.backbone.strides) == (variant, (16 if dilation else 32,))
        other = "sam-detr-r50" if ending else "sam-detr-r50-smca"
        assert complaint(path, variant=other) == f"{path} is not a {other}: its weights fit {' or '.join(candidates)}"

    @pytest.mark.parametrize("ending", ["", "-smca"])
    def test_of_several_levels_need_no_arguments(self, tmp_path: Path, ending: str) -> None:
        variant = f"sam-detr-r50-multiscale{ending}"
        model = load(write(tmp_path / "file.pth", hollow(variant)))
        assert model.card.variant == variant
        assert model.card.config == skeleton(variant, **SMALL).card.config

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"attention_heads": 8, "hidden": 96, "class_count": 80, "queries": 9},
            {"gaussian": True, "attention_heads": 2},
            {"normed_levels": False, "width": 96},
            {"encoder_layers": 0},
            {"encoder_layers": 2, "decoder_layers": 3},
            LEVELS,
            LEVELS | {"points": 2, "attention_heads": 8, "gaussian": True},
            LEVELS | {"encoder_layers": 2, "decoder_layers": 3, "normed_levels": False},
        ],
        ids=str,
    )
    def test_of_changed_models_come_back_with_every_bit(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        """Without any arguments."""
        model = build(COMPACT, **{**SMALL, **changes})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        again = load(write(tmp_path / "file.pth", to_official(model.state_dict(), model)), variant=COMPACT)
        assert again.card.config == model.card.config
        assert_equal(dict(again.state_dict()), dict(model.state_dict()))

    def test_of_a_model_without_cross_attention_come_back(self, tmp_path: Path) -> None:
        """Which is detrkit's own; only the names of the attention are missing."""
        variant = f"{COMPACT}-without-cross-attention"
        model = build(variant, **SMALL)
        weights = to_official(model.state_dict(), model)
        assert not any("ca_qcontent" in name for name in weights)
        again = load(write(tmp_path / "file.pth", weights))
        assert again.card.config == model.card.config
        assert_equal(dict(again.state_dict()), dict(model.state_dict()))

    @pytest.mark.parametrize("changes", [{}, {"gaussian": True}, LEVELS, {"cross_attention": False}], ids=str)
    def test_are_recognised(self, changes: dict[str, Any]) -> None:
        recognised = recognise(hollow(COMPACT, **changes))
        assert recognised is not None
        assert recognised.family == "sam_detr"


class TestBoxHeadsUnderTwoNames:
    @pytest.mark.parametrize("kept", ["bbox_embed", "transformer.decoder.bbox_embed"])
    def test_one_name_is_enough(self, tmp_path: Path, kept: str) -> None:
        model = build(COMPACT, **SMALL)
        weights = to_official(model.state_dict(), model)
        wanted = {name: value for name, value in weights.items() if "bbox_embed" not in name or name.startswith(kept)}
        assert len(weights) - len(wanted) == 12
        again = load(write(tmp_path / "file.pth", wanted))
        assert_equal(dict(again.state_dict()), dict(model.state_dict()))

    def test_both_names_must_agree(self, tmp_path: Path) -> None:
        weights = hollow(COMPACT)
        name = BOXES.format(1, 2, "bias")
        weights[f"transformer.decoder.{name}"] = torch.ones(4)
        path = write(tmp_path / "file.pth", weights)
        assert complaint(path) == (
            f"{path}: '{name}' and 'transformer.decoder.{name}' stand for one tensor but hold different values: "
            "the weights are of another model or damaged"
        )


class TestDamagedFiles:
    def path(self, tmp_path: Path, changed: dict[str, Any], *removed: str, **changes: Any) -> Path:
        weights = hollow(COMPACT, **changes) | changed
        return write(tmp_path / "file.pth", {k: v for k, v in weights.items() if k not in removed}, nheads=4)

    def test_lack_a_tensor(self, tmp_path: Path) -> None:
        path = self.path(tmp_path, {}, "transformer.decoder.layers.1.attn2.bias")
        assert complaint(path) == (
            f"{path} does not fit {COMPACT}: it lacks 1 tensors such as 'decoder.layers.1.aligner.position_gate.bias'; "
            "give the variant that it was trained as"
        )

    def test_lack_the_network_for_points(self, tmp_path: Path) -> None:
        path = self.path(tmp_path, {}, "transformer.decoder.layers.0.point2.6.weight")
        assert complaint(path) == f"{path}: the weights lack 'decoder.layers.0.aligner.points.layers.3.weight'"

    def test_lack_a_class_head(self, tmp_path: Path) -> None:
        path = self.path(tmp_path, {}, "class_embed.0.weight")
        assert complaint(path) == (
            f"{path}: the weights lack 'heads.class_heads.0.weight': this is only a part of a SAM-DETR"
        )

    @pytest.mark.parametrize("changes", [{}, LEVELS], ids=str)
    @pytest.mark.parametrize("gates", [0, 32])
    def test_have_less_than_one_gate(self, tmp_path: Path, changes: dict[str, Any], gates: int) -> None:
        path = self.path(tmp_path, {"transformer.decoder.layers.0.attn1.weight": torch.zeros(gates, 64)}, **changes)
        assert complaint(path, variant=COMPACT) == (
            f"{path} has settings that detrkit cannot build (attention_heads must be at least 1, not 0): correct those stored with the weights"
        )

    @pytest.mark.parametrize("gates", [100, 128])
    def test_have_gates_of_another_number_of_heads(self, tmp_path: Path, gates: int) -> None:
        path = self.path(tmp_path, {"transformer.decoder.layers.0.attn1.weight": torch.zeros(gates, 64)})
        message = complaint(path)
        assert message.startswith(f"{path} does not fit {COMPACT}: it has in another shape ")
        assert message.endswith(
            " tensors such as 'decoder.layers.0.aligner.content_gate.bias'; give the variant that it was trained as"
        )

    @pytest.mark.parametrize("numbers", [0, 6, 12])
    def test_have_points_that_do_not_fit_heads(self, tmp_path: Path, numbers: int) -> None:
        changed = {"transformer.decoder.layers.0.point2.6.weight": torch.zeros(numbers, 128)}
        path = self.path(tmp_path, changed)
        assert complaint(path) == (
            f"{path} does not fit {COMPACT}: it has in another shape 1 tensors such as 'decoder.layers.0.aligner.points.layers.3.weight'; "
            "give the variant that it was trained as"
        )

    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [
            ("class_embed.0.weight", "heads.class_heads.0.weight"),
            ("input_proj.0.0.weight", "neck.projections.0.0.weight"),
            ("transformer.decoder.layers.0.point2.6.weight", "decoder.layers.0.aligner.points.layers.3.weight"),
            ("transformer.decoder.layers.0.linear1.weight", "decoder.layers.0.feed_forward.expand.weight"),
        ],
    )
    def test_have_a_number_for_a_matrix(self, tmp_path: Path, theirs: str, ours: str) -> None:
        path = self.path(tmp_path, {theirs: torch.zeros(())})
        assert complaint(path) == (
            f"{path}: '{ours}' has the shape [], which it has in no model: the weights are of another model or damaged"
        )

    @pytest.mark.parametrize(
        ("shape", "problem"),
        [
            ((), ": '{}' has the shape [], which it has in no model: the weights are of another model or damaged"),
            (
                (0, 64),
                " does not fit sam-detr-compact: it has in another shape 1 tensors such as '{}'; give the variant that it was trained as",
            ),
            (
                (5, 64),
                " has settings that detrkit cannot build (points must be at least 1, not 0): correct those stored with the weights",
            ),
        ],
        ids=str,
    )
    def test_have_other_sampling_points(self, tmp_path: Path, shape: tuple[int, ...], problem: str) -> None:
        name = "transformer.encoder.layers.0.self_attn.attention_weights.weight"
        path = self.path(tmp_path, {name: torch.zeros(shape)}, **LEVELS)
        assert complaint(path) == f"{path}{problem.format('encoder.layers.0.attention.weights.weight')}"


def test_bare_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    """Without names of SAM-DETR, but with the name that all models of detrkit have."""
    model = build(COMPACT, **SMALL)
    bare = {name: value for name, value in model.state_dict().items() if "content_gate" not in name}
    path = write(tmp_path / "file.pth", bare)
    assert complaint(path, variant=COMPACT) == (
        f"{path} holds a detrkit model's weights that do not fit {COMPACT}: give the variant that it was trained as"
    )


def test_of_a_part_of_a_model() -> None:
    own = dict(skeleton("sam-detr-r50", **SMALL).state_dict())
    del own["decoder.layers.0.aligner.content_gate.weight"]
    with pytest.raises(CheckpointError) as caught:
        TABLE.fit_config(CATALOG["sam-detr-r50"].config, own, {})
    assert str(caught.value) == (
        "the weights lack 'decoder.layers.0.aligner.content_gate.weight': this is only a part of a SAM-DETR"
    )


def test_relatives_are_refused_by_name(shared: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "file.pth", hollow(COMPACT))
    for variant in ("conditional-detr-r50", "detr-r50", "smca-detr-r50"):
        assert complaint(path, variant=variant) == f"{path} holds a SAM-DETR, not a {variant}: leave `variant` out"
    path = write(tmp_path / "file.pth", published(shared, "conditional_detr_r50"))
    assert complaint(path, variant="sam-detr-r50") == (
        f"{path} holds a Conditional DETR, not a sam-detr-r50: leave `variant` out"
    )
