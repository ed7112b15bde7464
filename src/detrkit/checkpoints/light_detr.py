"""Light DETR is detrkit's own: no other code writes its weights, so its official names are detrkit's."""

from __future__ import annotations

from detrkit.checkpoints.key_mapping import KeyMapping, Rule
from detrkit.checkpoints.shared import Paper, Table

_UNCHANGED = KeyMapping([Rule("{rest}", ("{rest}",))])
TABLE = Table(
    paper=Paper("Light DETR", ()),
    official=lambda _: _UNCHANGED,
    layout=lambda _: _UNCHANGED,
    readings=(),
)
