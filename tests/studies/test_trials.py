"""Which trainings studies share, and where they lie."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from detrkit.studies import find_study
from detrkit.studies.study import Study, Trial
from detrkit.studies.trials import FIGURES, Seeded, seeded_trials


def folders(study: Study, given: dict[str, object] | None = None, data: str = "digits") -> dict[tuple[str, int], str]:
    found = seeded_trials(study, data, 2, given or {}, Path("studies"))
    return {(each.name, each.seed): each.folder.name for each in found}


def change(module: object) -> None:
    """Nothing."""


def other_change(module: object, earlier: object, *, frozen: bool = False) -> None:
    """Nothing."""


def study(**trials: Trial) -> Study:
    return Study("title", "claim", trials, {"epochs": 4})


class TestSharing:
    def test_studies_share_what_they_have_in_common(self) -> None:
        matching, queries = folders(find_study("matching")), folders(find_study("learned-queries"))
        for name in ("DETR", "DETR, twice as long"):
            assert matching[name, 1] == queries[name, 1]

    def test_a_measure_needs_no_training_of_its_own(self) -> None:
        assert (
            folders(find_study("order"))["DETR", 0]
            == folders(find_study("attention-maps"))["DETR (learned queries)", 0]
        )

    def test_whatever_changes_the_training_has_another_folder(self) -> None:
        plain = Trial("detr-compact")
        trials = {
            "plain": plain,
            "other variant": Trial("dab-detr-compact"),
            "options": Trial("detr-compact", {"lr": 1e-3}),
            "change": Trial("detr-compact", change=change),
            "change after": Trial("detr-compact", change=other_change, after=("plain",)),
            "argument": Trial("detr-compact", change=partial(other_change, frozen=True), after=("plain",)),
            "after another": Trial("detr-compact", change=other_change, after=("options",)),
        }
        found = folders(study(**trials))
        one_class = folders(Study("title", "claim", {"plain": plain}, {"epochs": 4}, single_class=True))
        longer = folders(study(plain=plain), {"epochs": 5})
        elsewhere = folders(study(plain=plain), data="/photos")
        every = [*found.values(), *one_class.values(), *longer.values(), *elsewhere.values()]
        assert len(set(every)) == len(every)

    def test_the_number_of_workers_does_not_matter_but_the_files_do(self, tmp_path: Path) -> None:
        plain = study(plain=Trial("detr-compact"))
        assert folders(plain) == folders(plain, {"workers": 2})
        places = [tmp_path / place / "photos" for place in ("here", "there")]
        for place in places:
            place.mkdir(parents=True)
        assert folders(plain, data=str(places[0])) != folders(plain, data=str(places[1]))
        weights = tmp_path / "weights.safetensors"
        weights.write_bytes(b"1")
        before = folders(plain, {"backbone_weights": str(weights)})
        weights.write_bytes(b"12")
        assert folders(plain, {"backbone_weights": str(weights)}) != before
        assert folders(plain, {"weights": "none"}) == folders(plain, {"weights": "none"})


class TestSeeds:
    def test_what_comes_after_another_begins_with_other_numbers(self) -> None:
        """With the same ones, matches or queries would be those that these very weights grow into."""
        trials = {
            "first": Trial("detr-compact"),
            "second": Trial("detr-compact", change=other_change, after=("first",)),
        }
        found = seeded_trials(study(**trials), "digits", 2, {}, Path("studies"))
        assert [(each.name, each.seed, each.training_seed) for each in found] == [
            ("first", 0, 0),
            ("second", 0, 1000),
            ("first", 1, 1),
            ("second", 1, 1001),
        ]


class TestFigures:
    def test_a_trial_has_ended_when_all_its_figures_are_there(self, tmp_path: Path) -> None:
        trials = {"measured": Trial("detr-compact", measure=change), "plain": Trial("detr-compact")}  # type: ignore[arg-type]
        found: list[Seeded] = seeded_trials(study(**trials), "digits", 1, {}, tmp_path)
        measured, plain = found
        assert measured.folder == plain.folder
        assert plain.figures() is None
        plain.folder.mkdir(parents=True)
        (plain.folder / FIGURES).write_text(json.dumps({"steps": 3}))
        assert plain.figures() == {"steps": 3}
        assert measured.figures() is None
        assert measured.further is not None
        measured.further.write_text(json.dumps({"modes": 2}))
        assert measured.figures() == {"steps": 3, "further": {"modes": 2}}

    def test_a_file_that_was_not_written_to_its_end_counts_for_nothing(self, tmp_path: Path) -> None:
        (trial,) = seeded_trials(study(plain=Trial("detr-compact")), "digits", 1, {}, tmp_path)
        trial.folder.mkdir(parents=True)
        (trial.folder / FIGURES).write_text('{"steps": 3')
        assert trial.figures() is None
