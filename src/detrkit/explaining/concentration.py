"""How concentrated attention is, and where its centre lies."""

from __future__ import annotations

from torch import Tensor

from detrkit.explaining.attention import Look, SampledLook
from detrkit.layers.pre_norm import attention_sparsity
from detrkit.layers.precision import at_least_float32
from detrkit.layers.proposals import token_centers


def sparsity_of(look: Look) -> Tensor:
    """(B,) negative entropy of the weights in nats, a mean over heads and queries (TSP, section 3.2).

    0 is a single key, -log S is S keys alike. In deformable attention the points that a query samples are its keys.
    """
    weights = look.weights
    if isinstance(look, SampledLook):
        weights = weights.flatten(3).transpose(1, 2)  # (B, M, Q, levels · points)
    return attention_sparsity(at_least_float32(weights)).mean(1)


def centers_of(look: Look) -> Tensor | None:
    """(B, Q, 2) the centre of mass of what each query looks at, a mean over its heads.

    Returns:
        x and y as fractions of the image without its padding, float32 or better; None where keys are no cells of a map.
    """
    if isinstance(look, SampledLook):
        masses = at_least_float32(look.weights)[..., None]
        return (look.points() * masses).sum((3, 4)).mean(2)  # over levels and points, then over heads
    if look.memory is None:
        return None
    masses = at_least_float32(look.weights).mean(1)  # (B, Q, S)
    return masses @ token_centers(look.memory).to(masses.dtype)
