"""What a run starts from: by default, when it is told, without a network, and on other classes."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from misbehaving import serving
from rich.console import Console
from safetensors.torch import load_file
from training.small_runs import NOISY, SMALL, run

import detrkit
from detrkit.cards import Colours, PublishedWeights
from detrkit.checkpoints import published
from detrkit.checkpoints.detector_weights import load_detector
from detrkit.checkpoints.start_weights import Taken
from detrkit.errors import CheckpointError, ConfigurationError, DetrkitError
from detrkit.models.catalog import CATALOG
from detrkit.training import TrainingOptions, dry_run
from detrkit.training.before_data import check_before_data
from detrkit.training.options import resolve
from detrkit.training.resuming import Progress
from detrkit.training.run import Resumed, new_options, prepare
from detrkit.training.run_folder import RunFolder, colours_of, create
from detrkit.training.starting import _why_no_more, began_with, in_words
from detrkit.training.timing import PieceTimes

MOBILE = "light-detr-mobilenetv2"


def resolved(variant: str, **options: Any) -> TrainingOptions:
    return resolve(TrainingOptions(variant, "digits", **options))


@pytest.mark.parametrize(
    ("variant", "options", "weights"),
    [
        ("detr-r50", {}, "coco"),
        ("detr-r50", {"settings": {"queries": 300, "dropout": 0.0}}, "coco"),
        ("detr-r50", {"settings": {"width": 128}}, "backbone"),
        ("detr-r50", {"settings": {"backbone": "compact"}}, "none"),
        ("detr-r50", {"weights": "backbone"}, "backbone"),
        ("detr-r50", {"backbone_weights": "imagenet"}, "none"),
        ("detr-r50", {"backbone_weights": "resnet50.pth"}, "none"),
        ("detr-r50", {"queries_from": "other.pth"}, "none"),
        ("detr-r50-panoptic", {"detector_from": "other.pth"}, "none"),
        ("conditional-detr-r101-dc5", {}, "coco"),
        ("deformable-detr-r50", {}, "backbone"),  # whose files no program can download
        ("detr-r18-c4", {}, "backbone"),
        (MOBILE, {}, "backbone"),
        ("light-detr-compact", {}, "none"),
        ("light-detr-compact", {"weights": "none"}, "none"),
    ],
)
def test_what_a_run_starts_from_by_default(variant: str, options: dict[str, Any], weights: str) -> None:
    assert resolved(variant, **options).weights == weights


def test_files_become_absolute_and_words_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert resolved("detr-r50", weights="mine").weights == str(tmp_path / "mine")
    assert resolved("detr-r50", weights="gone.pth").weights == str(tmp_path / "gone.pth")
    assert resolved("detr-r50", weights="./coco").weights == str(tmp_path / "coco")
    options = resolved("detr-r50", backbone_weights="imagenet")
    assert options.backbone_weights == "imagenet"
    assert resolve(options) == options


@pytest.mark.parametrize(
    ("variant", "options", "sentence"),
    [
        ("detr-r50", {"weights": "cocoo"}, "weights must be coco, backbone, none, or a file or run folder that exists, not 'cocoo'"),
        ("detr-r50", {"weights": 3}, "weights must be of type str or none, not int (3)"),
        (
            "detr-r50",
            {"weights": "coco", "backbone_weights": "x.pth"},
            "weights already gives the backbone, and backbone_weights would replace it: leave one of them out",
        ),
        (
            "detr-r50",
            {"weights": "backbone", "backbone_weights": "x.pth"},
            "weights already gives the backbone, and backbone_weights would replace it: leave one of them out",
        ),
        (
            "detr-r50-panoptic",
            {"weights": "x.pth", "detector_from": "y.pth"},
            "detector_from gives the whole detector, so weights would change what must stay as it is: leave one of them out",
        ),
        (MOBILE, {"weights": "coco"}, f"there are no published COCO weights of {MOBILE}: leave weights out, or give a file of your own"),
        ("detr-compact", {"weights": "backbone"}, "there are no published ImageNet weights of the backbone compact: leave weights out"),
        (
            "detr-compact",
            {"backbone_weights": "imagenet"},
            "there are no published ImageNet weights of the backbone compact: leave backbone_weights out",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_weights_that_cannot_be_are_refused(variant: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolved(variant, **options)
    assert str(caught.value) == sentence


def test_weights_are_a_file_and_no_model() -> None:
    with pytest.raises(
        ConfigurationError, match=r"weights must be a file, not a model: save the model with detrkit\.save"
    ):
        detrkit.train("detr-compact", "digits", weights=detrkit.build("detr-compact"))  # type: ignore[arg-type]


def test_a_file_that_is_no_detector_is_refused(digits_folder: Path, shared: Path, tmp_path: Path) -> None:
    file = shared / "weights" / "mobilenet_v2_imagenet.safetensors"
    for weights, words in (
        (file, "holds a MobileNetV2 for classifying images, and a detector is needed"),
        (tmp_path / "gone.pth", "there is no weight file .*gone.pth: check the path"),
        (digits_folder, "is a folder without best.safetensors, last.safetensors"),
        ("https://example.org/x.pth", "https://example.org/x.pth is an address"),
    ):
        with pytest.raises(CheckpointError, match=words):
            run(digits_folder, tmp_path / "run", weights=weights, steps=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kept", "reset", "queries", "words"),
    [
        (2, 3, (8, 8, False), "2 of 5 classes kept (a, b), 3 reset (c, d, e)"),
        (5, 0, (8, 8, False), "all 5 classes kept (a, b, c and 2 more)"),
        (
            0,
            2,
            (9, 4, True),
            "none of its classes has the name of one of the 2 here, which are all reset (a, b); the first 4 of its 9 queries kept",
        ),
        (1, 0, (1, 4, True), "all 1 classes kept (a); its 1 query kept, 3 new ones drawn"),
        (1, 0, (9, 4, False), "all 1 classes kept (a); 4 queries instead of 9, which come from proposals"),
    ],
)
def test_what_was_kept_in_words(kept: int, reset: int, queries: tuple[int, int, bool], words: str) -> None:
    names = tuple("abcde"[: kept + reset])
    assert in_words(Taken("detr-r50", names[:kept], names[kept:], *queries)) == words


def test_what_a_run_began_with_in_words() -> None:
    assert began_with(resolved("detr-r50")) == "the COCO weights of detr-r50 (AP 0.420)"
    assert began_with(resolved(MOBILE)) == "the ImageNet weights of mobilenet_v2; everything else at random"
    assert began_with(resolved("detr-compact")) == "random weights"
    assert began_with(resolved("detr-r50", weights="/runs/first")) == "the detector in /runs/first"
    both = resolved("detr-r50", backbone_weights="imagenet", queries_from="/q.pth")
    assert began_with(both) == "the ImageNet weights of resnet50 and the queries in /q.pth; everything else at random"
    masks = resolved("detr-r50-panoptic", detector_from="/boxes")
    assert began_with(masks) == "the detector in /boxes, which stays as it is; the mask head at random"


def with_other_classes(data: Path, folder: Path) -> Path:
    """The same pictures, with other names for the last five of ten classes."""
    shutil.copytree(data, folder)
    for split in ("train", "val"):
        file = folder / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        for category in content["categories"]:
            if int(category["name"]) >= 5:
                category["name"] = f"new {category['name']}"
        file.write_text(json.dumps(content))
    return folder


def begun(variant: str, data: Path, resumed: Resumed | None = None, **options: Any) -> tuple[Any, str]:
    """The model with which a run begins its first step, and what was printed before."""
    text = io.StringIO()
    given = SMALL | {"device": "cpu"} | options
    module, _ = prepare(new_options(variant, data, given), resumed, Console(file=text, width=1000))
    return module.model, text.getvalue()


def saved(path: Path, variant: str, classes: list[str], **settings: Any) -> Path:
    torch.manual_seed(1)
    model = detrkit.build(variant, classes=classes, **SMALL["settings"] | settings)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_()
    return detrkit.save(model, path)


LIGHT: dict[str, Any] = NOISY["settings"]


def with_other_colours(path: Path) -> tuple[Path, Colours]:
    """A detector of the ten digits whose images had other means, deviations and another order of channels than ImageNet's."""
    colours = Colours((0.5, 0.4, 0.3), (0.25, 0.25, 0.25), "bgr")
    preprocessing = detrkit.Preprocessing(64, 64).with_colours(colours)
    digits = [str(each) for each in range(10)]
    model = detrkit.build("detr-compact", classes=digits, preprocessing=preprocessing, **SMALL["settings"])
    return detrkit.save(model, path), colours


