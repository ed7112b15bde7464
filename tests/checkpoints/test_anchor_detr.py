"""Anchor DETR's files: five projections in one matrix, heads that are written once a layer, and settings that shapes tell."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.authors_files import (
    SMALL,
    assert_equal,
    complaint,
    hollow,
    manifest_of,
    published,
    skeleton,
    write,
)

from detrkit.checkpoints import from_official, load, to_official
from detrkit.checkpoints.anchor_detr import TABLE, official
from detrkit.checkpoints.key_mapping import KeyMapping
from detrkit.checkpoints.recognition import recognise
from detrkit.errors import CheckpointError
from detrkit.models.anchor_detr import Config
from detrkit.models.catalog import CATALOG, build
from detrkit.models.coco_categories import COCO_CATEGORIES

PUBLISHED = {
    "anchor_detr_r50_c5": "anchor-detr-r50-c5",
    "anchor_detr_r50_dc5": "anchor-detr-r50-dc5",
    "anchor_detr_r50_c5_plain": "anchor-detr-r50-c5-plain",
}
UNUSED = "transformer.adapt_pos1d."  # of plain attention


def used(weights: dict[str, Any], case: str) -> dict[str, Any]:
    return {name: value for name, value in weights.items() if not (case.endswith("plain") and name.startswith(UNUSED))}


class TestTheAuthorsNames:
    @pytest.mark.parametrize("case", list(PUBLISHED))
    def test_have_a_place_each_and_lead_back(self, shared: Path, case: str) -> None:
        model, theirs = skeleton(PUBLISHED[case], queries=54), published(shared, case)
        assert len(theirs) == 507
        own = from_official(theirs, model)
        assert {name: value.shape for name, value in own.items()} == {
            name: value.shape for name, value in model.state_dict().items()
        }
        assert_equal(to_official(own, model), used(theirs, case))

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("query_source.patterns.weight", "transformer.pattern.weight"),
            ("query_source.points", "transformer.position.weight"),
            ("neck.projections.0.0.weight", "input_proj.0.0.weight"),
            ("neck.projections.0.1.bias", "input_proj.0.1.bias"),
            ("neck.position_encoding.point.layers.0.weight", "transformer.adapt_pos2d.0.weight"),
            ("neck.position_encoding.point.layers.1.bias", "transformer.adapt_pos2d.2.bias"),
            ("neck.position_encoding.line.layers.0.weight", "transformer.adapt_pos1d.0.weight"),
            ("neck.position_encoding.line.layers.1.bias", "transformer.adapt_pos1d.2.bias"),
            ("encoder.layers.1.attention.output.bias", "transformer.encoder_layers.1.self_attn.out_proj.bias"),
            ("encoder.layers.1.norm.bias", "transformer.encoder_layers.1.norm1.bias"),
            ("encoder.layers.1.feed_forward.norm.bias", "transformer.encoder_layers.1.ffn.norm2.bias"),
            ("encoder.layers.1.feed_forward.expand.bias", "transformer.encoder_layers.1.ffn.linear1.bias"),
            ("decoder.layers.1.feed_forward.contract.bias", "transformer.decoder_layers.1.ffn.linear2.bias"),
            ("decoder.layers.1.feed_forward.norm.bias", "transformer.decoder_layers.1.ffn.norm2.bias"),
            ("decoder.layers.1.self_attention.projection_bias", "transformer.decoder_layers.1.self_attn.in_proj_bias"),
            ("decoder.layers.1.self_attention.output.bias", "transformer.decoder_layers.1.self_attn.out_proj.bias"),
            ("decoder.layers.1.cross_attention.output.bias", "transformer.decoder_layers.1.cross_attn.out_proj.bias"),
            ("decoder.layers.1.self_norm.weight", "transformer.decoder_layers.1.norm2.weight"),
            ("decoder.layers.1.cross_norm.weight", "transformer.decoder_layers.1.norm1.weight"),
            ("backbone.layer4.0.downsample.1.running_var", "backbone.body.layer4.0.downsample.1.running_var"),
        ],
    )
    def test_are_those_of_the_same_part(self, ours: str, theirs: str) -> None:
        tensor, table = torch.randn(3), official(Config())
        assert list(table.to_foreign({ours: tensor})) == [theirs]
        assert list(table.from_foreign({theirs: tensor})) == [ours]

    def test_of_row_column_attention_hold_columns_before_rows(self) -> None:
        packed = torch.randn(5 * 4, 4)
        for ours, theirs in (
            ("encoder.layers.1.attention", "transformer.encoder_layers.1.self_attn"),
            ("decoder.layers.1.cross_attention", "transformer.decoder_layers.1.cross_attn"),
        ):
            own = official(Config()).from_foreign({f"{theirs}.in_proj_weight": packed})
            names = ("column_query", "row_query", "column_key", "row_key", "value")
            parts = {f"{ours}.{name}.weight": packed[4 * index : 4 * index + 4] for index, name in enumerate(names)}
            assert_equal(own, parts)
            assert_equal(official(Config()).to_foreign(own), {f"{theirs}.in_proj_weight": packed})

    def test_of_heads_are_written_once_a_layer(self) -> None:
        table, tensor = official(Config(decoder_layers=3)), torch.randn(3)
        names = [f"transformer.bbox_embed.{layer}.layers.2.bias" for layer in range(3)]
        assert list(table.to_foreign({"heads.box_head.layers.2.bias": tensor})) == names
        for name in names:
            assert list(table.from_foreign({name: tensor})) == ["heads.box_head.layers.2.bias"]
        names = [f"transformer.class_embed.{layer}.weight" for layer in range(3)]
        assert list(table.to_foreign({"heads.class_head.weight": tensor})) == names

    @pytest.mark.parametrize("case", list(PUBLISHED))
    def test_belong_to_one_rule_each(self, shared: Path, case: str) -> None:
        theirs = published(shared, case)
        tables = [KeyMapping([rule]) for rule in TABLE.layout(theirs).rules]
        for name in used(theirs, case):
            knowing = 0
            for table in tables:
                with contextlib.suppress(CheckpointError):
                    table.from_foreign({name: torch.zeros(15, 2)})
                    knowing += 1
            assert knowing == 1, name


def surroundings(plain: bool = False) -> dict[str, torch.Tensor]:
    """What the authors' files hold besides: counters of batches and of operations, and a network that plain attention does not use."""
    counters = {
        f"backbone.body.{name}.num_batches_tracked": torch.tensor(0)
        for name in ("bn1", "layer1.0.bn1", "layer4.0.downsample.1")
    }
    sums = {
        f"{module}total_{kind}": torch.zeros(1)
        for module in ("", "transformer.", "transformer.encoder_layers.0.self_attn.")
        for kind in ("ops", "params")
    }
    unused = {
        f"{UNUSED}{index}.{leaf}": torch.zeros(shape)
        for index in (0, 2)
        for leaf, shape in (("weight", (64, 64)), ("bias", (64,)))
    }
    return counters | sums | (unused if plain else {})


