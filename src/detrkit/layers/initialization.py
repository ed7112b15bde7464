"""Initial values of parameters. Every function takes the modules that it initialises; nothing is selected by name."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import nn

from detrkit.layers.heads import MLP

# Class scores start here, so that background does not dominate the first steps (Lin et al. 2017, section 3.3).
PRIOR_SCORE = 0.01
PRIOR_LOGIT = math.log(PRIOR_SCORE / (1 - PRIOR_SCORE))


class HasHeads(Protocol):
    """A part with class heads and box heads, such as `DetectionHeads`, `LayerwiseHeads` or `TokenProposals`."""

    def pairs(self) -> list[tuple[nn.Linear, MLP]]:
        """Every class head with its box head."""


def xavier_matrices(*modules: nn.Module) -> None:
    """Xavier uniform values for every parameter of these modules with more than one dimension (DETR, appendix A.4)."""
    for module in modules:
        for parameter in module.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)


@torch.no_grad()
def start_heads(*parts: HasHeads) -> None:
    """The initial heads of papers with sigmoid scores: all heads equal, every score `PRIOR_SCORE`, every box on its reference."""
    pairs = [pair for part in parts for pair in part.pairs()]
    for class_head, box_head in pairs:
        class_head.load_state_dict(pairs[0][0].state_dict())
        box_head.load_state_dict(pairs[0][1].state_dict())
        nn.init.constant_(class_head.bias, PRIOR_LOGIT)
        for values in box_head.output.parameters():
            nn.init.zeros_(values)
