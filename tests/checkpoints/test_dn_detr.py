"""Files of DN-DETR and DN-DAB-Deformable-DETR: DAB's with codes of classes, and what the authors' options say about noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.authors_files import SMALL, assert_equal, complaint, hollow, manifest_of, published, skeleton, write

from detrkit.checkpoints import from_official, load, to_official
from detrkit.checkpoints.dn_detr import OFFICIAL
from detrkit.checkpoints.recognition import recognise
from detrkit.models.catalog import build
from detrkit.models.coco_categories import COCO_CATEGORIES

CASE, VARIANT, COMPACT = "dn_dab_detr_r50", "dn-dab-detr-r50", "dn-dab-detr-compact"
DEFORMABLE, DEFORMABLE_COMPACT = "dn-dab-deformable-detr-r50", "dn-dab-deformable-detr-compact"
CODES = "query_source.denoising.embedding.weight"


def recognised_as(weights: dict[str, torch.Tensor]) -> str | None:
    found = recognise(weights)
    return found and found.family


class TestTheAuthorsNames:
    def test_have_a_place_each_and_lead_back(self, shared: Path) -> None:
        model, theirs = skeleton(VARIANT, queries=40), published(shared, CASE)
        own = from_official(theirs, model)
        assert len(theirs) == 591
        assert len(own) == 591 - 6 + 1  # the box head stands twice in the file, and anchors are two tensors of ours
        assert {name: value.shape for name, value in own.items()} == {
            name: value.shape for name, value in model.state_dict().items()
        }
        assert own[CODES].shape == (92, 255)
        assert_equal(to_official(own, model), theirs)

    def test_of_the_codes_of_classes(self) -> None:
        codes = torch.randn(3)
        assert_equal(OFFICIAL.to_foreign({CODES: codes}), {"label_enc.weight": codes})
        assert_equal(OFFICIAL.from_foreign({"label_enc.weight": codes}), {CODES: codes})

    def test_of_the_deformable_form(self) -> None:
        """No reference data hold it; these are the names and shapes of what differs from DAB-Deformable-DETR's file."""
        model, ancestor = skeleton(DEFORMABLE), skeleton("dab-deformable-detr-r50")
        theirs, before = (to_official(each.state_dict(), each) for each in (model, ancestor))
        shapes = {name: tuple(value.shape) for name, value in theirs.items()}
        changed = {
            name: shape for name, shape in shapes.items() if name not in before or shape != tuple(before[name].shape)
        }
        assert changed == {"label_enc.weight": (92, 255), "tgt_embed.weight": (300, 255)}
        assert before.keys() < theirs.keys()


class TestTheAuthorsFiles:
    def test_say_their_variant_and_come_back_bit_for_bit(self, shared: Path, tmp_path: Path) -> None:
        theirs = published(shared, CASE)
        model = load(write(tmp_path / "checkpoint.pth", theirs, **manifest_of(shared, CASE)["arguments"]))
        assert model.card.variant == VARIANT
        assert model.card.config == skeleton(VARIANT, queries=40).card.config
        assert model.card.categories == COCO_CATEGORIES
        assert_equal(to_official(model.state_dict(), model), theirs)

    def test_ask_for_the_variant_where_nothing_tells(self, tmp_path: Path) -> None:
        path = write(tmp_path / "file.pth", hollow(VARIANT, attention_heads=8))
        assert complaint(path) == (
            f"{path} could be any of dn-dab-detr-r50, dn-dab-detr-r50-dc5, between which its contents do not decide: "
            "say which one with `variant`"
        )
        for variant in (VARIANT, f"{VARIANT}-dc5"):
            assert load(path, variant=variant).card.variant == variant

    @pytest.mark.parametrize(
        ("variant", "options"),
        [
            ("dn-dab-detr-r50-dc5", {}),
            ("dn-dab-detr-r50-dc5-3patterns", {"patterns": 3}),
            ("dn-dab-detr-r101-dc5-3patterns", {"patterns": 3}),
        ],
    )
    def test_with_dilation(self, tmp_path: Path, variant: str, options: dict[str, Any]) -> None:
        weights = hollow(variant, **options)
        model = load(write(tmp_path / "file.pth", weights, nheads=4, dilation=True))
        assert model.card.variant == variant
        assert model.card.config == skeleton(variant, **SMALL).card.config

    @pytest.mark.parametrize("variant", [COMPACT, DEFORMABLE_COMPACT])
    def test_of_changed_models_come_back_with_every_bit(self, tmp_path: Path, variant: str) -> None:
        model = build(variant, **SMALL, class_count=80)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        again = load(write(tmp_path / "file.pth", to_official(model.state_dict(), model), nheads=4))
        assert again.card.config == model.card.config
        assert_equal(dict(again.state_dict()), dict(model.state_dict()))

    def test_of_the_deformable_form_are_read(self, tmp_path: Path) -> None:
        model = load(write(tmp_path / "file.pth", hollow(DEFORMABLE), nheads=4, use_dn=True, scalar=5))
        assert model.card.variant == DEFORMABLE
        assert model.card.config == skeleton(DEFORMABLE, **SMALL).card.config


