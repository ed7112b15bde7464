"""Where tokens lie and what they start from when they propose boxes, by hand."""

from __future__ import annotations

import torch
from models.small_deformable_detr import half_padding, memory_of
from support import make_memory

from detrkit.layers.proposals import proposal_anchors, token_centers


class TestPlaces:
    def test_centres_of_tokens(self) -> None:
        wanted = [((x + 0.5) / 4, (y + 0.5) / 2) for y in range(2) for x in range(4)]
        wanted += [((x + 0.5) / 2, 0.5) for x in range(2)]
        found = token_centers(memory_of(2))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, torch.tensor([wanted, wanted]))

    def test_they_are_shares_of_the_image_without_its_padding(self) -> None:
        wanted = [((x + 0.5) / 2, (y + 0.5) / 1) for y in range(2) for x in range(4)]
        wanted += [((x + 0.5) / 1, 0.5) for x in range(2)]
        torch.testing.assert_close(token_centers(memory_of(padding=half_padding())), torch.tensor([wanted]))

    def test_anchors_are_larger_on_coarser_levels(self) -> None:
        logits, usable = proposal_anchors(memory_of())
        assert usable.all()
        wanted = [((x + 0.5) / 4, (y + 0.5) / 2, 0.05, 0.05) for y in range(2) for x in range(4)]
        wanted += [((x + 0.5) / 2, 0.5, 0.1, 0.1) for x in range(2)]
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits.sigmoid(), torch.tensor([wanted]))

    def test_anchors_behind_padding_are_left_out(self) -> None:
        padding = half_padding()
        logits, usable = proposal_anchors(memory_of(padding=padding))
        assert torch.equal(usable, ~padding)
        assert not logits[padding].any()
        wanted = [[0.25, 0.5, 0.05, 0.05], [0.75, 0.5, 0.05, 0.05], [0.5, 0.5, 0.1, 0.1]]
        torch.testing.assert_close(logits[usable].sigmoid(), torch.tensor(wanted))

    def test_anchors_at_the_border_and_too_large_ones_are_left_out(self) -> None:
        sizes = ((1, 60), *((1, 1),) * 5)  # the first cell of 60 is centred at 1 / 120, the second at 1 / 40
        tokens = torch.zeros(1, 65, 8)
        _, usable = proposal_anchors(make_memory(tokens, tokens, None, sizes))
        wanted = torch.ones(1, 65, dtype=torch.bool)
        wanted[0, [0, 59]] = False  # below 0.01 and above 0.99
        wanted[0, 64] = False  # on level 5 sides are 0.05 · 32 = 1.6; on level 4 they are 0.8
        assert torch.equal(usable, wanted)
