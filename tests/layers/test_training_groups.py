from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from detrkit.errors import ConfigurationError
from detrkit.layers.denoising import append_group, block_mask
from detrkit.layers.training_groups import split_off
from detrkit.structures import LayerOutput, Proposals, Queries, QueryGroup


def some_queries(rows: int, **changes: object) -> Queries:
    queries = Queries(torch.randn(2, rows, 8), torch.randn(2, rows, 8), torch.rand(2, rows, 4))
    return replace(queries, **changes)  # type: ignore[arg-type]


def table(mask: torch.Tensor | None) -> list[str]:
    """One line per row: x where it sees the column."""
    assert mask is not None
    assert mask.dtype == torch.bool
    assert mask.shape[:2] == (1, 1)
    return ["".join("x" if seen else "." for seen in row) for row in mask[0, 0].tolist()]


def test_each_kind_sees_itself_only() -> None:
    queries = some_queries(6)
    groups = [QueryGroup("first", rows=1), QueryGroup("second", rows=3, repeats=4)]
    split = split_off(queries, own=2, groups=groups)
    assert table(split.mask) == ["xx....", "xx....", "..x...", "...xxx", "...xxx", "...xxx"]
    assert split.training_groups == tuple(groups)
    assert split.content is queries.content
    assert split.position is queries.position
    assert split.references is queries.references


@pytest.mark.parametrize("references", [None, torch.rand(2, 3, 2), torch.rand(2, 3, 4)])
def test_positions_and_references_are_left_as_they_are(references: torch.Tensor | None) -> None:
    split = split_off(some_queries(3, position=None, references=references), own=1, groups=[QueryGroup("more", rows=2)])
    assert split.position is None
    assert split.references is references


def test_a_mask_stays_in_force() -> None:
    visible = torch.ones(4, 4, dtype=torch.bool)
    visible[0, 1] = visible[3, 2] = False
    split = split_off(some_queries(4, mask=visible[None, None]), own=2, groups=[QueryGroup("more", rows=2)])
    assert table(split.mask) == ["x...", "xx..", "..xx", "...x"]


def test_a_mask_of_floats_stays_in_force() -> None:
    bias = torch.randn(2, 3, 4, 4)
    split = split_off(some_queries(4, mask=bias), own=3, groups=[QueryGroup("more", rows=1)])
    assert split.mask is not None
    torch.testing.assert_close(split.mask[:, :, :3, :3], bias[:, :, :3, :3])
    torch.testing.assert_close(split.mask[:, :, 3, 3], bias[:, :, 3, 3])
    assert (split.mask[:, :, :3, 3] == -torch.inf).all()
    assert (split.mask[:, :, 3, :3] == -torch.inf).all()


def test_noised_objects_stay_behind_the_new_groups() -> None:
    noised = QueryGroup("denoising", rows=2, objects=torch.zeros(2, 2, dtype=torch.int64))
    queries = append_group(
        some_queries(3),
        noised,
        content=torch.randn(2, 2, 8),
        position=torch.randn(2, 2, 8),
        references=torch.rand(2, 2, 4),
        mask=block_mask(torch.ones(2, 2, dtype=torch.bool), queries=3, repeats=2)[:1],
    )
    more = QueryGroup("more", rows=1)
    split = split_off(queries, own=2, groups=[more])
    assert table(split.mask) == ["xx...", "xx...", "..x..", "xx.x.", "xx..x"]
    assert split.training_groups == (more, noised)


def test_what_became_queries_is_kept_of_the_models_own() -> None:
    every = LayerOutput(torch.randn(2, 9, 5), torch.rand(2, 9, 4))
    chosen = LayerOutput(torch.randn(2, 3, 5), torch.rand(2, 3, 4))
    proposals = Proposals(every, chosen, torch.tensor([[4, 2, 0], [8, 1, 5]]))
    split = split_off(some_queries(3, proposals=proposals), own=2, groups=[QueryGroup("more", rows=1)])
    assert split.proposals is not None
    assert split.proposals.all is every
    assert split.proposals.rows is not None
    assert split.proposals.rows.tolist() == [[4, 2], [8, 1]]
    assert split.proposals.chosen is not None
    torch.testing.assert_close(split.proposals.chosen.logits, chosen.logits[:, :2])
    torch.testing.assert_close(split.proposals.chosen.boxes_cxcywh, chosen.boxes_cxcywh[:, :2])


@pytest.mark.parametrize(("own", "rows"), [(2, (2,)), (0, (5,)), (5, (0,)), (3, (2, 1)), (4, ())])
def test_groups_that_do_not_fit_are_refused(own: int, rows: tuple[int, ...]) -> None:
    groups = [QueryGroup(f"group {number}", rows=count) for number, count in enumerate(rows)]
    listed = " + ".join(map(str, (own, *rows)))
    with pytest.raises(ConfigurationError, match=re.escape(f"5 queries cannot be split into {listed}")):
        split_off(some_queries(5), own=own, groups=groups)


def test_groups_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two training groups are called 'more'"):
        split_off(some_queries(5), own=1, groups=[QueryGroup("more", rows=2)] * 2)
