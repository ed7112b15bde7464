"""What a shell completes a command line to, asked as bash asks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from detrkit.commands.app import app
from detrkit.models.listing import listed_variants

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None or sys.platform == "win32", reason="needs bash")
LIGHT = sorted(name for name in listed_variants() if name.startswith("light-detr"))
SMCA = sorted(name for name in listed_variants() if name.startswith("smca-detr-c"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the program and the script that `--install-completion` writes, and one with files to complete."""
    program = tmp_path / "detrkit"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m detrkit "$@"\n')
    program.chmod(0o755)
    (tmp_path / "script").write_text(app.generate_completion(shell="bash"))
    here = tmp_path / "here"
    (here / "my_data").mkdir(parents=True)
    (here / "my_weights.pth").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("detrkit tr", ["train"]),
        ("detrkit train li", LIGHT),
        ("detrkit models li", LIGHT),
        ("detrkit compare smca-detr-c", SMCA),
        ("detrkit compare light-detr-compact --data my_d", ["my_data"]),
        ("detrkit predict x.safetensors photos --variant smca-detr-c", SMCA),
        ("detrkit evaluate x.safetensors --variant smca-detr-c", SMCA),
        ("detrkit inspect . --variant smca-detr-c", SMCA),
        ("detrkit train light-detr-compact my", ["my_data", "my_weights.pth"]),
        ("detrkit train light-detr-compact my_data --backbone-weights my_w", ["my_weights.pth"]),
        ("detrkit train --resume my_d", ["my_data"]),
        ("detrkit predict my_w", ["my_weights.pth"]),
        ("detrkit predict my_weights.pth my_d", ["my_data"]),
        ("detrkit evaluate my_weights.pth --data my_d", ["my_data"]),
        ("detrkit inspect my_d", ["my_data"]),
        ("detrkit convert my_d", ["my_data"]),
        ("detrkit convert-weights my_w", ["my_weights.pth"]),
        ("detrkit report my_d", ["my_data"]),
        ("detrkit train light-detr-compact my_data --backbone-", ["--backbone-lr", "--backbone-weights"]),
        ("detrkit train light-detr-compact my_data --schedule c", ["cosine"]),
    ],
)
def test_what_is_begun_is_completed(folder: Path, line: str, expected: list[str]) -> None:
    words = line.split()
    quoted = " ".join(f"'{word}'" for word in words)
    code = (
        f"source '{folder / 'script'}'; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _detrkit; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    assert BASH is not None
    shell = subprocess.run(
        [BASH, "--norc", "-c", f"PATH='{folder}':\"$PATH\"; {code}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder / "here",
    )
    assert sorted(shell.stdout.split()) == expected, shell.stderr
