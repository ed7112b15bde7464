"""Multi-scale SMCA-DETR's files: projections by their number of channels, convolutions by the stride of their level."""

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
from detrkit.checkpoints.smca_multiscale import OFFICIAL
from detrkit.errors import CheckpointError
from detrkit.models.catalog import build

CASE, VARIANT, COMPACT = "smca_detr_r50_multiscale", "smca-detr-r50-multiscale", "smca-detr-compact-multiscale"


class TestTheAuthorsNames:
    def test_have_a_place_each_and_lead_back(self, shared: Path) -> None:
        model, theirs = skeleton(VARIANT, queries=40), published(shared, CASE)
        own = from_official(theirs, model)
        assert len(theirs) == len(own) == 593
        assert {name: value.shape for name, value in own.items()} == {
            name: value.shape for name, value in model.state_dict().items()
        }
        assert_equal(to_official(own, model), theirs)

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("neck.projections.0.0.weight", "input_proj_512.weight"),
            ("neck.projections.1.0.weight", "input_proj_1024.weight"),
            ("neck.projections.2.0.weight", "input_proj_2048.weight"),
            ("neck.projections.3.0.weight", "input_proj_2048_3.weight"),
            ("encoder.layers.1.enter.bias", "transformer.encoder.layers.1.conv_1.bias"),
            ("encoder.layers.1.leave.bias", "transformer.encoder.layers.1.conv_2.bias"),
            ("encoder.layers.1.within.0.bias", "transformer.encoder.layers.1.self_attn_8.bias"),
            ("encoder.layers.1.within.3.bias", "transformer.encoder.layers.1.self_attn_64.bias"),
            ("encoder.layers.1.to_coarser.bias", "transformer.encoder.layers.1.high_to_low.bias"),
            ("encoder.layers.1.to_finer.bias", "transformer.encoder.layers.1.low_to_high.bias"),
            ("encoder.reduce.bias", "transformer.conv.bias"),
            ("encoder.level_code", "transformer.level_embed"),
            ("decoder.layers.1.gaussian.level.bias", "transformer.decoder.layers.1.point4.bias"),
            ("decoder.layers.1.gaussian.offset.bias", "transformer.decoder.layers.1.point2.bias"),
        ],
    )
    def test_are_those_of_the_same_part(self, ours: str, theirs: str) -> None:
        tensor = torch.randn(3)
        assert list(OFFICIAL.to_foreign({ours: tensor})) == [theirs]
        assert list(OFFICIAL.from_foreign({theirs: tensor})) == [ours]

    def test_belong_to_one_rule_each(self, shared: Path) -> None:
        tables = [KeyMapping([rule]) for rule in OFFICIAL.rules]
        for name in published(shared, CASE):
            knowing = 0
            for table in tables:
                with contextlib.suppress(CheckpointError):
                    table.from_foreign({name: torch.zeros(1, 2)})
                    knowing += 1
            assert knowing == 1, name


class TestTheAuthorsFiles:
    def test_come_back_bit_for_bit(self, shared: Path, tmp_path: Path) -> None:
        theirs = published(shared, CASE)
        counters = {"backbone.0.body.layer2.0.bn3.num_batches_tracked": torch.tensor(0)}
        model = load(write(tmp_path / "checkpoint.pth", theirs | counters, **manifest_of(shared, CASE)["arguments"]))
        assert model.card.variant == VARIANT
        assert model.card.config == skeleton(VARIANT, queries=40).card.config
        assert_equal(to_official(model.state_dict(), model), theirs)

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"scales": 0, "levels": 2},
            {"scales": 1, "levels": 4, "attention_heads": 8},
            {"scales": 3, "hidden": 96, "class_count": 80, "attention_heads": 2},
            {"encoder_layers": 0},
            {"encoder_layers": 2, "decoder_layers": 3, "queries": 9, "width": 96},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("stored", [True, False])
    def test_of_changed_models_come_back_with_every_bit(
        self, tmp_path: Path, changes: dict[str, Any], stored: bool
    ) -> None:
        model = build(COMPACT, **{**SMALL, **changes})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        arguments = {"nheads": model.card.config["attention_heads"], "smooth": 8} if stored else {}
        again = load(write(tmp_path / "file.pth", to_official(model.state_dict(), model), **arguments))
        assert again.card.config == model.card.config
        assert_equal(dict(again.state_dict()), dict(model.state_dict()))

    def test_say_what_distances_are_divided_by(self, tmp_path: Path) -> None:
        model = load(write(tmp_path / "file.pth", hollow(COMPACT), smooth=4))
        assert model.card.config["smooth"] == 4.0
        assert model.decoder.layers[0].gaussian.smooth == (8.0, 8.0, 4.0)

    @pytest.mark.parametrize("changes", [{}, {"levels": 2}, {"levels": 4}, {"scales": 0}], ids=str)
    def test_are_recognised(self, changes: dict[str, Any]) -> None:
        """Those without encoder layers, too, which say it by the weights of levels."""
        for more in ({}, {"encoder_layers": 0}):
            recognised = recognise(hollow(COMPACT, **changes, **more))
            assert recognised is not None
            assert recognised.family == "smca_multiscale"


class TestDamagedFiles:
    def path(self, tmp_path: Path, changed: dict[str, Any], *removed: str) -> Path:
        weights = hollow(COMPACT) | changed
        return write(tmp_path / "file.pth", {k: v for k, v in weights.items() if k not in removed}, nheads=4)

    def test_lack_a_tensor(self, tmp_path: Path) -> None:
        path = self.path(tmp_path, {}, "transformer.decoder.layers.1.point4.weight")
        assert complaint(path) == (
            f"{path} does not fit {COMPACT}: it lacks 1 tensors such as 'decoder.layers.1.gaussian.level.weight'; "
            "give the variant that it was trained as"
        )

    def test_lack_the_levels(self, tmp_path: Path) -> None:
        path = self.path(tmp_path, {}, "transformer.level_embed")
        assert complaint(path) == f"{path}: the weights lack 'encoder.level_code'"

    @pytest.mark.parametrize("levels", [0, 1])
    def test_have_fewer_than_two_levels(self, tmp_path: Path, levels: int) -> None:
        path = self.path(tmp_path, {"transformer.level_embed": torch.zeros(levels, 64)})
        assert complaint(path) == (
            f"{path} has settings that detrkit cannot build (levels must be at least 2, not {levels}): correct those stored with the weights"
        )

    def test_have_a_number_for_the_levels(self, tmp_path: Path) -> None:
        path = self.path(tmp_path, {"transformer.level_embed": torch.zeros(())})
        assert complaint(path) == (
            f"{path}: 'encoder.level_code' has the shape [], which it has in no model: the weights are of another model or damaged"
        )

    def test_have_no_offsets(self, tmp_path: Path) -> None:
        path = self.path(tmp_path, {"transformer.decoder.layers.0.point2.weight": torch.zeros(0, 64)})
        assert complaint(path) == f"{path}: 48 scales do not fit 0 offsets: the weights are of another model".replace(
            "48", "24"
        )


def test_relatives_are_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "file.pth", hollow(COMPACT))
    for variant in ("smca-detr-r50", "deformable-detr-r50"):
        assert complaint(path, variant=variant) == (
            f"{path} holds a multi-scale SMCA-DETR, not a {variant}: leave `variant` out"
        )
