"""No file names a place that is not everybody's: package files, registries, folders of one machine."""

from __future__ import annotations

import re

import pytest

from .tree import TREE, files

# In pieces, so that this file is not found itself.
HOSTS = [f"{name}.{end}" for name, end in (
    ("pypi", "org"), ("python" + "hosted", "org"), ("pypi", "python.org"), ("npm" + "js", "org"), ("npm" + "js", "com"),
    ("crates", "io"), ("rubygems", "org"), ("proxy.golang", "org"), ("conda.ana" + "conda", "org"), ("deb.de" + "bian", "org"),
    ("download.py" + "torch", "org"), ("archive.ub" + "untu", "com"),
)]  # fmt: skip
PLACES = {
    "a registry": re.compile("|".join(map(re.escape, HOSTS))),
    "a package file": re.compile(r"(https?|ftp|file)://\S+\.(whl|tar\.gz|tgz|zip|deb|jar|gem|crate)\b"),
    "an index": re.compile(r"--(extra-)?" + r"index-url|--find-" + r"links|--trusted-" + r"host"),
    "a folder of one machine": re.compile(r"(?<![\w.])/(work|home|Users|root|workspace)" + r"/[\w.]"),
}
TEXTS = [path for path in files() if b"\0" not in path.read_bytes()[:4096]]


@pytest.mark.parametrize("place", PLACES)
def test_no_file_names(place: str) -> None:
    found = [
        f"{path.relative_to(TREE)}:{number}: {line.strip()[:120]}"
        for path in TEXTS
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if PLACES[place].search(line)
    ]
    assert found == []


def test_requirements_are_pinned_with_hashes_and_without_urls() -> None:
    for path in (TREE / "requirements").glob("*.txt"):
        lines = [line.strip() for line in path.read_text().splitlines()]
        for line in lines:
            assert "://" not in line
            assert line == "" or re.match(r"#|--hash=sha256:[0-9a-f]{64}|[a-z0-9._-]+(\[[a-z,]+\])?==[^ ]+", line), line
