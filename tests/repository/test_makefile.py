"""The Makefile as a person meets it first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]


def test_an_old_python_is_one_sentence_and_makes_nothing(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text(f"#!{sys.executable}\nimport sys\nsys.version_info = (3, 10, 1)\nexec(sys.argv[2])\n")
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "requirements/cpu.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((TREE / name).read_bytes())
    done = subprocess.run(["make", "demo", f"PYTHON={old}"], check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"error: Python 3.11 or newer is needed, and {old} is 3.10: make demo PYTHON=python3.11\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".venv").exists()
