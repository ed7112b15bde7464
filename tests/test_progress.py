"""The line that says how far work is: what it shows in which width, and what is printed where there is no terminal."""

from __future__ import annotations

import io
import itertools
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from detrkit.notebooks import CellLine
from detrkit.progress import Activity, ProgressLine, clock_time, duration, fitted, watched
from detrkit.terminal import terminal

TRAINING = Activity(
    "epoch 12/50",
    "step",
    1200,
    5000,
    left=4000.0,
    extras=("loss 9.16", "13.1 images/s", "class loss 0.520", "distance loss 0.198", "matched class accuracy 22%"),
)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (200, "⠋ epoch 12/50 ━━━━━━━━━─────────────────────────────── step 1200/5000, 1:06:40 left, loss 9.16, 13.1 images/s, "
              "class loss 0.520, distance loss 0.198, matched class accuracy 22%"),
        (120, "⠋ epoch 12/50 ━━────────── step 1200/5000, 1:06:40 left, loss 9.16, 13.1 images/s, class loss 0.520, distance loss 0.198"),
        (80, "⠋ epoch 12/50 ━━───────── step 1200/5000, 1:06:40 left, loss 9.16, 13.1 images/s"),
        (60, "⠋ epoch 12/50 ━━━━───────────── step 1200/5000, 1:06:40 left"),
        (44, "⠋ epoch 12/50 step 1200/5000, 1:06:40 left"),
        (40, "⠋ epoch 12/50 1200/5000, 1:06:40 left"),
        (30, "⠋ epoch 12/50 1200/5000"),
        (12, "1200/5000"),
        (5, "1200/"),
    ],
)  # fmt: skip
def test_a_wider_terminal_shows_more(width: int, expected: str) -> None:
    text = fitted(TRAINING, width, "1:06:40 left", now=0.0).plain
    assert text == expected
    assert cell_len(text) <= width


def test_a_terminal_without_other_characters_gets_ascii() -> None:
    text = fitted(TRAINING, 60, "0:07 left", now=0.25, ascii_only=True).plain
    assert text == "/ epoch 12/50 ==------- step 1200/5000, 0:07 left, loss 9.16"


def in_terminal(width: int, clock: Clock) -> tuple[ProgressLine, io.StringIO]:
    text = io.StringIO()
    return ProgressLine(Console(file=text, force_terminal=True, width=width, color_system=None), clock), text


def redraw(line: ProgressLine) -> None:
    assert line._live is not None
    line._live.refresh()


def drawn(line: ProgressLine) -> str:
    """What the line shows now, without the codes that move the cursor."""
    parts = [part.text for part in line.console.render(line) if not part.control]
    return "".join(parts)[2:]  # without the sign that turns


def test_the_line_moves_while_a_step_takes_long() -> None:
    clock = Clock()
    line, _ = in_terminal(60, clock)
    line.show(Activity("epoch 1/2", "step", 0, 200))
    clock.now += 7
    assert drawn(line) == "epoch 1/2 ─────────────────────── step 0/200, 0:07 so far"
    line.show(Activity("epoch 1/2", "step", 100, 200, left=90.0))
    assert drawn(line).endswith("step 100/200, 1:30 left")
    clock.now += 1
    assert drawn(line).endswith("step 100/200, 1:29 left")
    clock.now += 1000
    assert drawn(line).endswith("step 100/200, 0:00 left")


def test_the_turning_sign_changes_every_second() -> None:
    signs = [fitted(TRAINING, 80, "", now=moment).plain[0] for moment in (0.0, 1.0, 2.0, 3.0)]
    assert all(first != second for first, second in itertools.pairwise(signs))


def test_a_terminal_that_became_narrower_is_cleared_below_the_line() -> None:
    """The cursor waits at the beginning of the line, so that all parts of a broken line are behind it."""
    clock = Clock()
    line, text = in_terminal(80, clock)
    with line:
        line.show(TRAINING)
        redraw(line)
        line.console.width = 60
        redraw(line)
        line.print("a message")
    printed = text.getvalue()
    first, second = printed.index("13.1 images/s\r\x1b[?7h"), printed.index("1:06:40 left\r\x1b[?7h")
    assert first < second < printed.index("a message\n")
    assert "\x1b[J" in printed[first:second]
    assert printed.endswith("\x1b[?25h\r\x1b[1A\x1b[2K")  # a cursor again, and no line


@pytest.mark.parametrize(("left", "said"), [(600.0, 2), (60_000.0, 0)])
def test_without_a_terminal_a_line_is_printed_now_and_then(left: float, said: int) -> None:
    """Each minute, but in long work only a hundred times."""
    clock, text = Clock(), io.StringIO()
    with ProgressLine(Console(file=text, width=200), clock) as line:
        for second in range(150):
            clock.now = 100.0 + second
            line.show(Activity("epoch 1/9", "step", second, 900, left=left, extras=("loss 1.00",)))
    lines = text.getvalue().splitlines()
    assert (
        lines
        == [
            "epoch 1/9, step 60/900, about 10 min left, loss 1.00",
            "epoch 1/9, step 120/900, about 10 min left, loss 1.00",
        ][:said]
    )


