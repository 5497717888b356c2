"""Licences, advisories and bills of materials of the pinned packages, by the programs that `make` runs for them."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ..programs import missing

TREE = Path(__file__).parents[2]
PROGRAMS = TREE / ".venv-supply" / "bin"
# Of licences that ask nothing of who runs a service for others.
WORDS = {
    "0BSD", "2.0", "3-Clause", "Apache", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "Foundation", "ISC",
    "LGPL-2.1-or-later", "License", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0", "Python", "Software", "Unlicense", "Zlib", "AND", "OR",
}  # fmt: skip
PIN = "certifi==2024.2.2 --hash=sha256:dc383c07b76109f368f6106eee2b593b04a011ea4d55f652c6ca24a754d1cdd1\n"


def pins(name: str) -> dict[str, str]:
    text = (TREE / "requirements" / f"{name}.txt").read_text()
    return {_same(package): version for package, version in re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)}


def _same(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def supply_python() -> str:
    if not (PROGRAMS / "python").exists():
        missing("make .venv-supply/.ready has not run")
    return str(PROGRAMS / "python")


def test_every_package_of_the_services_is_listed_with_a_licence_that_asks_nothing_of_who_serves() -> None:
    rows = re.findall(r"^\| ([\w.-]+) +\| ([\w.]+) +\| (.+?) +\|$", (TREE / "docs" / "licences.md").read_text(), re.MULTILINE)
    listed = {_same(package): version for package, version, _ in rows if package != "Name"}
    assert listed == pins("cpu")
    for package, _, licence in rows[1:]:
        assert set(re.sub(r"[();]", " ", licence.replace("(ISCL)", "")).split()) <= WORDS, package


@contextmanager
def advisories(known: dict[str, list[dict[str, object]]]) -> Iterator[str]:
    """An OSV service that knows these, by package: its address."""

    class Osv(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps({"vulns": known.get(asked["package"]["name"], [])}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Osv)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_an_audit_fails_for_a_known_advisory_alone_and_says_when_nobody_answered(tmp_path: Path) -> None:
    python, file = supply_python(), tmp_path / "pins.txt"
    file.write_text(PIN)

    def audit(url: str) -> tuple[int, str]:
        command = [python, "-m", "tools.advisories", str(file), "--osv-url", url]
        ran = subprocess.run(command, cwd=TREE, capture_output=True, text=True, timeout=120, check=False)
        assert not ran.stderr
        return ran.returncode, ran.stdout

    advisory = {
        "id": "PYSEC-2024-230", "details": "roots", "modified": "2024-12-06T18:24:00Z",
        "affected": [{"package": {"name": "certifi", "ecosystem": "PyPI"}, "versions": ["2024.2.2"],
                      "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2024.7.4"}]}]}],
    }  # fmt: skip
    with advisories({"certifi": [advisory]}) as url:
        status, said = audit(url)
        assert status == 1
        assert "certifi 2024.2.2: PYSEC-2024-230" in said
    with advisories({}) as url:
        status, said = audit(url)
        assert (status, "1 packages looked up, 0 advisories" in said) == (0, True)
    status, said = audit(url)  # nobody listens there any more
    assert (status, "no answer" in said) == (0, True)


@pytest.mark.slow
def test_a_bill_of_materials_names_each_pinned_package_with_its_hashes(tmp_path: Path) -> None:
    supply_python()
    subprocess.run(["make", "--silent", "sbom", f"SBOM={tmp_path}"], cwd=TREE, check=True, timeout=120, capture_output=True)
    for image in ("gateway", "compositing", "cpu", "gpu"):
        bill = json.loads((tmp_path / f"{image}.cdx.json").read_text())
        assert bill["bomFormat"] == "CycloneDX"
        components = bill["components"]
        assert {_same(each["name"]): each["version"] for each in components} == pins(image)
        hashes = {each["content"] for component in components for of in component["externalReferences"] for each in of["hashes"]}
        assert hashes == set(re.findall(r"sha256:(\w{64})", (TREE / "requirements" / f"{image}.txt").read_text()))
