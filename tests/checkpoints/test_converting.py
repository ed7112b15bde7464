"""Weights in other forms: every bit comes back with all that is known about the model, and what a form cannot hold is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.authors_files import assert_equal, hollow, published, write
from checkpoints.small_models import MODELS, assert_same, small
from torch import Tensor

import detrkit
from detrkit.cards import Preprocessing
from detrkit.checkpoints import convert_weights, save_authors, save_hugging_face
from detrkit.checkpoints.hugging_face import stored_preprocessing
from detrkit.checkpoints.recognition import TABLES
from detrkit.errors import CheckpointError

IN_TRANSFORMERS = [
    "detr-r50", "conditional-detr-r50", "dab-detr-r50", "deformable-detr-r18", "deformable-detr-r18-two-stage", "detr-r50-panoptic",
]  # fmt: skip


@pytest.mark.parametrize("variant", MODELS)
def test_the_authors_form_and_back(variant: str, tmp_path: Path) -> None:
    model = small(variant)
    path = save_authors(model, tmp_path / "model.pth")
    content = torch.load(path, weights_only=True)
    assert content["args"]["backbone"] == "resnet18"
    assert content["args"]["nheads"] == model.card.config["attention_heads"]
    assert_equal(content["model"], detrkit.checkpoints.to_official(model.state_dict(), model))
    assert_same(detrkit.load(path), model)


@pytest.mark.parametrize("timm", [False, True], ids=["transformers' ResNet", "timm's ResNet"])
@pytest.mark.parametrize("variant", IN_TRANSFORMERS)
def test_hugging_faces_form_and_back(variant: str, timm: bool, tmp_path: Path) -> None:
    model = small(variant)
    save_hugging_face(model, tmp_path / "folder", timm_backbone=timm)
    assert sorted(each.name for each in (tmp_path / "folder").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    settings = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert settings["use_timm_backbone"] is timm
    assert settings["id2label"] == {"0": "cat", "1": "Hündin", "2": "N/A?"}
    assert_same(detrkit.load(tmp_path / "folder"), model)


def without_card(folder: Path) -> None:
    """Makes a folder of one that `transformers` would have written."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    weights = load_file(file)
    file.unlink()
    save_file(weights, file, {"format": "pt"})


@pytest.mark.parametrize("timm", [False, True], ids=["transformers' ResNet", "timm's ResNet"])
@pytest.mark.parametrize("variant", ["detr-r18", "dab-detr-r50-3patterns", "deformable-detr-r18-two-stage"])
def test_settings_alone_bring_back_most(variant: str, timm: bool, tmp_path: Path) -> None:
    """Where `transformers` wrote the folder again, its settings say what a model is, and how images are prepared."""
    model = small(variant)
    save_hugging_face(model, tmp_path / "folder", timm_backbone=timm)
    without_card(tmp_path / "folder")
    found = detrkit.load(tmp_path / "folder")
    assert found.card.variant == variant
    assert_equal(found.state_dict(), model.state_dict())
    assert found.card.preprocessing == model.card.preprocessing
    assert [each.name for each in found.card.categories] == ["cat", "Hündin", "N/A?"]
    kept = ("queries", "width", "hidden", "attention_heads", "encoder_layers", "decoder_layers", "class_count")
    for name in kept:
        assert found.card.config[name] == model.card.config[name], name


def test_dilation_travels_along(tmp_path: Path) -> None:
    model = small("detr-r50-dc5", backbone="resnet50-dc5")
    notes = save_hugging_face(model, tmp_path / "folder")
    assert notes == ("Note: the backbone is timm's, so opening the model needs the package timm beside transformers.",)
    assert_same(detrkit.load(tmp_path / "folder"), model)
    without_card(tmp_path / "folder")
    assert detrkit.load(tmp_path / "folder").card.variant == "detr-r50-dc5"
    save_authors(model, tmp_path / "model.pth")
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    torch.save({"model": content["model"], "args": content["args"]}, tmp_path / "model.pth")
    assert detrkit.load(tmp_path / "model.pth").card.variant == "detr-r50-dc5"


