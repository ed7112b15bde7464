"""What detrkit writes for `transformers` opens there, sees a real photo as detrkit does, and comes back bit by bit.

Where `transformers` (5.23) computes otherwise, see the other files of this name: its DAB-DETR clamps the inverse sigmoid at 1e-5, the authors' at
1e-3, which shows at the image's border alone; its Conditional DETR with masks leaves out the reference points, so detrkit writes none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import detrkit
from detrkit.checkpoints import convert_weights, save_hugging_face
from detrkit.structures import ImageBatch, Output

transformers = pytest.importorskip("transformers", reason="needs the dev extra: pip install detrkit[dev]")

SIZES = {"width": 64, "hidden": 96, "attention_heads": 4, "encoder_layers": 1, "decoder_layers": 2, "queries": 12}
MASKS = {"width": 128, "attention_heads": 8}
MODELS: dict[str, dict[str, Any]] = {
    "detr-r50": {},
    "detr-r18-c4": {},
    "conditional-detr-r50": {"backbone": "resnet18"},
    "dab-detr-r50": {"backbone": "resnet18"},
    "dab-detr-r50-3patterns": {"backbone": "resnet18"},
    "deformable-detr-r18": {},
    "deformable-detr-r50-single-scale": {"backbone": "resnet18"},
    "deformable-detr-r50-refine": {"backbone": "resnet18"},
    "deformable-detr-r18-two-stage": {},
    "detr-r50-panoptic": {"backbone": "resnet18", **MASKS},
}
TIMM: dict[str, dict[str, Any]] = {
    "detr-r18": {},
    "detr-r50-dc5": {},
    "conditional-detr-r50-dc5": {},
    "dab-detr-r50-dc5-fixxy": {},
    "deformable-detr-r50-single-scale-dc5": {},
    "deformable-detr-r18": {},
    "detr-r50-dc5-panoptic": MASKS,
}


def small(variant: str, **settings: Any) -> detrkit.Detector:
    """A small model with weights that let every part matter."""
    torch.manual_seed(0)
    preprocessing = detrkit.Preprocessing(200, 300, deviation=(0.2, 0.25, 0.3))
    model = detrkit.build(variant, classes=["cat", "dog", "bird"], preprocessing=preprocessing, **{**SIZES, **settings})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "backbone" not in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.8, 1.2)
    return model.eval()


def opened(folder: Path) -> Any:
    """Their model, of which no weight was missing, and none left over."""
    masks = '"DetrForSegmentation"' in (folder / "config.json").read_text()
    kind = transformers.AutoModelForImageSegmentation if masks else transformers.AutoModelForObjectDetection
    model, found = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found
    return model.eval()


@pytest.fixture
def photo(shared: Path) -> Image.Image:
    return Image.open(shared / "data" / "coco" / "val" / "000000000139.jpg").convert("RGB")


def assert_agree(ours: detrkit.Detector, theirs: Any, processor: Any, photo: Image.Image) -> None:
    given = processor(images=photo, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**given)
        output: Output = ours(ImageBatch(given["pixel_values"]))
    torch.testing.assert_close(output.logits[-1], expected.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(output.boxes_cxcywh[-1], expected.pred_boxes, atol=2e-5, rtol=0)
    assert expected.logits.std(dim=1).min() > 1e-3  # queries that all say the same would agree too easily
    inputs = getattr(output, "mask_inputs", None)
    if inputs is not None:
        numbers = torch.arange(expected.pred_masks.shape[1])
        masks = ours.mask_logits(inputs, torch.zeros_like(numbers), numbers)  # type: ignore[operator]
        torch.testing.assert_close(masks, expected.pred_masks[0], atol=1e-4, rtol=0)


def check(variant: str, settings: dict[str, Any], folder: Path, photo: Image.Image, **options: Any) -> None:
    ours = small(variant, **settings)
    save_hugging_face(ours, folder, **options)
    theirs, processor = opened(folder), transformers.AutoImageProcessor.from_pretrained(folder)
    assert theirs.config.id2label == {0: "cat", 1: "dog", 2: "bird"}
    assert dict(processor.size) == {"shortest_edge": 200, "longest_edge": 300}
    assert list(processor.image_std) == [0.2, 0.25, 0.3]
    assert_agree(ours, theirs, processor, photo)


@pytest.mark.parametrize("variant", MODELS)
def test_it_opens_and_sees_the_same(variant: str, tmp_path: Path, photo: Image.Image) -> None:
    check(variant, MODELS[variant], tmp_path / "folder", photo)


@pytest.mark.parametrize("variant", TIMM)
def test_with_timms_backbone(variant: str, tmp_path: Path, photo: Image.Image) -> None:
    pytest.importorskip("timm", reason="needs timm: pip install timm")
    check(variant, TIMM[variant], tmp_path / "folder", photo, timm_backbone=True)


@pytest.mark.parametrize("variant", ["detr-r18-c4", "deformable-detr-r50-refine", "deformable-detr-r18-two-stage"])
def test_their_own_folder_comes_back_tensor_for_tensor(variant: str, tmp_path: Path) -> None:
    """`save_pretrained`, detrkit's own form, and a folder again."""
    save_hugging_face(small(variant, **MODELS[variant]), tmp_path / "first")
    opened(tmp_path / "first").save_pretrained(tmp_path / "theirs")
    transformers.AutoImageProcessor.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "theirs")
    fitting = variant if "refine" not in variant else None
    own = convert_weights(tmp_path / "theirs", tmp_path / "own.safetensors", variant=fitting)
    again = convert_weights(own.path, tmp_path / "again")
    theirs: dict[str, Tensor] = opened(tmp_path / "theirs").state_dict()
    written: dict[str, Tensor] = opened(again.path).state_dict()
    assert theirs.keys() == written.keys()
    for name, tensor in theirs.items():
        assert torch.equal(written[name], tensor), name
    in_file = load_file(again.path / "model.safetensors")
    for name, tensor in load_file(tmp_path / "theirs" / "model.safetensors").items():
        assert torch.equal(in_file[name], tensor), name
    card = detrkit.load(own.path).card
    assert (card.preprocessing.short_side, card.preprocessing.long_side) == (200, 300)
    assert [each.name for each in card.categories] == ["cat", "dog", "bird"]