def test_images_are_prepared_as_for_the_detector_that_a_run_begins_with(digits_folder: Path, tmp_path: Path) -> None:
    file, colours = with_other_colours(tmp_path / "trained.safetensors")
    model, printed = begun("detr-compact", digits_folder, weights=file)
    assert model.card.preprocessing.colours == colours
    assert " Images get its colours: mean 0.5, 0.4, 0.3, deviation 0.25, 0.25, 0.25, bgr." in printed
    masks = detrkit.build("detr-compact-panoptic", classes=[str(each) for each in range(10)], **SMALL["settings"])
    load_detector(masks, detrkit.save(detrkit.load(file), tmp_path / "again.safetensors"))
    assert masks.card.preprocessing.colours == colours


def test_images_stay_so_where_a_run_goes_on(digits_folder: Path, tmp_path: Path) -> None:
    file, colours = with_other_colours(tmp_path / "trained.safetensors")
    run(digits_folder, tmp_path / "run", epochs=1, weights=file)
    file.unlink()
    detrkit.train(resume=tmp_path / "run", epochs=2, device="cpu", console=Console(file=io.StringIO()))
    for name in ("best", "last"):
        stored = detrkit.load(tmp_path / "run" / f"{name}.safetensors")
        assert stored.card.preprocessing.colours == colours