@pytest.mark.parametrize(
    ("case", "variant"),
    [
        ("detr_r50", "detr-r50"),
        ("conditional_detr_r50", "conditional-detr-r50"),
        ("dab_detr_r50_3patterns", "dab-detr-r50-3patterns"),
        ("deformable_detr_refine", "deformable-detr-r50-refine"),
    ],
)
def test_a_published_file_comes_back_tensor_for_tensor(case: str, variant: str, shared: Path, tmp_path: Path) -> None:
    weights: dict[str, Tensor] = published(shared, case)
    write(tmp_path / "theirs.pth", weights, dilation=False)
    own = convert_weights(tmp_path / "theirs.pth", tmp_path / "own.safetensors")
    assert (own.form, own.variant) == ("own", variant)
    again = convert_weights(tmp_path / "own.safetensors", tmp_path / "again.pth")
    assert (again.form, again.variant) == ("authors", variant)
    assert_equal(torch.load(again.path, weights_only=True)["model"], weights)
    assert detrkit.load(again.path).card == detrkit.load(own.path).card


def test_classes_are_renamed_in_the_settings(tmp_path: Path) -> None:
    save_hugging_face(small("detr-r50"), tmp_path / "folder")
    file = tmp_path / "folder" / "config.json"
    settings = json.loads(file.read_text())
    settings["id2label"]["1"] = "dog"
    file.write_text(json.dumps(settings))
    found = detrkit.load(tmp_path / "folder").card
    assert [(each.id, each.name) for each in found.categories] == [(7, "cat"), (9, "dog"), (3, "N/A?")]
    assert found.threshold == 0.37


@pytest.mark.parametrize(
    ("stored", "sides"),
    [
        ({"size": {"shortest_edge": 480, "longest_edge": 640}}, (480, 640)),
        ({"size": 600, "max_size": 1000}, (600, 1000)),
        ({"size": {"shortest_edge": 480}}, (480, 1333)),
        ({"size": {"max_height": 512, "max_width": 512}}, (512, 512)),
        ({}, (800, 1333)),
    ],
)
def test_sizes_as_their_releases_write_them(stored: dict[str, Any], sides: tuple[int, int], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    save_hugging_face(small("detr-r18"), folder)
    without_card(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**stored, "do_normalize": False}))
    found = detrkit.load(folder).card.preprocessing
    assert (found.short_side, found.long_side) == sides
    assert (found.mean, found.deviation) == ((0, 0, 0), (1, 1, 1))


def test_how_images_are_prepared_can_be_changed_in_a_folder_that_detrkit_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    model = small("detr-r18")
    save_hugging_face(model, folder)
    assert detrkit.load(folder).card.preprocessing == model.card.preprocessing
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "size": {"shortest_edge": 480, "longest_edge": 640}}))
    found = detrkit.load(folder).card.preprocessing
    assert (found.short_side, found.long_side) == (480, 640)


@pytest.mark.parametrize(
    "stored",
    [
        {"do_resize": False},
        {"do_rescale": False},
        {"rescale_factor": 1.0},
        {"resample": 3},
        {"image_std": [0.0, 0.0, 0.0]},
        {"image_mean": [float("nan"), 0.5, 0.5]},
        {"size": {"shortest_edge": 0}},
    ],
    ids=str,
)
def test_what_detrkit_does_not_do_to_images_is_refused(stored: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match="does not say how images are prepared in a way that detrkit knows"):
        stored_preprocessing(tmp_path / "model.safetensors", Preprocessing())


def test_images_of_a_fixed_size_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    save_hugging_face(small("detr-r18"), folder)
    without_card(folder)
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({"size": {"height": 640, "width": 640}}))
    with pytest.raises(CheckpointError) as caught:
        detrkit.load(folder)
    assert str(caught.value) == (
        f"{file} does not say how images are prepared in a way that detrkit knows (size {{'height': 640, 'width': 640}}, where detrkit takes "
        "shortest_edge and longest_edge): correct it, or take it away"
    )


def test_every_file_can_be_read_by_others(tmp_path: Path) -> None:
    """The library that writes safetensors makes files for their owner alone."""
    plain = tmp_path / "plain"
    plain.touch()
    model = small("detr-r18")
    save_hugging_face(model, tmp_path / "folder")
    detrkit.save(model, tmp_path / "own.safetensors")
    for file in (tmp_path / "own.safetensors", *(tmp_path / "folder").iterdir()):
        assert file.stat().st_mode == plain.stat().st_mode, file


