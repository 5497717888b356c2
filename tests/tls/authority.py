"""Certificates for tests: by the script that users run, and, from the authority that it made, with any dates and names."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
SCRIPT = TREE / "deploy" / "tls" / "make_test_certificates.sh"
DAY = timedelta(days=1)

CONFIGURATION = """
[ca]
default_ca = own
[own]
database = {work}/index.txt
rand_serial = yes
new_certs_dir = {work}
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[leaf]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth, clientAuth
{names}
"""


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """A folder that the script has filled."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Authority:
        subprocess.run([SCRIPT, folder], check=True)
        return cls(folder)

    @property
    def certificate(self) -> Path:
        return self.folder / "ca.crt"

    def pair(self, name: str) -> Pair:
        """One of those that the script makes."""
        return Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")

    def issue(
        self,
        work: Path,
        *,
        common_name: str = "leaf",
        names: str = "DNS:localhost,IP:127.0.0.1",
        start: timedelta = -DAY,
        end: timedelta = DAY,
        digest: str = "sha256",
        algorithm: str = "EC -pkeyopt ec_paramgen_curve:P-256",
    ) -> Pair:
        """Another one, in the empty folder `work`; valid from now + `start` to now + `end`."""
        work.mkdir()
        (work / "index.txt").touch()
        listed = f"subjectAltName = {names}" if names else ""
        (work / "ca.cnf").write_text(CONFIGURATION.format(work=work, names=listed))
        pair = Pair(work / "leaf.crt", work / "leaf.key")
        openssl(f"genpkey -algorithm {algorithm} -out {pair.key}")
        openssl(f"req -new -key {pair.key} -subj /CN={common_name} -out {work}/leaf.csr")
        now = datetime.now(UTC)
        dates = f"-startdate {now + start:%Y%m%d%H%M%SZ} -enddate {now + end:%Y%m%d%H%M%SZ}"
        openssl(
            f"ca -batch -notext -config {work}/ca.cnf -extensions leaf -in {work}/leaf.csr -out {pair.certificate} {dates} "
            f"-md {digest} -cert {self.certificate} -keyfile {self.folder}/ca.key"
        )
        return pair


def openssl(arguments: str) -> str:
    """Output of the command."""
    return subprocess.run(["openssl", *arguments.split()], check=True, capture_output=True, text=True).stdout


def put(source: Path, target: Path) -> None:
    """Replaces a file at once, as tools that renew certificates do."""
    shutil.copy(source, target.with_suffix(".new"))
    target.with_suffix(".new").replace(target)