class TestTheAuthorsFiles:
    @pytest.mark.parametrize("case", list(PUBLISHED))
    def test_come_back_bit_for_bit(self, shared: Path, tmp_path: Path, case: str) -> None:
        """Only the arguments tell dilation; whether attention is row-column stands in the shapes."""
        theirs, variant = published(shared, case), PUBLISHED[case]
        path = write(tmp_path / "checkpoint.pth", theirs, **manifest_of(shared, case)["arguments"])
        model = load(path)
        assert model.card.variant == variant
        assert model.card.config == skeleton(variant, queries=54).card.config
        assert model.backbone.strides == ((16,) if "dc5" in variant else (32,))
        assert model.card.categories == COCO_CATEGORIES
        assert_equal(to_official(model.state_dict(), model), used(theirs, case))

    @pytest.mark.parametrize(
        ("row_column", "candidates"),
        [
            (True, ["anchor-detr-r50-c5", "anchor-detr-r50-dc5"]),
            (False, ["anchor-detr-r50-c5-plain", "anchor-detr-r50-dc5-plain"]),
        ],
    )
    def test_ask_for_the_variant_where_nothing_tells(
        self, tmp_path: Path, row_column: bool, candidates: list[str]
    ) -> None:
        weights = hollow(candidates[0], patterns=3, attention_heads=8) | surroundings(plain=not row_column)
        path = write(tmp_path / "file.pth", weights)
        assert complaint(path) == (
            f"{path} could be any of {', '.join(candidates)}, between which its contents do not decide: say which one with `variant`"
        )
        for variant in candidates:
            model = load(path, variant=variant)
            assert (model.card.variant, model.backbone.strides) == (variant, (16,) if "dc5" in variant else (32,))
            assert model.card.config["row_column"] is row_column
        other = "anchor-detr-r50-c5-plain" if row_column else "anchor-detr-r50-c5"
        assert complaint(path, variant=other) == f"{path} is not a {other}: its weights fit {' or '.join(candidates)}"
        for dilation, variant in zip((False, True), candidates, strict=True):
            path = write(tmp_path / "file.pth", weights, nheads=8, dilation=dilation)
            assert load(path).card.variant == variant

    def test_of_the_deeper_backbone(self, tmp_path: Path) -> None:
        weights = hollow("anchor-detr-r101-c5")
        for dilation, variant in ((False, "anchor-detr-r101-c5"), (True, "anchor-detr-r101-dc5")):
            model = load(write(tmp_path / "file.pth", weights, nheads=4, dilation=dilation))
            assert model.card.variant == variant
            assert model.card.config == skeleton(variant, **SMALL).card.config

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"attention_heads": 8, "hidden": 96, "class_count": 80},
            {"encoder_layers": 0},
            {"encoder_layers": 2, "decoder_layers": 3},
            {"patterns": 2, "queries": 10},
            {"patterns": 1, "queries": 5},
            {"width": 96},
            {"row_column": False},
            {"row_column": False, "encoder_layers": 0, "patterns": 6},
        ],
        ids=str,
    )
    def test_of_changed_models_come_back_with_every_bit(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        model = build("anchor-detr-compact", **{**SMALL, **changes})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        heads = model.card.config["attention_heads"]
        path = write(tmp_path / "file.pth", to_official(model.state_dict(), model), nheads=heads)
        again = load(path)
        assert again.card.config == model.card.config
        assert_equal(dict(again.state_dict()), dict(model.state_dict()))

    @pytest.mark.parametrize("row_column", [True, False])
    def test_are_recognised(self, row_column: bool) -> None:
        recognised = recognise(hollow("anchor-detr-compact", row_column=row_column))
        assert recognised is not None
        assert recognised.family == "anchor_detr"


class TestDamagedFiles:
    def path(self, tmp_path: Path, changed: dict[str, Any], *removed: str) -> Path:
        weights = hollow("anchor-detr-compact") | changed
        return write(tmp_path / "file.pth", {k: v for k, v in weights.items() if k not in removed}, nheads=4)

    def test_lack_a_tensor(self, tmp_path: Path) -> None:
        path = self.path(tmp_path, {}, "transformer.encoder_layers.0.norm1.bias")
        assert complaint(path) == (
            f"{path} does not fit anchor-detr-compact: it lacks 1 tensors such as 'encoder.layers.0.norm.bias'; "
            "give the variant that it was trained as"
        )

    def test_lack_the_class_head(self, tmp_path: Path) -> None:
        names = [f"transformer.class_embed.{layer}.weight" for layer in range(2)]
        path = self.path(tmp_path, {}, *names)
        assert complaint(path) == (
            f"{path}: the weights lack 'heads.class_head.weight': this is only a part of an Anchor DETR"
        )

    def test_have_heads_that_differ(self, tmp_path: Path) -> None:
        path = self.path(tmp_path, {"transformer.class_embed.1.bias": torch.ones(91)})
        assert complaint(path) == (
            f"{path}: 'transformer.class_embed.0.bias' and 'transformer.class_embed.1.bias' stand for one tensor but hold "
            "different values: the weights are of another model or damaged"
        )

    def test_have_something_else(self, tmp_path: Path) -> None:
        path = self.path(tmp_path, {"transformer.query_embed.weight": torch.zeros(2)})
        assert complaint(path) == (
            f"{path}: 1 tensors have no place in this model (transformer.query_embed.weight): the weights are of another model"
        )

    @pytest.mark.parametrize("shape", [(), (7,)], ids=str)
    def test_have_no_packed_matrix(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        name = "transformer.decoder_layers.0.cross_attn.in_proj_weight"
        path = self.path(tmp_path, {name: torch.zeros(shape)})
        assert complaint(path) == (
            f"{path}: '{name}' of shape {list(shape)} does not split into 5 equal parts: the weights are of another model"
        )

    @pytest.mark.parametrize("shape", [(3 * 64 + 1, 64), (64, 5 * 64)], ids=str)
    def test_have_a_packed_matrix_of_another_shape(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        """Which is then taken for plain attention's."""
        path = self.path(tmp_path, {"transformer.decoder_layers.0.cross_attn.in_proj_weight": torch.zeros(shape)})
        message = complaint(path)
        assert message.startswith(
            f"{path} does not fit anchor-detr-compact: it has in another shape 6 tensors such as "
        )
        assert "'decoder.layers.0.cross_attention.projection_bias'" in message

    def test_have_a_class_head_of_another_shape(self, tmp_path: Path) -> None:
        ours, theirs = "heads.class_head.weight", [f"transformer.class_embed.{layer}.weight" for layer in range(2)]
        path = self.path(tmp_path, dict.fromkeys(theirs, torch.zeros(())))
        assert complaint(path) == (
            f"{path}: '{ours}' has the shape [], which it has in no model: the weights are of another model or damaged"
        )
        path = self.path(tmp_path, dict.fromkeys(theirs, torch.zeros(91)))
        assert complaint(path) == (
            f"{path} does not fit anchor-detr-compact: it has in another shape 1 tensors such as '{ours}'; "
            "give the variant that it was trained as"
        )

    def test_of_heads_that_do_not_divide_the_width(self, tmp_path: Path) -> None:
        path = write(tmp_path / "file.pth", hollow("anchor-detr-compact"), nheads=5)
        assert complaint(path) == (
            f"{path} has settings that detrkit cannot build (width 64 must be a multiple of 4 (sine and cosine of two axes) and of the 5 "
            "attention heads): correct those stored with the weights"
        )


def test_of_a_part_of_a_model() -> None:
    own = dict(skeleton("anchor-detr-r50-c5", **SMALL).state_dict())
    del own["query_source.points"]
    with pytest.raises(CheckpointError, match=r"^the weights lack 'query_source.points'"):
        TABLE.fit_config(CATALOG["anchor-detr-r50-c5"].config, own, {})


def test_relatives_are_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "file.pth", hollow("anchor-detr-compact"))
    assert complaint(path, variant="detr-r50") == f"{path} holds an Anchor DETR, not a detr-r50: leave `variant` out"
    path = write(tmp_path / "file.pth", hollow("dab-detr-compact"))
    assert complaint(path, variant="anchor-detr-compact") == (
        f"{path} holds a DAB-DETR, not a anchor-detr-compact: leave `variant` out"
    )
