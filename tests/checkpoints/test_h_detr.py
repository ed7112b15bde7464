"""H-DETR's files: every name in the authors' file has its place, and shapes and stored options tell the two kinds of queries apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.authors_files import SMALL, assert_equal, complaint, hollow, manifest_of, published, skeleton, write

from detrkit.checkpoints import from_official, load, to_official
from detrkit.checkpoints.h_detr import official
from detrkit.errors import CheckpointError
from detrkit.models.catalog import CATALOG, build
from detrkit.models.coco_categories import COCO_CATEGORIES
from detrkit.models.h_detr import Config

CASE, VARIANT = "h_deformable_detr_r50", "h-deformable-detr-r50"
ONE_TO_ONE, COMPACT = "h-deformable-detr-r50-one-to-one", "h-deformable-detr-compact"
KINDS = {"queries": 40, "one_to_many_queries": 60}


class TestTheAuthorsNames:
    def test_have_a_place_each_and_lead_back(self, shared: Path) -> None:
        model, theirs = skeleton(VARIANT, **KINDS), published(shared, CASE)
        own = from_official(theirs, model)
        assert {name: value.shape for name, value in own.items()} == {
            name: value.shape for name, value in model.state_dict().items()
        }
        assert_equal(to_official(own, model), theirs)

    def test_of_heads_stand_for_one_tensor(self, shared: Path) -> None:
        mapping, tensor = official(Config()), torch.randn(3)
        for alias, name in manifest_of(shared, CASE)["aliases"].items():
            (own,) = mapping.from_foreign({alias: tensor})
            assert list(mapping.from_foreign({name: tensor})) == [own]
            assert list(mapping.to_foreign({own: tensor})) == [name, alias]

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("query_source.content.weight", "query_embed.weight"),
            ("query_source.position_projection.bias", "transformer.pos_trans.bias"),
            ("query_source.position_norm.bias", "transformer.pos_trans_norm.bias"),
            ("query_source.proposals.projection.bias", "transformer.enc_output.bias"),
            ("query_source.proposals.norm.bias", "transformer.enc_output_norm.bias"),
        ],
    )
    def test_that_could_be_mistaken_for_each_other(self, ours: str, theirs: str) -> None:
        mapping, tensor = official(Config()), torch.randn(3)
        assert list(mapping.to_foreign({ours: tensor})) == [theirs]
        assert list(mapping.from_foreign({theirs: tensor})) == [ours]

    def test_without_learned_content_are_two_stage_deformable_detrs(self) -> None:
        changes = {"hidden": 1024, "queries": 12}
        plain, ancestor = (
            skeleton(COMPACT, mixed_selection=False, **changes),
            skeleton("deformable-detr-compact-two-stage", **changes),
        )
        names, wanted = (to_official(model.state_dict(), model) for model in (plain, ancestor))
        assert {name: value.shape for name, value in names.items()} == {
            name: value.shape for name, value in wanted.items()
        }

    @pytest.mark.parametrize(
        "name", ["transformer.reference_points.weight", "refpoint_embed.weight", "tgt_embed.weight"]
    )
    def test_of_relatives_have_no_place(self, name: str) -> None:
        with pytest.raises(CheckpointError, match="1 tensors have no place in this model"):
            official(Config()).from_foreign({name: torch.zeros(1)})


class TestTheAuthorsFile:
    def test_says_its_variant_and_comes_back_bit_for_bit(self, shared: Path, tmp_path: Path) -> None:
        theirs = published(shared, CASE)
        model = load(write(tmp_path / "checkpoint.pth", theirs, **manifest_of(shared, CASE)["arguments"]))
        assert model.card.variant == VARIANT
        assert model.card.config == skeleton(VARIANT, **KINDS).card.config
        assert model.card.categories == COCO_CATEGORIES
        assert_equal(to_official(model.state_dict(), model), theirs)

    @pytest.mark.parametrize(("variant", "rows"), [(VARIANT, 1800), (ONE_TO_ONE, 300)])
    def test_of_the_published_size_needs_no_arguments(self, tmp_path: Path, variant: str, rows: int) -> None:
        weights = hollow(variant, queries=300, attention_heads=8)
        assert len(weights["query_embed.weight"]) == rows
        path = tmp_path / "checkpoint.pth"
        torch.save({"model": weights}, path)
        card = load(path).card
        assert card.variant == variant
        assert card.config == skeleton(variant, **SMALL | {"queries": 300, "attention_heads": 8}).card.config

    def test_of_a_baseline_is_not_the_hybrid_model(self, tmp_path: Path) -> None:
        path = write(tmp_path / "file.pth", hollow(ONE_TO_ONE), nheads=4, num_queries_one2one=6, num_queries_one2many=0)
        assert load(path).card.variant == ONE_TO_ONE
        assert complaint(path, variant=VARIANT) == (
            f"{path} is a {ONE_TO_ONE}, as its contents say, not a {VARIANT}: leave `variant` out"
        )

    def test_without_learned_content_is_a_deformable_detr(self, tmp_path: Path) -> None:
        """Its names and shapes are the same, and so is what it finds; the options of H-DETR's code are understood."""
        weights = hollow(VARIANT, mixed_selection=False)
        path = write(tmp_path / "file.pth", weights, nheads=4, num_queries_one2one=7, num_queries_one2many=20)
        card = load(path).card
        assert card.variant == "deformable-detr-r50-two-stage"
        assert card.config["queries"] == 7

    def test_of_an_unknown_split_wants_a_variant(self, tmp_path: Path) -> None:
        path = write(tmp_path / "file.pth", hollow(VARIANT, queries=100, one_to_many_queries=900), nheads=4)
        assert complaint(path) == (
            f"{path} could be any of {VARIANT}, {ONE_TO_ONE}, between which its contents do not decide: say which one with `variant`"
        )
        config = load(path, variant=VARIANT).card.config
        assert (config["queries"], config["one_to_many_queries"]) == (300, 700)


