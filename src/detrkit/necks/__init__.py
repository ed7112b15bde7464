"""From the backbone's levels to levels of the transformer's width."""
