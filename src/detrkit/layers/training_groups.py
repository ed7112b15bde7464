"""Queries that exist in training only and are apart from the model's own (Jia et al. 2023, H-DETR, arXiv:2207.13080, section 3.2).

More queries that learn the same objects teach the encoder and the decoder more, and cost nothing in evaluation if no other query ever sees them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from detrkit.errors import ConfigurationError
from detrkit.layers.attention import combine_masks
from detrkit.structures import LayerOutput, Proposals, Queries, QueryGroup


def split_off(queries: Queries, *, own: int, groups: Sequence[QueryGroup]) -> Queries:
    """Makes the last of the model's queries training groups, each of which sees only itself.

    Args:
        queries: Q for each image. Training groups that they already have, such as noised objects, stay behind the new ones. They and the new
            groups do not see each other; between them and the model's own queries nothing changes.
        own: how many queries stay the model's own, at least 1; they come first.
        groups: what the other rows are for, in the order of the rows.

    Returns:
        The same rows, with the groups and with a mask that keeps them apart; a mask that was there stays in force. What is known about the
        proposals that became queries is kept of the model's own queries.

    Raises:
        ConfigurationError: the rows of the groups do not add up, or two groups have one name.
    """
    later = sum(group.rows for group in queries.training_groups)
    rows = queries.content.shape[1] - later
    _check(rows, own, groups, queries.training_groups)
    # Groups that were there before count as the model's own kind: what they may see of its queries is in the mask already.
    kinds = [0, *range(1, len(groups) + 1), 0]
    sizes = [own, *(group.rows for group in groups), later]
    parts = [torch.full((size,), kind, device=queries.content.device) for kind, size in zip(kinds, sizes, strict=True)]
    kind_of = torch.cat(parts)  # (Q,)
    apart = (kind_of[:, None] == kind_of)[None, None]  # (1, 1, Q, Q)
    return dataclasses.replace(
        queries,
        proposals=_of_first(queries.proposals, own),
        training_groups=(*groups, *queries.training_groups),
        mask=combine_masks(queries.mask, apart),
    )


def _check(rows: int, own: int, groups: Sequence[QueryGroup], others: Sequence[QueryGroup]) -> None:
    wanted = [group.rows for group in groups]
    if own < 1 or min(wanted, default=1) < 1 or own + sum(wanted) != rows:
        listed = " + ".join(map(str, [own, *wanted]))
        raise ConfigurationError(
            f"{rows} queries cannot be split into {listed}, the model's own and training groups: every part needs at least one query, and "
            "together they must be all"
        )
    names = [group.name for group in (*groups, *others)]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"two training groups are called '{name}': give each a name of its own")


def _of_first(proposals: Proposals | None, count: int) -> Proposals | None:
    """The same proposals; of those that became queries, what is known of the first ones."""
    if proposals is None:
        return None
    chosen, rows = proposals.chosen, proposals.rows
    if chosen is not None:
        chosen = LayerOutput(chosen.logits[:, :count], chosen.boxes_cxcywh[:, :count])
    return dataclasses.replace(proposals, chosen=chosen, rows=None if rows is None else rows[:, :count])