@pytest.mark.parametrize(
    ("variant", "options", "warmup", "note"),
    [
        ("detr-compact", {"steps": 100, "schedule": "step"}, 50, ""),
        ("detr-compact", {"steps": 99, "schedule": "step"}, 9, "the recipe's 50 steps of warm-up are shortened to 9, since the run has 99 steps in all"),
        ("detr-compact", {"steps": 99, "schedule": "step", "warmup_steps": 60}, 60, ""),
    ],
)  # fmt: skip
def test_a_warm_up_for_longer_runs_is_shortened_and_said(
    variant: str, options: dict[str, Any], warmup: int, note: str, digits_folder: Path
) -> None:
    text = io.StringIO()
    chosen = new_options(variant, digits_folder, SMALL | {"device": "cpu"} | options)
    module, _ = prepare(chosen, None, Console(file=text, width=1000))
    (factor, *_) = module.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas
    assert next(step for step in range(100) if factor(step) == 1.0) == warmup - 1
    assert note in text.getvalue()
    assert ("of warm-up are shortened" in text.getvalue()) == bool(note)


def test_rates_for_a_batch_that_no_step_has_are_refused(digits_folder: Path) -> None:
    chosen = new_options("detr-compact", digits_folder, SMALL | {"batch_size": 32, "accumulate": 4, "scale_lr": True})
    with pytest.raises(ConfigurationError) as caught:
        prepare(chosen, None, Console(quiet=True))
    assert str(caught.value) == (
        "scale_lr would follow batches of 32, and the training split has only 12 images: give batch_size=8, or leave out scale_lr"
    )


