"""A trained detector as the start for other classes: which of its numbers are kept, bit for bit, and which are those of a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.authors_files import SMALL, write
from torch import Tensor

from detrkit.checkpoints import save, to_official
from detrkit.checkpoints.start_weights import _FREE, Taken, load_start
from detrkit.errors import CheckpointError
from detrkit.models.catalog import CATALOG, FAMILIES, build
from detrkit.models.detector import Detector

TRAINED = ["Traffic Light", "cat", "dog"]
WANTED = ["dog", "traffic_light", "bus", "cow"]
PAIRS = ((0, 2), (1, 0))  # rows of the new detector, and where they come from
OF_EVERY_FAMILY = {
    family: next(name for name in module.VARIANTS if "compact" in name) for family, module in FAMILIES.items()
}


def small(variant: str, classes: list[str] | None, **changes: Any) -> Detector:
    masks = {"width": 128, "attention_heads": 8} if "panoptic" in variant else {}  # which the norms of mask heads need
    without_decoder = {"decoder_layers": 0, "width": 128, "pyramid_width": 64} if variant.startswith("tsp-") else {}
    return build(variant, classes=classes, **{**SMALL, **masks, **without_decoder, **changes})


def trained(variant: str, classes: list[str] | None, **changes: Any) -> Detector:
    """A detector in which every number differs from those of a new one."""
    model = small(variant, classes, **changes)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else tensor + 7)
    return model


def copied(model: Detector) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def complaint(model: Detector, path: Path) -> str:
    before = copied(model)
    with pytest.raises(CheckpointError) as caught:
        load_start(model, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_classes_of_the_same_name_keep_their_rows(family: str, tmp_path: Path) -> None:
    variant = OF_EVERY_FAMILY[family]
    source, model = trained(variant, TRAINED), small(variant, WANTED)
    before, given = copied(model), source.state_dict()
    taken = load_start(model, save(source, tmp_path / "trained.safetensors"))
    assert taken == Taken(variant, ("dog", "traffic_light"), ("bus", "cow"), 6, 6, False)
    resized = [name for name in before if before[name].shape != given[name].shape]
    assert len([name for name in resized if name.endswith("bias")]) >= 1
    for name, tensor in model.state_dict().items():
        if name not in resized:
            assert torch.equal(tensor, given[name]), name
            continue
        if "box_head" in name:  # of a paper with a box for each class
            tensor, given[name], before[name] = (
                each.unflatten(0, (-1, 4)) for each in (tensor, given[name], before[name])
            )
        assert len(tensor) - len(given[name]) == 1, name
        if (
            ".proposals." in name and family != "dino"
        ):  # which only tell objects from background, with their first output
            assert torch.equal(tensor[:3], given[name]), name
            assert torch.equal(tensor[3], before[name][3]), name
            continue
        for mine, theirs in PAIRS:
            assert torch.equal(tensor[mine], given[name][theirs]), name
        for row in (2, 3):
            assert torch.equal(tensor[row], before[name][row]), name
        if len(tensor) == 5:  # with one for "no object"
            assert torch.equal(tensor[4], given[name][3]), name


def test_heads_of_all_layers_and_codes_of_classes_are_among_them(tmp_path: Path) -> None:
    source, model = trained("light-detr-compact", TRAINED), small("light-detr-compact", WANTED)
    load_start(model, save(source, tmp_path / "trained.safetensors"))
    before = source.state_dict()
    resized = {name for name, tensor in model.state_dict().items() if tensor.shape != before[name].shape}
    parts = ("heads.class_heads.0", "heads.class_heads.1", "query_source.proposals.class_head")
    assert resized == {
        *(f"{part}.{name}" for part in parts for name in ("weight", "bias")),
        "query_source.denoising.embedding.weight",
    }
    for layer in (0, 1):  # what was reset begins with the score of rare objects
        assert model.heads.class_heads[layer].bias[2:].sigmoid().tolist() == pytest.approx([0.01, 0.01])


QUERIES = {
    "detr-compact": ["position.weight"],
    "conditional-detr-compact": ["position.weight"],
    "deformable-detr-compact": ["embedding.weight"],
    "light-detr-compact": ["content.weight"],
    "dino-compact": ["content.weight"],
    "sam-detr-compact": ["logits"],
    "dab-detr-compact": ["center_logits", "side_logits"],
    "dn-dab-detr-compact": ["center_logits", "side_logits"],
    "dn-dab-deformable-detr-compact": ["center_logits", "side_logits", "content.weight"],
    "anchor-detr-compact": ["points"],
}


@pytest.mark.parametrize("queries", [3, 9])
@pytest.mark.parametrize("variant", QUERIES)
def test_queries_may_be_fewer_or_more(variant: str, queries: int, tmp_path: Path) -> None:
    source, model = trained(variant, ["a"]), small(variant, ["a"], queries=queries)
    before, given = copied(model), source.state_dict()
    taken = load_start(model, save(source, tmp_path / "trained.safetensors"))
    assert (taken.queries, taken.queries_now, taken.queries_resized) == (6, queries, True)
    resized = [name for name in before if before[name].shape != given[name].shape]
    assert resized == [f"query_source.{name}" for name in QUERIES[variant]]
    for name, tensor in model.state_dict().items():
        kept = min(len(tensor), len(given[name])) if name in resized else None
        if kept is None:
            assert torch.equal(tensor, given[name]), name
        else:
            assert torch.equal(tensor[:kept], given[name][:kept]), name
            assert torch.equal(tensor[kept:], before[name][kept:]), name


def test_queries_from_proposals_may_have_any_number(tmp_path: Path) -> None:
    source = trained("deformable-detr-compact-two-stage", ["a"])
    model = small("deformable-detr-compact-two-stage", ["a"], queries=9)
    taken = load_start(model, save(source, tmp_path / "trained.safetensors"))
    assert (taken.queries, taken.queries_now, taken.queries_resized) == (6, 9, False)
    state = source.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("kinds", "kept"),
    [
        ((9, 12), (6, 12)),
        ((4, 14), (4, 12)),  # as many together
        ((4, 3), (4, 3)),
        ((6, 0), (6, 0)),
        ((6, 20), (6, 12)),
    ],
)
def test_each_kind_of_queries_keeps_its_first_ones(
    kinds: tuple[int, int], kept: tuple[int, int], tmp_path: Path
) -> None:
    variant = "h-deformable-detr-compact"
    source = trained(variant, ["a"], one_to_many_queries=12, look_forward_twice=False, repeats=4)
    model = small(variant, ["a"], queries=kinds[0], one_to_many_queries=kinds[1])
    drawn, given = model.query_source.content.weight.clone(), source.query_source.content.weight
    taken = load_start(model, save(source, tmp_path / "trained.safetensors"))
    assert (taken.queries, taken.queries_now, taken.queries_resized) == (6, kinds[0], True)
    content = model.query_source.content.weight
    for (first, last), theirs, count in zip(
        ((0, kinds[0]), (kinds[0], sum(kinds))), (given[:6], given[6:]), kept, strict=True
    ):
        assert torch.equal(content[first : first + count], theirs[:count])
        assert torch.equal(content[first + count : last], drawn[first + count : last])


def test_anchors_on_a_grid_keep_their_number(tmp_path: Path) -> None:
    grid: dict[str, Any] = {"centers": "grid"}
    path = save(small("dab-detr-compact", ["a"], queries=4, **grid), tmp_path / "trained.safetensors")
    sentence = complaint(small("dab-detr-compact", ["a"], queries=9, **grid), path)
    assert sentence == (
        f"{path} has anchors on a grid for 4 queries, of which no other number can be made: train with --settings.queries 4"
    )


@pytest.mark.parametrize("variant", ["detr-compact", "conditional-detr-compact"])
def test_a_file_of_the_authors_gives_its_cocos_classes(variant: str, tmp_path: Path) -> None:
    source, model = trained(variant, None), small(variant, ["Cell Phone", "spaceship"])
    path = write(tmp_path / "authors.pth", to_official(source.state_dict(), source), nheads=4)
    taken = load_start(model, path)
    assert (taken.kept, taken.reset) == (("Cell Phone",), ("spaceship",))
    assert torch.equal(model.heads.class_head.weight[0], source.heads.class_head.weight[77])
    if variant == "detr-compact":
        assert torch.equal(model.heads.class_head.bias[-1], source.heads.class_head.bias[91])


def test_an_equal_name_comes_before_one_that_is_alike(tmp_path: Path) -> None:
    source, model = trained("detr-compact", ["CAT", "cat", "Dog"]), small("detr-compact", ["cat", "dog", "DOG"])
    taken = load_start(model, save(source, tmp_path / "trained.safetensors"))
    assert (taken.kept, taken.reset) == (("cat", "dog", "DOG"), ())
    assert torch.equal(model.heads.class_head.weight[:3], source.heads.class_head.weight[[1, 2, 2]])


def test_smaller_numbers_become_those_of_the_model(tmp_path: Path) -> None:
    source, model = trained("detr-compact", ["a"]).half(), small("detr-compact", ["a"])
    load_start(model, save(source, tmp_path / "trained.safetensors"))
    assert model.heads.class_head.weight.dtype is torch.float32
    assert torch.equal(model.heads.class_head.weight, source.heads.class_head.weight.float())


def test_another_family_is_refused(tmp_path: Path) -> None:
    path = save(small("conditional-detr-compact", ["a"]), tmp_path / "trained.safetensors")
    assert complaint(small("detr-compact", ["a"]), path) == (
        f"{path} holds conditional-detr-compact, and detr-compact is of another paper: give a detector of the same paper, or train "
        "conditional-detr-compact"
    )


def test_other_settings_are_named_with_the_remedy(tmp_path: Path) -> None:
    path = save(small("dab-detr-compact", ["a"], width=96, modulate=False), tmp_path / "trained.safetensors")
    assert complaint(small("dab-detr-compact", ["a"]), path) == (
        f"{path} was trained with width=96 and modulate=False, and this dab-detr-compact has width=64 and modulate=True: train with "
        "--settings.width 96 --settings.modulate false, or give another file"
    )


def test_settings_of_training_may_differ(tmp_path: Path) -> None:
    path = save(small("light-detr-compact", ["a"], denoising=8, dropout=0.3), tmp_path / "trained.safetensors")
    assert load_start(small("light-detr-compact", ["a"], class_weight=1.0), path).kept == ("a",)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    source = small("detr-compact", ["a"])
    with torch.no_grad():
        source.decoder.norm.weight[3] = float("nan")
    path = save(source, tmp_path / "trained.safetensors")
    assert complaint(small("detr-compact", ["a"]), path) == (
        f"{path} has NaN or infinity in 'decoder.norm.weight': give a checkpoint from before its training went wrong"
    )


def test_a_file_without_a_card_is_taken_for_what_is_trained(tmp_path: Path) -> None:
    heads = {"attention_heads": 8}  # as the variant has them, since weights do not show it
    source, model = trained("detr-compact", TRAINED, **heads), small("detr-compact", WANTED, **heads)
    torch.save(source.state_dict(), tmp_path / "bare.pth")
    assert load_start(model, tmp_path / "bare.pth").kept == ()  # nothing says what its classes are called
    assert torch.equal(model.query_source.position.weight, source.query_source.position.weight)


def test_settings_that_may_differ_exist() -> None:
    names = {name for entry in CATALOG.values() for name in entry.config.__dataclass_fields__}
    assert names >= _FREE
