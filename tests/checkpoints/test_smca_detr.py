"""SMCA-DETR's files: shapes tell the kind of scale and the heads, stored arguments what distances are divided by."""

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
from detrkit.checkpoints.smca_detr import OFFICIAL
from detrkit.errors import CheckpointError
from detrkit.models.catalog import build

VARIANTS = {0: "smca-detr-r50-type1", 1: "smca-detr-r50-type2", 2: "smca-detr-r50", 3: "smca-detr-r50-type4"}
OFFSET, SCALE = ("transformer.decoder.layers.{}.point2.weight", "transformer.decoder.layers.{}.point3.weight")


class TestTheAuthorsNames:
    def test_have_a_place_each_and_lead_back(self, shared: Path) -> None:
        model, theirs = skeleton("smca-detr-r50", queries=40), published(shared, "smca_detr_r50")
        own = from_official(theirs, model)
        assert len(theirs) == len(own) == 500
        assert {name: value.shape for name, value in own.items()} == {
            name: value.shape for name, value in model.state_dict().items()
        }
        assert_equal(to_official(own, model), theirs)

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("query_source.position.weight", "query_embed.weight"),
            ("decoder.center_head.layers.2.bias", "transformer.decoder.layers.0.point1.layers.2.bias"),
            ("decoder.layers.1.gaussian.offset.bias", "transformer.decoder.layers.1.point2.bias"),
            ("decoder.layers.1.gaussian.scale.bias", "transformer.decoder.layers.1.point3.bias"),
            ("decoder.layers.1.gaussian_norm.bias", "transformer.decoder.layers.1.norm4.bias"),
            ("decoder.layers.1.self_norm.weight", "transformer.decoder.layers.1.norm1.weight"),
            ("decoder.layers.1.cross_norm.weight", "transformer.decoder.layers.1.norm2.weight"),
            ("decoder.layers.1.feed_forward.norm.weight", "transformer.decoder.layers.1.norm3.weight"),
            ("decoder.layers.1.self_attention.projection_bias", "transformer.decoder.layers.1.self_attn.in_proj_bias"),
            ("decoder.layers.1.cross_attention.projection_bias", "transformer.decoder.layers.1.multihead_attn.in_proj_bias"),
            ("encoder.layers.1.norm.bias", "transformer.encoder.layers.1.norm1.bias"),
            ("heads.box_head.layers.2.bias", "bbox_embed.layers.2.bias"),
        ],
    )  # fmt: skip
    def test_are_those_of_the_same_part(self, ours: str, theirs: str) -> None:
        tensor = torch.randn(3)
        assert list(OFFICIAL.to_foreign({ours: tensor})) == [theirs]
        assert list(OFFICIAL.from_foreign({theirs: tensor})) == [ours]

    def test_belong_to_one_rule_each(self, shared: Path) -> None:
        tables = [KeyMapping([rule]) for rule in OFFICIAL.rules]
        for name in published(shared, "smca_detr_r50"):
            knowing = 0
            for table in tables:
                with contextlib.suppress(CheckpointError):
                    table.from_foreign({name: torch.zeros(1, 2)})
                    knowing += 1
            assert knowing == 1, name

    def test_only_the_first_layer_guesses_centers(self) -> None:
        with pytest.raises(CheckpointError, match="1 tensors have no place in this model"):
            OFFICIAL.from_foreign({"transformer.decoder.layers.1.point1.layers.0.weight": torch.zeros(1)})