class TestStoredOptions:
    @pytest.mark.parametrize("variant", [COMPACT, DEFORMABLE_COMPACT])
    @pytest.mark.parametrize(
        ("options", "settings"),
        [
            ({"use_dn": True, "scalar": 3}, {"denoising_groups": 3}),
            ({"use_dn": True, "label_noise_scale": 0.5}, {"label_noise": 0.5}),
            ({"use_dn": True, "box_noise_scale": 0.1, "scalar": None}, {"box_noise": 0.1}),
            ({"use_dn": False, "scalar": 3, "box_noise_scale": 0.1}, {}),  # they had no effect
            ({"scalar": 3}, {}),
            ({"cls_loss_coef": 1.5, "set_cost_class": 3}, {"class_weight": 1.5, "class_cost": 3}),
        ],
        ids=str,
    )
    def test_about_noise_and_weights(
        self, tmp_path: Path, variant: str, options: dict[str, Any], settings: dict[str, Any]
    ) -> None:
        path = write(tmp_path / "file.pth", hollow(variant), nheads=4, **options)
        assert load(path).card.config == skeleton(variant, **SMALL, **settings).card.config

    def test_that_are_wrong_are_refused(self, tmp_path: Path) -> None:
        for name, value, kind in (("scalar", 0, "a whole number above 0"), ("box_noise_scale", "x", "a finite number")):
            path = write(tmp_path / "file.pth", hollow(COMPACT), nheads=4, use_dn=True, **{name: value})
            assert complaint(path) == f"{path}: the stored setting {name} must be {kind}, not {value!r}: correct it"
        path = write(tmp_path / "file.pth", hollow(COMPACT), nheads=4, use_dn=True, label_noise_scale=1.5)
        assert complaint(path) == (
            f"{path} has settings that detrkit cannot build (label_noise must be at most 1, not 1.5): correct those stored with the weights"
        )


class TestRecognition:
    def test_codes_tell_it_from_dab_detr(self) -> None:
        assert recognised_as(hollow(COMPACT)) == "dn_detr"
        assert recognised_as(hollow("dab-detr-compact")) == "dab_detr"
        assert recognised_as(hollow(DEFORMABLE_COMPACT)) == "dn_deformable_detr"
        wide = {**hollow(COMPACT), "label_enc.weight": torch.zeros(92, 64)}  # without a channel for the indicator
        assert recognised_as(wide) == "dab_detr"

    def test_others_variants_refuse_it_and_it_refuses_theirs(self, tmp_path: Path) -> None:
        path = write(tmp_path / "file.pth", hollow(VARIANT))
        for variant in ("dab-detr-r50", DEFORMABLE):
            assert complaint(path, variant=variant) == f"{path} holds a DN-DETR, not a {variant}: leave `variant` out"
        for ancestor, name in (("dab-detr-r50", "DAB-DETR"), (DEFORMABLE, "DN-DAB-Deformable-DETR")):
            path = write(tmp_path / "file.pth", hollow(ancestor))
            assert complaint(path, variant=VARIANT) == f"{path} holds a {name}, not a {VARIANT}: leave `variant` out"

    def test_the_form_with_dense_attention_to_several_levels_is_named(self, tmp_path: Path) -> None:
        """Three of the authors' published files are of this kind."""
        weights = {**hollow(VARIANT), "transformer.decoder.layers.0.lvl_attn.weight": torch.zeros(4, 64)}
        path = write(tmp_path / "file.pth", weights)
        assert complaint(path) == (
            f"{path} is a checkpoint of DN-DAB-Deformable-DETR with dense attention in the decoder, which detrkit does not build yet"
        )
