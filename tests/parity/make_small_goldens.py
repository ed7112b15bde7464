"""Cuts the authors' reference values down to what the tests always need: `python tests/parity/make_small_goldens.py ../shared/golden`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

CASES = ("detr_r50", "detr_r50_dc5")
STEP = 41  # of the class scores every 41st is kept; boxes are kept whole
FIELDS = ("source", "images", "targets", "scale", "matches", "losses", "weights", "total", "empty_one", "empty_both")


def main(golden: Path) -> None:
    """Writes one JSON file a case beside this script."""
    for case in CASES:
        manifest = json.loads((golden / case / "manifest.json").read_text())
        arrays = np.load(golden / case / "golden.npz")
        layers = [
            {
                "logits": arrays[f"layers.{layer}.logits"].reshape(-1)[::STEP].tolist(),
                "boxes": arrays[f"layers.{layer}.boxes"].reshape(-1).round(10).tolist(),
            }
            for layer in range(6)
        ]
        gradients = json.loads((golden / case / "gradients.json").read_text())
        names = [name for name in gradients if name not in ("none", "frozen")]
        small = {
            **{field: manifest[field] for field in FIELDS},
            "postprocess": manifest["postprocess"],
            "step": STEP,
            "layers": layers,
            "gradients": {name: gradients[name] for name in names[::5]},
            "frozen": gradients["frozen"],
        }
        target = Path(__file__).parent / "data" / f"{case}.json"
        target.write_text(json.dumps(small, separators=(",", ":")) + "\n")
        print(target, target.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
