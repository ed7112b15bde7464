"""Which models can be built, with which classes, and the errors for wrong names."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from detrkit.backbones import build_backbone
from detrkit.cards import CAFFE_COLOURS, IMAGENET_COLOURS, Category, Colours, Preprocessing
from detrkit.errors import ConfigurationError
from detrkit.losses.criterion import SetCriterion
from detrkit.models import detr
from detrkit.models.catalog import (
    CATALOG,
    FAMILIES,
    as_categories,
    build,
    config_of,
    criterion_for,
    find_variant,
    selection_for,
)
from detrkit.models.coco_categories import COCO_CATEGORIES
from detrkit.structures import ImageBatch, LayerOutput

SMALL = {"width": 64, "hidden": 64, "attention_heads": 4, "encoder_layers": 1, "decoder_layers": 2, "queries": 5}


def test_every_variant_of_every_family_is_listed_once() -> None:
    assert list(CATALOG) == [name for module in FAMILIES.values() for name in module.VARIANTS]
    assert {"detr-r50", "detr-r50-dc5", "detr-r101", "detr-r18", "detr-compact"} <= set(CATALOG)


@pytest.mark.parametrize(
    ("variant", "file", "ap"),
    [
        ("detr-r50", "detr-r50-e632da11.pth", 0.420),
        ("detr-r50-dc5", "detr-r50-dc5-f0fb7ef5.pth", 0.433),
        ("detr-r101", "detr-r101-2c7b67e5.pth", 0.435),
        ("detr-r101-dc5", "detr-r101-dc5-a2e86def.pth", 0.449),
    ],
)
def test_published_weights(variant: str, file: str, ap: float) -> None:
    (weights,) = CATALOG[variant].weights
    assert weights.address == f"https://dl.fbaipublicfiles.com/detr/{file}"
    assert f"-{weights.sha256_prefix}.pth" in file
    assert weights.ap == ap
    assert weights.licence == "Apache-2.0"


@pytest.mark.parametrize(
    ("variant", "file", "ap"),
    [
        ("deformable-detr-r50", "1nDWZWHuRwtwGden77NLM9JoWe-YisJnA", 0.445),
        ("deformable-detr-r50-single-scale", "1WEjQ9_FgfI5sw5OZZ4ix-OKk-IJ_-SDU", 0.394),
        ("deformable-detr-r50-single-scale-dc5", "1m_TgMjzH7D44fbA-c_jiBZ-xf-odxGdk", 0.415),
        ("deformable-detr-r50-refine", "1JYKyRYzUH7uo9eVfDaVCiaIGZb5YTCuI", 0.462),
        ("deformable-detr-r50-two-stage", "15I03A7hNTpwuLNdfuEmW9_taZMNVssEp", 0.469),
    ],
)
def test_published_weights_of_deformable_detr(variant: str, file: str, ap: float) -> None:
    entry = CATALOG[variant]
    (weights,) = entry.weights
    assert weights.address == f"https://drive.google.com/file/d/{file}/view"
    assert (weights.sha256_prefix, weights.ap, weights.licence) == (None, ap, "Apache-2.0")
    recipe = entry.recipe
    assert (recipe.learning_rate, recipe.backbone_learning_rate, recipe.gradient_clip) == (2e-4, 2e-5, 0.1)
    assert (recipe.epochs, recipe.batch_size, recipe.schedule, recipe.drop_after) == (50, 32, "step", 0.8)
    assert recipe.slow_parts == ("offsets", "reference_points")
    assert entry.preprocessing == Preprocessing(short_side=800, long_side=1333)


def test_the_light_variant_is_small_in_every_way() -> None:
    entry = CATALOG["light-detr-mobilenetv2"]
    config, recipe = entry.config, entry.recipe
    assert (config.backbone, config.levels, config.queries, config.width, config.hidden) == (
        "mobilenet_v2",
        3,
        60,
        128,
        256,
    )
    assert (config.encoder_layers, config.decoder_layers, config.dropout) == (1, 4, 0.0)
    assert (config.distinct_overlap, config.denoising) == (0.8, 60)
    assert (config.class_weight, config.l1_weight, config.giou_weight) == (3.0, 5.0, 4.0)
    assert (recipe.learning_rate, recipe.backbone_learning_rate, recipe.gradient_clip) == (7e-4, 2e-4, 1.0)
    assert recipe.weight_decay == 0.02
    assert (recipe.epochs, recipe.batch_size, recipe.schedule, recipe.slow_parts) == (50, 4, "cosine", ())
    assert entry.preprocessing == Preprocessing(short_side=320, long_side=430)


def test_no_two_variants_claim_the_same_file() -> None:
    weights = [each for entry in CATALOG.values() for each in entry.weights]
    files = [each.address for each in weights if "/folders/" not in each.address]  # some authors give only a folder
    for known in ([each.sha256_prefix for each in weights if each.sha256_prefix], files):
        assert len(set(known)) == len(known)


@pytest.mark.parametrize("name", CATALOG)
def test_variants_have_the_colours_of_their_backbones(name: str) -> None:
    variant = CATALOG[name]
    with torch.device("meta"):
        assert variant.preprocessing.colours == build_backbone(variant.config.backbone).colours


@pytest.mark.parametrize(
    ("variant", "backbone", "colours"),
    [
        ("tsp-fcos-r50", "resnet50", IMAGENET_COLOURS),
        ("detr-r50", "resnet50-caffe", CAFFE_COLOURS),
        ("tsp-fcos-compact", "resnet101-caffe", CAFFE_COLOURS),
        ("tsp-rcnn-compact", "timm/test_convnext", Colours((0.5,) * 3, (0.5,) * 3)),
    ],
)
def test_another_backbone_brings_its_colours(variant: str, backbone: str, colours: Colours) -> None:
    if backbone.startswith("timm"):
        pytest.importorskip("timm", reason="needs timm: pip install '.[timm]'")
    sides = dataclasses.replace(CATALOG[variant].preprocessing, short_side=320, long_side=480)
    given = Preprocessing(mean=(0.1, 0.2, 0.3))
    with torch.device("meta"):
        model = build(variant, preprocessing=sides, backbone=backbone)
        own = build(variant, preprocessing=given, backbone=backbone)
    assert model.card.preprocessing.colours == colours
    assert model.card.preprocessing.short_side == 320
    assert own.card.preprocessing.colours == given.colours


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("detr-r5O", "did you mean 'detr-r50'?"),
        ("detr-r18c4", "did you mean 'detr-r18-c4'?"),
        ("yolo", "`detrkit models` lists all"),
    ],
)
def test_an_unknown_variant_names_the_closest(name: str, remedy: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_variant(name)
    assert str(caught.value).startswith(f"there is no variant '{name}': {remedy}")
    with pytest.raises(ConfigurationError, match="there is no variant"):
        build(name, classes=["a"])


def test_an_unknown_setting_names_the_closest() -> None:
    with pytest.raises(ConfigurationError) as caught:
        build("detr-compact", classes=["a"], querys=3)
    assert str(caught.value) == "there is no setting 'querys' in this family: did you mean 'queries'?"


def test_an_unknown_backbone_names_the_closest() -> None:
    with pytest.raises(ConfigurationError, match=r"^there is no backbone 'resnet5': did you mean 'resnet50'\?$"):
        build("detr-r50", classes=["a"], backbone="resnet5")


class TestClasses:
    def test_names_are_numbered_from_zero(self) -> None:
        assert as_categories(["cat", "dog"]) == (Category(0, "cat", 0), Category(1, "dog", 1))

    def test_categories_keep_their_ids_and_get_outputs_in_order(self) -> None:
        given = [Category(id=90, name="toothbrush", index=5), Category(id=3, name="car", index=5)]
        assert as_categories(given) == (Category(90, "toothbrush", 0), Category(3, "car", 1))

    @pytest.mark.parametrize("classes", [[], (), "cat"], ids=repr)
    def test_no_class_at_all(self, classes: object) -> None:
        with pytest.raises(ConfigurationError) as caught:
            as_categories(classes)
        assert str(caught.value) == (
            f'classes must be a list with at least one name, such as ["cat", "dog"], not {classes!r}'
        )

    def test_a_name_given_twice(self) -> None:
        with pytest.raises(ConfigurationError) as caught:
            build("detr-compact", classes=["cat", "dog", Category(7, "cat", 0)])
        assert str(caught.value) == "the class name 'cat' occurs twice: give every class a name of its own"

    def test_an_id_given_twice(self) -> None:
        # Two classes with the same id could not be distinguished in a result file.
        with pytest.raises(ConfigurationError, match="id 3"):
            as_categories([Category(3, "cat", 0), Category(3, "dog", 1)])

    def test_they_set_the_width_of_the_head(self) -> None:
        model = build("detr-compact", classes=["a", "b", "c"], **SMALL)
        assert model.heads.class_head.out_features == 4
        assert config_of(model).class_count == 3
        assert criterion_for(model).no_object == 3

    def test_without_any_the_head_is_the_authors_for_coco(self) -> None:
        model = build("detr-compact", **SMALL)
        assert model.heads.class_head.out_features == 92
        assert model.card.categories == COCO_CATEGORIES

    def test_coco_has_its_eighty_names_and_ids(self, shared: Path) -> None:
        text = (shared / "data" / "coco" / "annotations" / "instances_val.json").read_text(encoding="utf-8")
        wanted = {entry["id"]: entry["name"] for entry in json.loads(text)["categories"]}
        assert {category.id: category.name for category in COCO_CATEGORIES} == wanted
        assert all(category.index == category.id for category in COCO_CATEGORIES)
        assert len(COCO_CATEGORIES) == 80


class TestCards:
    def test_a_card_says_what_was_built(self) -> None:
        model = build("detr-compact", classes=["a"], **SMALL)
        assert (model.card.family, model.card.variant) == ("detr", "detr-compact")
        wanted = dataclasses.replace(CATALOG["detr-compact"].config, class_count=1, **SMALL)
        assert config_of(model) == wanted
        assert model.card.config == dataclasses.asdict(wanted)
        assert model.card.preprocessing == CATALOG["detr-compact"].preprocessing
        assert model.training

    def test_preprocessing_can_be_given(self) -> None:
        own = Preprocessing(short_side=480, long_side=640)
        assert build("detr-compact", classes=["a"], preprocessing=own, **SMALL).card.preprocessing == own
        assert build("detr-r18", classes=["a"], **SMALL).card.preprocessing == Preprocessing(800, 1333)


def test_changes_reach_model_and_criterion() -> None:
    model = build("detr-compact", classes=["a"], **{**SMALL, "queries": 7}, l1_weight=9.0)
    output = model(ImageBatch(torch.randn(1, 3, 64, 64)))
    assert output.logits.shape == (2, 1, 7, 2)
    criterion = criterion_for(model)
    assert isinstance(criterion, SetCriterion)
    assert criterion.weights["layers.1.l1"] == 9.0
    assert criterion.matcher.terms["l1"][1] == 9.0


def test_the_catalog_is_not_changed_by_building() -> None:
    before = CATALOG["detr-compact"].config
    build("detr-compact", classes=["a"], **SMALL)
    assert CATALOG["detr-compact"].config == before == detr.VARIANTS["detr-compact"].config


def test_selection_never_reports_an_output_without_a_name() -> None:
    model = build("detr-compact", **SMALL)
    named = {category.id for category in COCO_CATEGORIES}
    layer = LayerOutput(torch.randn(2, 300, 92) * 4, torch.rand(2, 300, 4))
    for found in selection_for(model)(layer, torch.tensor([[480, 640], [100, 100]])):
        assert set(found.labels.tolist()) <= named


@pytest.mark.parametrize(("setting", "value"), [("heads", 7), ("queries", -1), ("decoder_layers", 0), ("width", 66)])
def test_settings_that_cannot_work_are_refused_when_building(setting: str, value: int) -> None:
    with pytest.raises(ConfigurationError, match=setting):
        build("detr-compact", classes=["a"], **{**SMALL, setting: value})