class TestSettings:
    """Read from files of compact models, which are quick to build."""

    @pytest.mark.parametrize(
        "changes",
        [
            {"one_to_many_queries": 12},
            {"one_to_many_queries": 0, "repeats": 2},
            {"one_to_many_queries": 3, "look_forward_twice": False, "levels": 4, "points": 2},
            {"one_to_many_queries": 3, "encoder_layers": 2, "decoder_layers": 3, "class_count": 80},
        ],
        ids=str,
    )
    def test_of_changed_models_come_back_with_every_bit(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        model = build(COMPACT, **{**SMALL, **changes})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        config = model.card.config
        again = load(
            write(
                tmp_path / "file.pth",
                to_official(model.state_dict(), model),
                nheads=config["attention_heads"],
                num_queries_one2one=config["queries"],
                num_queries_one2many=config["one_to_many_queries"],
                k_one2many=config["repeats"],
                look_forward_twice=config["look_forward_twice"],
            )
        )
        assert again.card.config == config
        assert_equal(dict(again.state_dict()), dict(model.state_dict()))

    @pytest.mark.parametrize(
        ("options", "kinds"),
        [
            ({"num_queries_one2one": 10, "num_queries_one2many": 40}, (10, 40)),
            ({"num_queries_one2one": 10}, (10, 40)),
            ({"num_queries_one2many": 40}, (10, 40)),
            ({"num_queries_one2one": 50, "num_queries_one2many": 0}, (50, 0)),
            ({"num_queries_one2one": None}, (30, 20)),  # as many as the variant has
            ({}, (30, 20)),
        ],
        ids=str,
    )
    def test_of_the_two_kinds_of_queries(self, tmp_path: Path, options: dict[str, Any], kinds: tuple[int, int]) -> None:
        path = write(tmp_path / "file.pth", hollow(COMPACT, queries=50, one_to_many_queries=0), nheads=4, **options)
        config = load(path).card.config
        assert (config["queries"], config["one_to_many_queries"]) == kinds

    def test_fewer_queries_than_the_variant_has_are_all_one_to_one(self, tmp_path: Path) -> None:
        config = load(
            write(tmp_path / "file.pth", hollow(COMPACT, queries=20, one_to_many_queries=0), nheads=4)
        ).card.config
        assert (config["queries"], config["one_to_many_queries"]) == (20, 0)

    @pytest.mark.parametrize(
        "options",
        [
            {"num_queries_one2one": 6, "num_queries_one2many": 5},
            {"num_queries_one2one": 9},
            {"num_queries_one2many": 8},
        ],
        ids=str,
    )
    def test_that_contradict_the_weights_are_refused(self, tmp_path: Path, options: dict[str, int]) -> None:
        path = write(tmp_path / "file.pth", hollow(COMPACT, one_to_many_queries=2), nheads=4, **options)
        assert complaint(path) == (
            f"{path}: the stored settings num_queries_one2one and num_queries_one2many do not add up to the 8 queries of the weights: correct them"
        )

    @pytest.mark.parametrize(
        ("option", "value", "wanted"),
        [
            ("num_queries_one2one", 0, "a whole number above 0"),
            ("num_queries_one2many", -1, "a whole number 0 or above"),
            ("k_one2many", "6", "a whole number above 0"),
            ("look_forward_twice", 1, "true or false"),
        ],
    )
    def test_of_another_kind_are_refused(self, tmp_path: Path, option: str, value: Any, wanted: str) -> None:
        path = write(tmp_path / "file.pth", hollow(COMPACT), nheads=4, **{option: value})
        assert complaint(path) == f"{path}: the stored setting {option} must be {wanted}, not {value!r}: correct it"

    def test_of_a_bare_state_dict_need_the_variant(self, tmp_path: Path) -> None:
        model = build(COMPACT, classes=["a", "b"])
        torch.save(model.state_dict(), tmp_path / "bare.pth")
        again = load(tmp_path / "bare.pth", variant=COMPACT, classes=["a", "b"])
        assert again.card.config == model.card.config
        assert_equal(dict(again.state_dict()), dict(model.state_dict()))


def test_every_published_file_has_a_name_of_its_own() -> None:
    tags = {name: [weights.tag for weights in CATALOG[name].weights] for name in (VARIANT, ONE_TO_ONE)}
    assert all(each == ["12 epochs", "36 epochs"] for each in tags.values())
    addresses = [weights.address for name in tags for weights in CATALOG[name].weights]
    assert addresses[0] == (
        "https://github.com/HDETR/H-Deformable-DETR/releases/download/v0.1/"
        "r50_hybrid_branch_lambda1_group6_t1500_dp0_mqs_lft_deformable_detr_plus_iterative_bbox_refinement_plus_plus_two_stage_12eps.pth"
    )
    assert len(set(addresses)) == 4
