"""The skeleton calls its parts in order, and nothing behind padding can matter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detrkit.models.catalog import build
from detrkit.models.detector import Detector, flatten_levels, without_padding
from detrkit.structures import FeatureMap, ImageBatch, Levels

SMALL = {"width": 64, "hidden": 64, "attention_heads": 4, "encoder_layers": 2, "decoder_layers": 2, "queries": 5}


@pytest.fixture
def model() -> Detector:
    return build("detr-r18-c4", classes=["a", "b", "c"], **SMALL).double().eval()


def padded_batch() -> ImageBatch:
    """An image without padding and one of 32 x 48 pixels, in a batch of 64 x 64."""
    padding = torch.zeros(2, 64, 64, dtype=torch.bool)
    padding[1, 32:], padding[1, :, 48:] = True, True
    return ImageBatch(torch.randn(2, 3, 64, 64, dtype=torch.float64), padding, torch.tensor([4, 9]))


def test_padded_pixels_become_zero_and_others_stay() -> None:
    batch = padded_batch()
    assert batch.padding is not None
    clean = without_padding(batch)
    for channel in range(3):
        assert not clean.pixels[:, channel][batch.padding].any()
        assert torch.equal(clean.pixels[:, channel][~batch.padding], batch.pixels[:, channel][~batch.padding])
    assert batch.pixels[:, 0][batch.padding].any()  # the input is unchanged
    assert clean.padding is batch.padding
    assert clean.image_ids is batch.image_ids


def test_a_batch_without_padding_is_not_copied() -> None:
    batch = ImageBatch(torch.randn(1, 3, 8, 8))
    assert without_padding(batch) is batch


def test_tokens_lie_row_by_row_level_after_level() -> None:
    maps = (torch.randn(2, 3, 2, 4), torch.randn(2, 3, 1, 2))
    positions = tuple(-level for level in maps)
    paddings = (torch.rand(2, 2, 4) < 0.5, torch.rand(2, 1, 2) < 0.5)
    memory = flatten_levels(Levels(maps, positions, paddings), torch.tensor([[32.0, 16.0], [16.0, 8.0]]))
    assert memory.level_sizes == ((2, 4), (1, 2))
    assert memory.padding is not None
    for level, (height, width), first in zip(range(2), memory.level_sizes, (0, 8), strict=True):
        for row in range(height):
            for column in range(width):
                token = first + row * width + column
                assert torch.equal(memory.tokens[:, token], maps[level][:, :, row, column])
                assert torch.equal(memory.positions[:, token], positions[level][:, :, row, column])
                assert torch.equal(memory.padding[:, token], paddings[level][:, row, column])
    for found, given in zip(memory.maps(), maps, strict=True):
        assert torch.equal(found, given)
    assert memory.image_sizes.tolist() == [[32, 16], [16, 8]]
    assert flatten_levels(Levels(maps, positions, (None, None)), memory.image_sizes).padding is None
    assert flatten_levels(Levels(maps, None, paddings), memory.image_sizes).positions is None


def test_stages_are_what_each_part_makes_of_the_one_before(model: Detector) -> None:
    batch = padded_batch()
    stages = model.stages(batch)
    (level,) = model.backbone(without_padding(batch))
    torch.testing.assert_close(stages.backbone[0].features, level.features)
    torch.testing.assert_close(stages.neck.maps[0], model.neck((level,)).maps[0])
    memory = model.encoder(flatten_levels(stages.neck, batch.image_sizes()))
    torch.testing.assert_close(stages.memory.tokens, memory.tokens)
    queries = model.query_source(memory, None)
    assert torch.equal(stages.queries.position, queries.position)
    decoded = model.decoder(queries, memory, model.heads)
    torch.testing.assert_close(stages.decoded.states, decoded.states)
    torch.testing.assert_close(stages.output.logits, model.heads(decoded).logits)
    output = model(batch)
    torch.testing.assert_close(output.logits, stages.output.logits)
    torch.testing.assert_close(output.boxes_cxcywh, stages.output.boxes_cxcywh)


def test_shapes_along_the_way(model: Detector) -> None:
    stages = model.stages(padded_batch())
    assert stages.backbone[0].features.shape == (2, 256, 4, 4)
    assert stages.backbone[0].stride == 16
    assert stages.neck.maps[0].shape == (2, 64, 4, 4)
    assert stages.memory.tokens.shape == (2, 16, 64)
    assert stages.memory.padding is not None
    assert stages.memory.padding.sum(1).tolist() == [0, 16 - 2 * 3]
    assert stages.queries.content.shape == (2, 5, 64)
    assert stages.decoded.states.shape == (2, 2, 5, 64)
    assert stages.output.logits.shape == (2, 2, 5, 4)
    assert stages.output.boxes_cxcywh.shape == (2, 2, 5, 4)


@pytest.mark.parametrize("value", [1e6, float("nan")])
def test_pixels_behind_padding_change_nothing(model: Detector, value: float) -> None:
    batch = padded_batch()
    assert batch.padding is not None
    other = ImageBatch(batch.pixels.masked_fill(batch.padding[:, None], value), batch.padding)
    first, second = model(batch), model(other)
    torch.testing.assert_close(first.logits, second.logits)
    torch.testing.assert_close(first.boxes_cxcywh, second.boxes_cxcywh)


def test_padding_itself_does_matter(model: Detector) -> None:
    batch = padded_batch()
    assert not torch.allclose(model(batch).logits[:, 1], model(ImageBatch(batch.pixels)).logits[:, 1])


def test_a_mask_without_padding_is_no_mask(model: Detector) -> None:
    pixels = padded_batch().pixels
    first, second = model(ImageBatch(pixels)), model(ImageBatch(pixels, torch.zeros(2, 64, 64, dtype=torch.bool)))
    torch.testing.assert_close(first.logits, second.logits)
    torch.testing.assert_close(first.boxes_cxcywh, second.boxes_cxcywh)


def test_images_of_a_batch_do_not_see_each_other(model: Detector) -> None:
    batch = padded_batch()
    assert batch.padding is not None
    together = model(batch)

    def alone(image: int) -> Tensor:
        part = slice(image, image + 1)
        return model(ImageBatch(batch.pixels[part], batch.padding[part])).logits[:, 0]

    for image in range(2):
        torch.testing.assert_close(together.logits[:, image], alone(image))


class Remembering(nn.Module):
    """A neck that records the padding of the images that it is given."""

    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.neck, self.paddings = neck, list[Tensor | None]()

    def forward(self, features: tuple[FeatureMap, ...], image_padding: Tensor | None = None) -> Levels:
        self.paddings.append(image_padding)
        return self.neck(features, image_padding)  # type: ignore[no-any-return]


def test_the_neck_gets_the_padding_of_the_images(model: Detector) -> None:
    batch, neck = padded_batch(), Remembering(model.neck)
    model.neck = neck
    model(batch)
    model(ImageBatch(batch.pixels))
    assert neck.paddings[0] is batch.padding
    assert neck.paddings[1] is None


def test_proposals_go_from_the_queries_to_the_output(model: Detector) -> None:
    assert model(padded_batch()).proposals is None
    two_stage = build("deformable-detr-compact-two-stage", classes=["a", "b"], queries=5).eval()
    stages = two_stage.stages(ImageBatch(torch.randn(1, 3, 64, 96)))
    assert stages.output.proposals is stages.queries.proposals
    assert stages.output.proposals is not None
    cells = 8 * 12 + 4 * 6 + 2 * 3
    assert stages.output.proposals.all.logits.shape == (1, cells, 2)
    assert stages.output.proposals.all.boxes_cxcywh.shape == (1, cells, 4)