def test_what_was_printed_puts_off_the_next_line() -> None:
    clock, text = Clock(), io.StringIO()
    with ProgressLine(Console(file=text, width=200), clock) as line:
        clock.now += 59
        line.print("epoch 1/9: loss 2.00")
        clock.now += 2
        line.show(TRAINING)
        clock.now += 58
        line.show(TRAINING)
    assert text.getvalue() == f"epoch 1/9: loss 2.00\n{TRAINING.sentence()}\n"


def test_items_are_followed() -> None:
    clock = Clock()
    line, _ = in_terminal(60, clock)
    seen = []
    for item in line.follow([2, 2, 1], "evaluating", unit="image", total=5, size=lambda item: item):
        seen.append((item, drawn(line).split(" ", 1)[1].lstrip("━─ ")))
        clock.now += 10.0
    assert seen == [(2, "image 0/5, 0:00 so far"), (2, "image 2/5, 0:15 left"), (1, "image 4/5, 0:05 left")]
    assert drawn(line).endswith("image 5/5, 0:30 so far")


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What a notebook's cell shows, one state after the other."""
    states: list[dict[str, str]] = []

    class Handle:
        def update(self, content: dict[str, str], *, raw: bool) -> None:
            assert raw
            states.append(content)

    def display(content: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        assert states == []  # one output, which changes
        states.append(content)
        return Handle()

    monkeypatch.setattr("detrkit.progress.cell_line", lambda: CellLine(display))
    return states


def test_a_cell_shows_a_bar_that_changes_four_times_a_second_at_most(cell: list[dict[str, str]]) -> None:
    clock = Clock()
    with ProgressLine(terminal(), clock) as line:
        assert cell == []
        for step in range(8):
            line.show(Activity("epoch 1/2", "step", step, 8, left=10.0 - step, extras=("loss 3.00",)))
            clock.now += 0.1
        line.show(Activity("<epoch> 2/2", "step", 8, 8))
        line.show(Activity("writing the report", "", 0, 0))
    assert [state["text/plain"] for state in cell] == [
        "epoch 1/2, step 0/8, 0:10 left, loss 3.00",
        "epoch 1/2, step 3/8, 0:07 left, loss 3.00",
        "epoch 1/2, step 6/8, 0:04 left, loss 3.00",
        "<epoch> 2/2, step 8/8, 0:01 so far",
        "writing the report, 0:01 so far",
        "",
    ]
    assert cell[1]["text/html"] == (
        '<div><progress value="3" max="8" style="vertical-align: middle"></progress> epoch 1/2, step 3/8, 0:07 left, loss 3.00</div>'
    )
    assert "&lt;epoch&gt; 2/2" in cell[3]["text/html"]
    assert cell[4]["text/html"] == "<div>writing the report, 0:01 so far</div>"
    assert cell[5]["text/html"] == ""


def test_a_cell_says_nothing_else_however_long_it_takes(
    cell: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    with ProgressLine(terminal(stderr=True), clock) as line:
        for _ in line.follow(range(3), "evaluating", unit="image", total=3):
            clock.now += 100.0
    assert len(cell) == 5
    assert capsys.readouterr() == ("", "")


def test_a_console_of_ones_own_gets_lines_in_a_notebook_too(cell: list[dict[str, str]]) -> None:
    clock, text = Clock(), io.StringIO()
    with ProgressLine(Console(file=text, width=200), clock) as line:
        line.show(TRAINING)
        clock.now += 61.0
        line.show(TRAINING)
    assert cell == []
    assert text.getvalue() == f"{TRAINING.sentence()}\n"


def test_work_is_watched_only_where_that_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    def other(items: Any, what: str, **_: Any) -> Any:
        return (f"{what} {item}" for item in items)

    for progress, expected in ((True, [1, 2]), (False, [1, 2]), (other, ["evaluating 1", "evaluating 2"])):
        with watched(progress) as follow:
            assert list(follow([1, 2], "evaluating", unit="image", total=2)) == expected
    assert capsys.readouterr() == ("", "")


def test_an_error_takes_the_line_away_before_it_is_explained() -> None:
    line, text = in_terminal(60, Clock())

    def reading() -> None:
        with line:
            for _ in line.follow([1], "evaluating", unit="image", total=1):
                raise ValueError("unreadable")

    with pytest.raises(ValueError, match="unreadable"):
        reading()
    assert text.getvalue().endswith("\x1b[?25h\r\x1b[1A\x1b[2K")


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3.0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (754.0, "12:34"), (3723.0, "1:02:03")]
)
def test_clock_times(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (600, "10 min"), (12_000, "3 h 20 min"), (187_200, "2 days 4 h")]
)
def test_durations_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words
