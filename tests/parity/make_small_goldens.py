"""Cuts the authors' reference values down to what the tests always need: `python tests/parity/make_small_goldens.py ../shared/golden`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

# Dilation and the other kinds of layers and levels are in these; the remaining ones with a decoder have nothing that is not in these.
CASES = (
    "detr_r50",
    "detr_r50_dc5",
    "conditional_detr_r50",
    "dab_detr_r50_3patterns",
    "deformable_detr_r50",
    "deformable_detr_single_scale",
    "deformable_detr_refine",
    "deformable_detr_two_stage",
    "dab_deformable_detr_r50",
    "dn_dab_detr_r50",
    "dino_r50_4scale",
    "sam_detr_r50_smca",
    "sam_detr_r50_multiscale",
    "smca_detr_r50",
    "smca_detr_r50_multiscale",
    "anchor_detr_r50_c5",
    "anchor_detr_r50_c5_plain",
    "h_deformable_detr_r50",
)
# Of these arrays one element in so many is kept, by the end of the name; what is neither here nor in WHOLE is left out.
STEPS = {
    ".logits": 53,
    "points": 1,
    ".boxes": 1,
    ".reference": 3,
    "reference": 1,
    "encoder.logits": 211,
    "encoder.boxes": 7,
}
TRAINING_QUERIES = (
    "one2many.",
    5,
)  # how their arrays' names begin, and how many times fewer of their elements are kept
WHOLE = ("encoder.index", "encoder.topk")
FIELDS = ("source", "images", "targets", "scale", "aliases", "matches", "losses", "weights", "total")
FIELDS += ("empty_one", "empty_both", "postprocess")
SOME_HAVE = ("matches_one2many",)
GRADIENTS = 5  # every fifth


def small(folder: Path) -> dict[str, Any]:
    """What is kept of a case."""
    manifest = json.loads((folder / "manifest.json").read_text())
    gradients = json.loads((folder / "gradients.json").read_text())
    names = [name for name in gradients if name not in ("none", "frozen")]
    steps, arrays = {}, {}
    for name, values in np.load(folder / "golden.npz").items():
        step = _step(name)
        if step is not None:
            steps[name] = step * manifest["sampled"].get(name, {"step": 1})["step"]
            arrays[name] = values.reshape(-1)[::step].round(9).tolist()
    return {
        **{field: manifest[field] for field in (*FIELDS, *(field for field in SOME_HAVE if field in manifest))},
        "steps": steps,
        "arrays": arrays,
        "gradients": {name: gradients[name] for name in names[::GRADIENTS]},
        "frozen": gradients.get("frozen", gradients["none"]),  # as in `cases.shared_golden`
    }


def text(content: dict[str, Any]) -> str:
    """A case as it is stored."""
    return json.dumps(content, separators=(",", ":")) + "\n"


def main(golden: Path) -> None:
    """Writes one JSON file a case beside this script."""
    for case in CASES:
        target = Path(__file__).parent / "data" / f"{case}.json"
        target.write_text(text(small(golden / case)))
        print(target, target.stat().st_size)


def _step(name: str) -> int | None:
    """How many elements lie between two that are kept; None where nothing is."""
    if name in WHOLE:
        return 1
    fitting = [ending for ending in STEPS if name.endswith(ending)]
    if not fitting:
        return None
    beginning, fewer = TRAINING_QUERIES
    return STEPS[max(fitting, key=len)] * (fewer if name.startswith(beginning) else 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
