"""DINO's files: every name in the authors' file has its place, and shapes and stored options determine the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.authors_files import assert_equal, complaint, hollow, manifest_of, published, skeleton, write

from detrkit.checkpoints import from_official, load, to_official
from detrkit.checkpoints.dino import TABLE, official
from detrkit.errors import CheckpointError
from detrkit.models.dino import Config

CASE, VARIANT, FIVE = "dino_r50_4scale", "dino-r50-4scale", "dino-r50-5scale"


class TestTheAuthorsNames:
    def test_have_a_place_each_and_lead_back(self, shared: Path) -> None:
        model, theirs = skeleton(VARIANT, queries=40), published(shared, CASE)
        own = from_official(theirs, model)
        assert {name: value.shape for name, value in own.items()} == {
            name: value.shape for name, value in model.state_dict().items()
        }
        assert_equal(to_official(own, model), theirs)

    def test_of_heads_stand_for_one_pair(self, shared: Path) -> None:
        mapping, tensor = official(Config()), torch.randn(3)
        aliases = manifest_of(shared, CASE)["aliases"]
        assert (
            len(aliases) == 11 * 8
        )  # all but one of twelve names, of a class head and of a box head with three layers
        for alias, name in aliases.items():
            (own,) = mapping.from_foreign({alias: tensor})
            assert list(mapping.from_foreign({name: tensor})) == [own]

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("query_source.content.weight", "transformer.tgt_embed.weight"),
            ("query_source.denoising.embedding.weight", "label_enc.weight"),
            ("query_source.proposals.projection.weight", "transformer.enc_output.weight"),
            ("query_source.proposals.norm.weight", "transformer.enc_output_norm.weight"),
            ("query_source.proposals.class_head.weight", "transformer.enc_out_class_embed.weight"),
            ("query_source.proposals.box_head.layers.1.bias", "transformer.enc_out_bbox_embed.layers.1.bias"),
            ("decoder.position_head.layers.1.weight", "transformer.decoder.ref_point_head.layers.1.weight"),
            ("decoder.norm.weight", "transformer.decoder.norm.weight"),
            ("decoder.layers.1.cross_norm.weight", "transformer.decoder.layers.1.norm1.weight"),
            ("decoder.layers.1.self_norm.weight", "transformer.decoder.layers.1.norm2.weight"),
            ("decoder.layers.1.feed_forward.norm.bias", "transformer.decoder.layers.1.norm3.bias"),
            ("encoder.layers.1.norm.weight", "transformer.encoder.layers.1.norm1.weight"),
            ("encoder.level_code", "transformer.level_embed"),
            ("neck.projections.3.1.weight", "input_proj.3.1.weight"),
        ],
    )
    def test_that_could_be_mistaken_for_each_other(self, ours: str, theirs: str) -> None:
        mapping, tensor = official(Config()), torch.randn(3)
        assert list(mapping.to_foreign({ours: tensor})) == [theirs]
        assert list(mapping.from_foreign({theirs: tensor})) == [ours]

    @pytest.mark.parametrize(
        "name",
        [
            "query_embed.weight",
            "transformer.pos_trans.weight",
            "refpoint_embed.weight",
            "transformer.decoder.query_scale.layers.0.weight",
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
        assert model.card.config == {**skeleton(VARIANT, queries=40).card.config, "label_codes": 92}
        assert model.backbone.strides == (8, 16, 32)
        assert_equal(to_official(model.state_dict(), model), theirs)

    def test_needs_no_arguments(self, shared: Path, tmp_path: Path) -> None:
        path = tmp_path / "checkpoint.pth"
        torch.save({"model": published(shared, CASE)}, path)
        assert load(path).card.variant == VARIANT

    def test_of_five_scales_has_four_levels_of_the_backbone(self, tmp_path: Path) -> None:
        model = load(write(tmp_path / "file.pth", hollow(FIVE), nheads=4))
        assert model.card.variant == FIVE
        assert model.backbone.strides == (4, 8, 16, 32)
        assert model.coarsest_stride == 64

    def test_may_have_more_codes_than_classes(self, tmp_path: Path) -> None:
        """Whoever trains on other classes sets `dn_labelbook_size` to what he likes."""
        names = list("abcdefg")
        weights = hollow(VARIANT, classes=names, label_codes=31)
        model = load(write(tmp_path / "file.pth", weights, nheads=4), classes=names)
        assert (model.card.config["class_count"], model.card.config["label_codes"]) == (7, 31)
        assert to_official(model.state_dict(), model)["label_enc.weight"].shape == (31, 64)


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ({}, {}),
        ({"pe_temperatureH": 10, "pe_temperatureW": 10}, {"temperature": 10.0}),
        ({"dn_number": 50}, {"denoising": 100}),
        ({"dn_label_noise_ratio": 0.2, "dn_box_noise_scale": 0.4}, {"label_noise": 0.1, "box_noise": 0.4}),
        ({"cls_loss_coef": 2.0, "set_cost_bbox": 4.0}, {"class_weight": 2.0, "l1_cost": 4.0}),
    ],
)
def test_options_determine_settings(arguments: dict[str, Any], settings: dict[str, Any]) -> None:
    assert TABLE.stated(arguments) == settings


def test_two_temperatures_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "file.pth", hollow(VARIANT), nheads=4, pe_temperatureH=20, pe_temperatureW=40)
    assert "detrkit builds one temperature for both axes" in complaint(path)
