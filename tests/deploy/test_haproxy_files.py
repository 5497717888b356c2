"""HAProxy's configuration, read by HAProxy itself where it is installed; with TLS in tests/docker."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from .compose_files import TREE

HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
FOLDER = TREE / "deploy/haproxy"


@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
@pytest.mark.parametrize("balancer", ["compositing", "inference", "gateway"])
def test_haproxy_reads_it(balancer: str) -> None:
    assert HAPROXY
    command = [HAPROXY, "-c", "-f", str(FOLDER / "haproxy.cfg"), "-f", str(FOLDER / f"{balancer}.cfg")]
    done = subprocess.run(command, check=False, env={}, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "ALERT" not in done.stderr
    assert "WARNING" not in done.stderr
