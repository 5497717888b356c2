"""The script that makes test certificates, run as users run it; openssl is the judge."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from .authority import SCRIPT, openssl

NAMES = ("inference", "compositing", "gateway", "haproxy", "client")
ALL_FILES = {"ca.crt", "ca.key", "haproxy.pem", *(f"{name}.{kind}" for name in NAMES for kind in ("crt", "key"))}


def run(*arguments: object, environ: Mapping[str, str] | None = None, umask: int = 0o022) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", SCRIPT, *map(str, arguments)],
        check=False, capture_output=True, text=True, timeout=60, umask=umask, env=None if environ is None else {**environ},
    )  # fmt: skip


def made(*arguments: object, umask: int = 0o022) -> None:
    result = run(*arguments, umask=umask)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def names_in(certificate: Path) -> set[str]:
    text = openssl(f"x509 -in {certificate} -noout -ext subjectAltName")
    return {name.strip() for name in text.splitlines()[1].split(",")}


def mode(path: Path) -> str:
    return f"{path.stat().st_mode & 0o777:o}"


def test_everything_is_there_fits_together_and_is_short_lived(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "tls"
    made(folder, umask=0)
    assert {path.name for path in folder.iterdir()} == ALL_FILES
    for name in NAMES:
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        for purpose in ("sslserver", "sslclient"):
            assert "OK" in openssl(f"verify -x509_strict -purpose {purpose} -CAfile {folder}/ca.crt {certificate}")
        assert openssl(f"x509 -in {certificate} -noout -pubkey") == openssl(f"pkey -in {key} -pubout")
        assert f"CN = {name}" in openssl(f"x509 -in {certificate} -noout -subject -nameopt RFC2253,space_eq")
        ends = openssl(f"x509 -in {certificate} -noout -enddate").removeprefix("notAfter=").strip()
        left = datetime.strptime(ends, "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC) - datetime.now(UTC)
        assert timedelta(days=29) < left <= timedelta(days=30)
    assert (folder / "haproxy.pem").read_text() == (folder / "haproxy.crt").read_text() + (folder / "haproxy.key").read_text()
    assert {path.name for path in folder.iterdir() if mode(path) == "644"} == {path for path in ALL_FILES if path.endswith("crt")}
    assert {path.name for path in folder.iterdir() if mode(path) == "600"} == {p for p in ALL_FILES if not p.endswith("crt")}


def test_servers_bear_the_names_by_which_they_are_reached_and_the_client_its_own(tmp_path: Path) -> None:
    made("--host", "lipsync.example", "--host", "192.0.2.7", "--host", "2001:db8::1", "--days", "3", tmp_path)
    more = {"DNS:lipsync.example", "IP Address:192.0.2.7", "IP Address:2001:DB8:0:0:0:0:0:1"}
    everywhere = {"DNS:localhost", "IP Address:127.0.0.1", "IP Address:0:0:0:0:0:0:0:1"}
    for name in NAMES[:3]:
        assert names_in(tmp_path / f"{name}.crt") == {f"DNS:{name}", *everywhere, *more}
    assert names_in(tmp_path / "client.crt") == {"DNS:client"}
    serials = {openssl(f"x509 -in {tmp_path}/{name}.crt -noout -serial") for name in NAMES}
    assert len(serials) == len(NAMES)


def test_containers_may_read_the_keys_where_asked_but_not_that_of_the_authority(tmp_path: Path) -> None:
    made("--shared-keys", tmp_path, umask=0o077)
    assert {path.name for path in tmp_path.iterdir() if mode(path) != "644"} == {"ca.key"}
    assert mode(tmp_path / "ca.key") == "600"


@pytest.mark.parametrize("there", ["haproxy.pem", "ca.crt"])
def test_what_is_there_is_replaced_only_by_force(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    refused = run(tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == f"make_test_certificates.sh: {tmp_path}/{there} is there already; --force replaces all of them\n"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]
    made("--force", tmp_path)
    first = (tmp_path / there).read_text()
    made("--force", tmp_path)
    assert (tmp_path / there).read_text() not in {"precious", first}
    assert {path.name for path in tmp_path.iterdir()} == ALL_FILES


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "which directory?"),
        (["a", "b"], "one directory, not several"),
        (["--days", "0", "a"], "--days 0: not a number of days"),
        (["--days", "x; touch y", "a"], "not a number of days"),
        (["--days"], "--days needs a number"),
        (["--host"], "--host needs a name or an address"),
        (["--host", "a,DNS:b", "a"], "neither a host name nor an address"),
        (["--host", "", "a"], "neither a host name nor an address"),
        (["--hots", "a"], "unknown option --hots"),
    ],
    ids=lambda value: value if isinstance(value, str) else "_".join(value)[:20],
)
def test_mistakes_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_without_openssl_it_says_so(tmp_path: Path) -> None:
    result = run(tmp_path / "tls", environ={"PATH": "/nowhere"})
    assert result.returncode == 2
    assert "needs the openssl command" in result.stderr
    assert not (tmp_path / "tls").exists()


def test_a_failure_leaves_nothing_half_made(tmp_path: Path) -> None:
    """An openssl that gives up at the third certificate."""
    programs, target = tmp_path / "bin", tmp_path / "tls"
    programs.mkdir()
    (programs / "openssl").write_text(
        '#!/bin/sh\ncase "$*" in *haproxy.csr*) echo "no entropy" >&2; exit 1;; esac\n'
        f'PATH={os.environ["PATH"]} exec openssl "$@"\n'
    )
    (programs / "openssl").chmod(0o755)
    result = run(target, environ={"PATH": f"{programs}:{os.environ['PATH']}"})
    assert result.returncode == 1
    assert re.search(r"no entropy\n.*could not make haproxy\n$", result.stderr)
    assert not list(target.iterdir())


def test_help_names_every_file(tmp_path: Path) -> None:
    shown = run("--help").stdout
    assert all(name in shown for name in ALL_FILES)
    assert max(map(len, shown.splitlines())) <= 130