@pytest.mark.parametrize(
    ("variant", "remedy"),
    [
        ("detr-r50", "choose weights=backbone, give a file of the pretrained backbone as backbone_weights, or train light-detr-compact"),
        (
            "tsp-fcos-r50",
            "give a file of the pretrained backbone as backbone_weights (its authors took detectron2's), or --settings.backbone resnet50, which is "
            "downloaded, or train light-detr-compact",
        ),
    ],
)  # fmt: skip
def test_frozen_norms_name_weights_that_there_are(variant: str, remedy: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_before_data(new_options(variant, "digits", {"weights": "none"}), Console(quiet=True), download=False)
    assert remedy in str(caught.value)


def test_a_run_without_noted_colours_has_those_of_its_models(digits_folder: Path, tmp_path: Path) -> None:
    file, colours = with_other_colours(tmp_path / "trained.safetensors")
    run(digits_folder, tmp_path / "run", epochs=1, weights=file)
    folder = RunFolder(tmp_path / "run")
    content = json.loads(folder.config.read_text())
    assert content["colours"] == {"mean": [0.5, 0.4, 0.3], "deviation": [0.25] * 3, "channels": "bgr"}
    del content["colours"]  # as older versions wrote it
    folder.config.write_text(json.dumps(content))
    assert colours_of(folder) == colours
    folder.last.unlink()
    assert colours_of(folder) is None


def test_a_run_on_other_classes_begins_with_what_was_learned(digits_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    file = saved(
        tmp_path / "first" / "best.safetensors", "light-detr-compact", [str(each) for each in range(10)], **LIGHT
    )
    data = with_other_classes(digits_folder, tmp_path / "data")
    weights: dict[str, Any] = {"weights": file.parent, "settings": {**LIGHT, "queries": 10}}
    model, printed = begun("light-detr-compact", data, **weights)
    assert (
        f"Starts from the detector in {file.parent}: 5 of 10 classes kept (0, 1, 2 and 2 more), 5 reset (new 5, new 6, new 7 and 2 more); "
        "its 8 queries kept, 2 new ones drawn.\n"
    ) in printed
    given = load_file(file)
    for layer in (0, 1):
        head = model.heads.class_heads[layer]
        assert torch.equal(head.weight[:5], given[f"heads.class_heads.{layer}.weight"][:5])
        assert torch.equal(head.bias[:5], given[f"heads.class_heads.{layer}.bias"][:5])
        assert head.bias[5:].sigmoid().tolist() == pytest.approx([0.01] * 5)
    codes = "query_source.denoising.embedding.weight"
    assert torch.equal(model.state_dict()[codes][:5], given[codes][:5])
    assert not (model.state_dict()[codes][5:] == given[codes][5:]).any()
    assert torch.equal(model.query_source.content.weight[:8], given["query_source.content.weight"])


def test_a_run_that_goes_on_does_not_begin_again(digits_folder: Path, tmp_path: Path) -> None:
    options = new_options("detr-compact", digits_folder, SMALL | {"device": "cpu", "output": str(tmp_path / "run")})
    folder = create(options, detrkit.open_dataset(digits_folder, "train"))
    gone = {"weights": str(tmp_path / "gone.safetensors")}
    _, printed = begun("detr-compact", digits_folder, Resumed(folder, options, Progress(1, 3)), **gone)
    assert "Starts from" not in printed
    _, printed = begun("detr-compact", digits_folder)
    assert "Starts from random weights.\n" in printed


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Lets the authors of `detr-compact` offer a file at an address."""
    monkeypatch.setenv("DETRKIT_CACHE", str(tmp_path / "cache"))

    def offer(address: str) -> None:
        usual = CATALOG["detr-compact"]
        config = dataclasses.replace(usual.config, **SMALL["settings"])
        published = (PublishedWeights(address, 0.4, "MIT"),)
        monkeypatch.setitem(CATALOG, "detr-compact", dataclasses.replace(usual, config=config, weights=published))

    return offer


def test_what_authors_offer_is_downloaded_by_default(digits_folder: Path, tmp_path: Path, offered: Any) -> None:
    file = saved(tmp_path / "file.safetensors", "detr-compact", ["7", "seven"])
    with serving(file.read_bytes()) as server:
        offered(server.address)
        model, printed = begun("detr-compact", digits_folder)
    assert [path for path, _ in server.asked] == ["/weights-of-someone.pth"]
    assert (
        "Starts from the COCO weights of detr-compact (AP 0.400): 1 of 10 classes kept (7), 9 reset (0, 1, 2 and 6 more).\n"
        in printed
    )
    given = load_file(file)
    assert torch.equal(model.heads.class_head.weight[[7, 10]], given["heads.class_head.weight"][[0, 2]])


def test_a_file_put_in_place_by_hand_is_known_by_its_names(digits_folder: Path, tmp_path: Path, offered: Any) -> None:
    """Google Drive gives no file to a program, and nothing to check it with: what is there must be a detector of the same paper."""
    offered("https://drive.google.com/file/d/1/view")
    place = tmp_path / "cache" / "detr-compact.pth"
    assert begun("detr-compact", digits_folder)[1].count("Starts from random weights.") == 1
    with pytest.raises(
        CheckpointError,
        match=r"get them from https://drive.google.com/file/d/1/view and put the file as .*detr-compact\.pth; or start",
    ):
        begun("detr-compact", digits_folder, weights="coco")
    place.parent.mkdir()
    saved(tmp_path / "file.safetensors", "detr-compact", ["7"]).rename(place)
    for given in ({"weights": "coco"}, {}):  # what was put there is used as what could be downloaded
        printed = begun("detr-compact", digits_folder, **given)[1]
        assert "Starts from the COCO weights of detr-compact (AP 0.400): 1 of 10" in printed
    saved(tmp_path / "file.safetensors", "conditional-detr-compact", ["7"]).rename(place)
    with pytest.raises(
        CheckpointError, match=r"detr-compact\.pth holds conditional-detr-compact, and detr-compact is of another"
    ):
        begun("detr-compact", digits_folder, weights="coco")


@pytest.mark.parametrize(
    ("variant", "settings", "words"),
    [
        ("detr-r50", {"width": 128}, " Its authors' COCO weights are of other settings (width)."),
        ("deformable-detr-r50", {"width": 128}, " Its authors' COCO weights are of other settings (width)."),
        ("deformable-detr-r50", {}, " Its authors' COCO weights can only be got by hand: --weights coco tells how."),
        ("detr-r50", {}, ""),
    ],
)
def test_why_a_run_does_not_start_from_more(variant: str, settings: dict[str, Any], words: str) -> None:
    options = resolved(variant, settings=settings)
    assert _why_no_more(options, {**options.settings, "class_count": 4}) == words


@pytest.fixture
def mobilenet(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """ImageNet weights of MobileNetV2 on a local server, and an empty cache."""
    content = (shared / "weights" / "mobilenet_v2_imagenet.safetensors").read_bytes()
    monkeypatch.setenv("DETRKIT_CACHE", str(tmp_path / "cache"))
    name = f"mobilenet_v2-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setitem(published._IMAGENET, "mobilenet_v2", name)
    with serving(content) as server:
        monkeypatch.setattr(published, "_TORCHVISION", server.address.rpartition("/")[0] + "/")
        yield server, tmp_path / "cache" / name


def test_weights_of_a_backbone_are_downloaded_by_the_run_alone(
    digits_folder: Path, mobilenet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, place = mobilenet
    monkeypatch.setattr("detrkit.training.rehearsal.time_pieces", lambda *_, **__: PieceTimes(1.0, 0.0, 0.0, 1))
    text, options = io.StringIO(), SMALL | {"settings": {"decoder_layers": 1}, "device": "cpu"}
    dry = str(dry_run(MOBILE, digits_folder, console=Console(file=text, width=1000), **options))
    address = f"{server.address.rpartition('/')[0]}/{place.name}"
    assert (server.asked, place.exists()) == ([], False)
    what = "the ImageNet weights of mobilenet_v2"
    assert (
        f"Will start from {what}, which the run downloads first: {address} to {place} (BSD-3-Clause).\n"
        in text.getvalue()
    )
    assert dry.endswith(
        f"Everything else was checked, nothing was written: the run first downloads {what} from {address} to {place}."
    )
    model, printed = begun(MOBILE, digits_folder, **options)
    assert len(server.asked) == 1
    assert f"Starts from {what}; everything else at random.\n" in printed
    assert torch.equal(model.backbone.blocks[0][0].weight, load_file(place)["features.0.0.weight"].float())


def test_without_a_network_the_default_fails_with_the_remedy(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETRKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(published, "_TORCHVISION", "http://127.0.0.1:9/")  # where nothing listens
    with pytest.raises(DetrkitError) as caught:
        run(digits_folder, tmp_path / "run", MOBILE, steps=1, settings={})
    assert str(caught.value) == (
        "the ImageNet weights of mobilenet_v2 cannot be downloaded (Connection refused): where there is a network, get "
        f"http://127.0.0.1:9/mobilenet_v2-b0353104.pth and put the file as {tmp_path / 'cache' / 'mobilenet_v2-b0353104.pth'}; or start from another "
        "file, with --weights FILE or --backbone-weights FILE"
    )
    assert not (tmp_path / "run").exists()