REFUSED = [
    ("light-detr-compact", "authors", {}, "light-detr-compact has no authors' form, since it is detrkit's own"),
    (
        "deformable-detr-r50-panoptic",
        "authors",
        {},
        "deformable-detr-r50-panoptic has no authors' form, since their mask head does not fit several levels",
    ),
    (
        "detr-compact",
        "authors",
        {},
        "detr-compact has no authors' form: its backbone is compact, and the authors' code builds whole ResNets only",
    ),
    (
        "detr-r18-c4",
        "authors",
        {},
        "detr-r18-c4 has no authors' form: its backbone is resnet18-c4, and the authors' code builds whole ResNets only",
    ),
    (
        "dab-detr-r50",
        "authors",
        {"least_side": 0.01},
        "dab-detr-r50 has least_side 0.01, and the authors' code computes as with 0.0: it has no such form",
    ),
    (
        "sam-detr-r50",
        "huggingface",
        {},
        "sam-detr-r50 has no Hugging Face form, since transformers has no SAM-DETR that computes the same",
    ),
    (
        "conditional-detr-r50-panoptic",
        "huggingface",
        {},
        "conditional-detr-r50-panoptic has no Hugging Face form, since transformers has no Conditional DETR with masks that computes the same",
    ),
    (
        "deformable-detr-mobilenetv2",
        "huggingface",
        {},
        "deformable-detr-mobilenetv2 has no Hugging Face form: its backbone is mobilenet_v2, and transformers builds it with ResNets only",
    ),
    (
        "dab-detr-r50",
        "huggingface",
        {"temperature": 20.5},
        "dab-detr-r50 has no Hugging Face form: transformers takes whole temperatures only, and this model has 20.5",
    ),
    (
        "dab-detr-r50",
        "huggingface",
        {"box_head_per_layer": True},
        "dab-detr-r50 has box_head_per_layer True, and transformers computes as with False: it has no such form",
    ),
]


@pytest.mark.parametrize(("variant", "form", "changes", "sentence"), REFUSED)
def test_what_a_form_cannot_hold(
    variant: str, form: str, changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with torch.device("meta"):
        model = detrkit.build(variant, **changes)
    with pytest.raises(CheckpointError) as caught:
        save_authors(model, tmp_path / "x.pth") if form == "authors" else save_hugging_face(model, tmp_path / "x")
    assert str(caught.value) == sentence
    assert not list(tmp_path.iterdir())


def test_every_family_has_a_form_or_a_reason() -> None:
    assert {name for name, table in TABLES.items() if table.ours_alone} == {
        "light_detr",
        "deformable_detr_segmentation",
    }
    assert {name for name, table in TABLES.items() if table.hugging_face} == {
        "detr",
        "conditional_detr",
        "dab_detr",
        "deformable_detr",
        "detr_segmentation",
    }


@pytest.mark.parametrize(
    ("backbone", "timm", "sentence"),
    [
        (
            "resnet18-c4",
            True,
            "detr-r50 has no form with timm's backbone, which keeps its last stage: leave it to transformers",
        ),
        (
            "resnet50-dc5",
            False,
            "detr-r50 has a dilated backbone, which transformers has from timm only: take timm's",
        ),
        (
            "resnet50-caffe",
            False,
            "detr-r50 has no Hugging Face form: its backbone is resnet50-caffe, and other code has the stride in another convolution",
        ),
    ],
)
def test_backbones_of_one_side_alone(backbone: str, timm: bool, sentence: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        model = detrkit.build("detr-r50", backbone=backbone)
    with pytest.raises(CheckpointError) as caught:
        save_hugging_face(model, tmp_path / "x", timm_backbone=timm)
    assert str(caught.value) == sentence


def test_a_backbone_with_other_strides_has_no_authors_form(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = detrkit.build("detr-r50", backbone="resnet50-caffe")
    with pytest.raises(
        CheckpointError,
        match="its backbone is resnet50-caffe, and the authors' code has the stride in another convolution",
    ):
        save_authors(model, tmp_path / "x.pth")


def test_a_variant_where_the_file_does_not_tell(tmp_path: Path) -> None:
    weights = hollow("detr-r50")
    write(tmp_path / "theirs.pth", weights)
    with pytest.raises(CheckpointError, match="could be any of detr-r50, detr-r50-dc5, between which"):
        convert_weights(tmp_path / "theirs.pth", tmp_path / "own.safetensors")
    written = convert_weights(tmp_path / "theirs.pth", tmp_path / "own.safetensors", variant="detr-r50-dc5")
    assert written.variant == "detr-r50-dc5"
    assert_equal(
        detrkit.checkpoints.to_official(detrkit.load(written.path).state_dict(), detrkit.load(written.path)), weights
    )