class TestTheAuthorsFiles:
    def test_come_back_bit_for_bit(self, shared: Path, tmp_path: Path) -> None:
        theirs = published(shared, "smca_detr_r50")
        counters = {f"backbone.0.body.{name}.num_batches_tracked": torch.tensor(0) for name in ("bn1", "layer2.0.bn3")}
        arguments = manifest_of(shared, "smca_detr_r50")["arguments"]
        model = load(write(tmp_path / "checkpoint.pth", theirs | counters, **arguments))
        assert model.card.variant == "smca-detr-r50"
        assert model.card.config == skeleton("smca-detr-r50", queries=40).card.config
        assert_equal(to_official(model.state_dict(), model), theirs)
        assert len(model.card.categories) == 80
        assert {category.name for category in model.card.categories} >= {"person", "toothbrush"}

    @pytest.mark.parametrize("scales", list(VARIANTS))
    def test_say_their_variant_by_their_shapes(self, tmp_path: Path, scales: int) -> None:
        model = load(write(tmp_path / "file.pth", hollow(VARIANTS[scales])))
        assert model.card.variant == VARIANTS[scales]
        assert model.card.config == skeleton(VARIANTS[scales], **SMALL).card.config
        other = VARIANTS[(scales + 1) % 4]
        assert complaint(tmp_path / "file.pth", variant=other) == (
            f"{tmp_path / 'file.pth'} is not a {other}: its weights fit {VARIANTS[scales]}"
        )

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"scales": 0},
            {"scales": 1, "attention_heads": 8},
            {"scales": 3, "attention_heads": 2, "hidden": 96, "class_count": 80},
            {"encoder_layers": 0, "queries": 9},
            {"encoder_layers": 2, "decoder_layers": 3, "width": 96},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("stored", [True, False])
    def test_of_changed_models_come_back_with_every_bit(
        self, tmp_path: Path, changes: dict[str, Any], stored: bool
    ) -> None:
        """Heads need no argument: each of them has two offsets."""
        model = build("smca-detr-compact", **{**SMALL, **changes})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        arguments = {"nheads": model.card.config["attention_heads"]} if stored else {}
        again = load(write(tmp_path / "file.pth", to_official(model.state_dict(), model), **arguments))
        assert again.card.config == model.card.config
        assert_equal(dict(again.state_dict()), dict(model.state_dict()))

    @pytest.mark.parametrize("smooth", [3, 12.5])
    def test_say_what_distances_are_divided_by(self, tmp_path: Path, smooth: float) -> None:
        model = load(write(tmp_path / "file.pth", hollow("smca-detr-compact"), smooth=smooth))
        assert model.card.config["smooth"] == smooth
        assert [layer.gaussian.smooth for layer in model.decoder.layers] == [smooth, smooth]
        assert type(model.card.config["smooth"]) is float

    def test_need_not_say_it(self, tmp_path: Path) -> None:
        for arguments in ({}, {"smooth": None}):
            path = write(tmp_path / "file.pth", hollow("smca-detr-compact"), **arguments)
            assert load(path).card.config["smooth"] == 8.0

    @pytest.mark.parametrize(
        "smooth", ["8", [8], True, float("nan"), float("inf"), 10**400, torch.ones(2)], ids=lambda value: str(value)[:9]
    )
    def test_have_no_number_there(self, tmp_path: Path, smooth: Any) -> None:
        path = write(tmp_path / "file.pth", hollow("smca-detr-compact"), smooth=smooth)
        assert complaint(path) == (
            f"{path}: the stored setting smooth must be a finite number, not {smooth!r}: correct it"
        )

    @pytest.mark.parametrize("smooth", [0, -8.0])
    def test_have_a_number_there_that_nothing_can_be_divided_by(self, tmp_path: Path, smooth: float) -> None:
        path = write(tmp_path / "file.pth", hollow("smca-detr-compact"), smooth=smooth)
        assert complaint(path) == f"{path}: the stored setting smooth must be above 0, not {smooth}: correct it"

    @pytest.mark.parametrize("scales", list(VARIANTS))
    def test_are_recognised(self, scales: int) -> None:
        recognised = recognise(hollow("smca-detr-compact", scales=scales))
        assert recognised is not None
        assert recognised.family == "smca_detr"


class TestDamagedFiles:
    def path(self, tmp_path: Path, changed: dict[str, Any], *removed: str) -> Path:
        weights = hollow("smca-detr-compact") | changed
        return write(tmp_path / "file.pth", {k: v for k, v in weights.items() if k not in removed}, nheads=4)

    def test_lack_a_tensor(self, tmp_path: Path) -> None:
        path = self.path(tmp_path, {}, OFFSET.format(1))
        assert complaint(path) == (
            f"{path} does not fit smca-detr-compact: it lacks 1 tensors such as 'decoder.layers.1.gaussian.offset.weight'; "
            "give the variant that it was trained as"
        )

    @pytest.mark.parametrize(("offsets", "scales"), [(8, 9), (8, 16), (8, 3), (0, 8), (0, 0)], ids=str)
    def test_have_scales_that_do_not_fit_offsets(self, tmp_path: Path, offsets: int, scales: int) -> None:
        changed = {OFFSET.format(0): torch.zeros(offsets, 64), SCALE.format(0): torch.zeros(scales, 64)}
        path = self.path(tmp_path, changed)
        assert complaint(path) == (
            f"{path}: {scales} scales do not fit {offsets} offsets: the weights are of another model"
        )

    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [
            (SCALE.format(0), "decoder.layers.0.gaussian.scale.weight"),
            ("class_embed.weight", "heads.class_head.weight"),
            ("transformer.decoder.layers.0.linear1.weight", "decoder.layers.0.feed_forward.expand.weight"),
        ],
    )
    def test_have_a_number_for_a_matrix(self, tmp_path: Path, theirs: str, ours: str) -> None:
        path = self.path(tmp_path, {theirs: torch.zeros(())})
        assert complaint(path) == (
            f"{path}: '{ours}' has the shape [], which it has in no model: the weights are of another model or damaged"
        )

    def test_have_offsets_of_a_number_of_heads_that_does_not_divide_the_width(self, tmp_path: Path) -> None:
        changed = {OFFSET.format(0): torch.zeros(10, 64), SCALE.format(0): torch.zeros(10, 64)}
        path = self.path(tmp_path, changed)
        assert complaint(path) == (
            f"{path} has settings that detrkit cannot build (width 64 must be a multiple of 4 (sine and cosine of two axes) and of the 5 "
            "attention heads): correct those stored with the weights"
        )

    def test_lack_the_class_head(self, tmp_path: Path) -> None:
        path = self.path(tmp_path, {}, "class_embed.weight")
        assert complaint(path) == (
            f"{path}: the weights lack 'heads.class_head.weight': this is only a part of an SMCA-DETR"
        )


def test_relatives_are_refused_by_name(shared: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "file.pth", hollow("smca-detr-compact"))
    for variant in ("detr-r50", "conditional-detr-r50", "smca-detr-r50-multiscale"):
        assert complaint(path, variant=variant) == f"{path} holds an SMCA-DETR, not a {variant}: leave `variant` out"
    path = write(tmp_path / "file.pth", published(shared, "detr_r50"))
    assert complaint(path, variant="smca-detr-r50") == (
        f"{path} holds a DETR, not a smca-detr-r50: leave `variant` out"
    )
