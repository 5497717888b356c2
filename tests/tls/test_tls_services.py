"""Both services as processes with TLS between them and towards their callers, and the command line before them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest

from lipsync_client import Client, LipsyncError, TlsOptions
from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

from ..end_to_end.avatars import write_avatar
from ..end_to_end.callers import SteadyCaller
from ..end_to_end.processes import Service, free_port, running, running_all, until
from .authority import TREE, Authority, put

SOUND = np.random.default_rng(3).normal(0, 0.1, 16_000).astype(np.float32)
CALL_S = 60
RELOAD = "reload_seconds=0.1"


@pytest.fixture(scope="module")
def models_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_avatar(root, "small")
    return root


def server_tls(authority: Authority, name: str, *, clients: bool = True) -> list[str]:
    pair = authority.pair(name)
    keys = [f"tls.certificate_file={pair.certificate}", f"tls.key_file={pair.key}", f"tls.{RELOAD}"]
    return [*keys, f"tls.client_ca_file={authority.certificate}"] if clients else keys


def client_tls(authority: Authority, name: str = "compositing") -> list[str]:
    pair = authority.pair(name)
    section = "inference_server.tls"
    files = {"ca_file": authority.certificate, "certificate_file": pair.certificate, "key_file": pair.key}
    return [f"{section}.{key}={path}" for key, path in files.items()] + [f"{section}.{RELOAD}"]


@contextmanager
def inference(models_root: Path, *overrides: str, log: Path) -> Iterator[Service]:
    with running("inference", f"models_root={models_root}", *overrides, log=log) as service:
        yield service


@contextmanager
def compositing(models_root: Path, url: str, *overrides: str, log: Path) -> Iterator[Service]:
    settings = [f"models_root={models_root}", f"inference_server.url={url}", "inference_server.timeout_seconds=60"]
    with running("compositing", *settings, *overrides, log=log) as service:
        yield service


@pytest.fixture(scope="module")
def pair(models_root: Path, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The compositing service of two that speak TLS with certificates on both sides, and see to each other's names."""
    logs = tmp_path_factory.mktemp("logs")
    allowed = "tls.allowed_client_names=[compositing]"
    with (
        inference(models_root, *server_tls(authority, "inference"), allowed, log=logs / "inference") as first,
        compositing(
            models_root,
            first.address,
            *client_tls(authority),
            "inference_server.tls.server_name=inference",
            *server_tls(authority, "compositing"),
            "tls.allowed_client_names=[client]",
            log=logs / "compositing",
        ) as second,
    ):
        yield second


def options(authority: Authority, name: str = "client") -> TlsOptions:
    own = authority.pair(name)
    return TlsOptions(authority.certificate, own.certificate, own.key)


def frames(address: str, tls: TlsOptions | None = None) -> list[bytes]:
    with Client(address, tls=tls, timeout=CALL_S) as client:
        return list(client.frames("small", SOUND, batch_size=7))


def code(address: str, tls: TlsOptions | None) -> grpc.StatusCode:
    with pytest.raises(LipsyncError) as caught:
        frames(address, tls)
    return caught.value.code


def test_every_port_of_one_process_asks_for_certificates_and_takes_renewed_ones(
    models_root: Path, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    in_use = Authority(tmp_path / "in-use")
    shutil.copytree(authority.folder, in_use.folder)
    with running_all(f"models_root={models_root}", *server_tls(in_use, "compositing"), log=tmp_path / "log") as services:
        addresses = [service.address for service in services]
        before = [frames(address, options(authority)) for address in addresses]
        assert before == [before[0]] * 3
        for address in addresses:
            assert code(address, None) is grpc.StatusCode.UNAVAILABLE
            assert code(address, TlsOptions(authority.certificate)) is grpc.StatusCode.UNAVAILABLE
        for name in ("ca.crt", "compositing.crt", "compositing.key"):
            put(stranger.folder / name, in_use.folder / name)
        until(partial(renewed_so_often, services[0], 1))
        assert [frames(address, options(stranger)) for address in addresses] == before
        assert {code(address, options(authority)) for address in addresses} == {grpc.StatusCode.UNAVAILABLE}


def test_frames_over_mutual_tls_are_those_in_plaintext(
    pair: Service, models_root: Path, authority: Authority, tmp_path: Path
) -> None:
    with (
        inference(models_root, log=tmp_path / "inference") as first,
        compositing(models_root, first.address, log=tmp_path / "compositing") as second,
    ):
        plain = frames(second.address)
    assert len(plain) == 25
    assert frames(pair.address, options(authority)) == plain


def test_others_are_refused(pair: Service, authority: Authority, stranger: Authority) -> None:
    assert code(pair.address, None) is grpc.StatusCode.UNAVAILABLE
    assert code(pair.address, TlsOptions(authority.certificate)) is grpc.StatusCode.UNAVAILABLE
    own = stranger.pair("client")
    assert code(pair.address, TlsOptions(authority.certificate, own.certificate, own.key)) is grpc.StatusCode.UNAVAILABLE
    assert code(pair.address, options(authority, "haproxy")) is grpc.StatusCode.PERMISSION_DENIED


def test_the_log_of_a_session_names_the_caller_by_its_certificate(pair: Service, authority: Authority) -> None:
    certificates = authority.pair("client")
    files = (authority.certificate, certificates.key, certificates.certificate)
    credentials = grpc.ssl_channel_credentials(*(path.read_bytes() for path in files))
    messages = [pb.SessionRequest(config=pb.SessionConfig(model_id="small", pacing=pb.AS_FAST_AS_POSSIBLE))]
    name = (("grpc.ssl_target_name_override", "compositing"),)
    with grpc.secure_channel(pair.address, credentials, name) as channel:
        list(CompositingServiceStub(channel).StreamComposite(iter(messages), timeout=CALL_S))
    until(lambda: "session ended" in pair.log.read_text())
    [line] = [line for line in pair.log.read_text().splitlines() if "session ended" in line]
    assert " caller=client " in line


def test_http_stays_plaintext_and_tells_the_expiry_of_both_certificates(pair: Service) -> None:
    assert pair.get("/health/ready") == "ok\n"
    sides = [line for line in pair.get("/metrics").splitlines() if line.startswith("lipsync_tls_certificate_expiry")]
    assert len(sides) == 2
    with Client(pair.address) as client, pytest.raises(LipsyncError):
        client.health()


@pytest.fixture
def film_sound(tmp_path: Path) -> Path:
    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((SOUND * 32_767).astype("<i2").tobytes())
    return path


def render(server: str, sound: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lipsync_cli", "render", "--avatar", "small", "--audio", str(sound)]
    where = ["--out", str(sound.with_suffix(".mp4")), "--server", server]
    return subprocess.run([*command, *where, *arguments], check=False, cwd=TREE, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_command_line_renders_over_mutual_tls(pair: Service, authority: Authority, film_sound: Path) -> None:
    own = authority.pair("client")
    files = ["--ca", str(authority.certificate), "--cert", str(own.certificate), "--key", str(own.key)]
    good = render(pair.address, film_sound, *files)
    assert good.returncode == 0, good.stderr
    assert film_sound.with_suffix(".mp4").stat().st_size > 1000
    assert render(pair.address, film_sound, *files, "--server-name", "compositing").returncode == 0
    for arguments, says in (
        ([], "the server closed the connection: it may require TLS"),
        (["--tls"], "not signed by an authority that this client trusts"),
        (files[:2], "the server closed the connection: it may require TLS, or a client certificate"),
        ([*files, "--server-name", "elsewhere"], "does not have the name by which it was called"),
        (files[2:4], "error: TLS: a certificate and its key go together"),
    ):
        bad = render(pair.address, film_sound, *arguments)
        assert bad.returncode == 1
        assert says in bad.stderr
        assert "Traceback" not in bad.stderr


def test_a_start_that_cannot_be_is_one_line_with_every_problem(authority: Authority, tmp_path: Path) -> None:
    wrong = [
        "tls.certificate_file=/none/compositing.crt",
        f"tls.key_file={authority.certificate}",
        f"inference_server.tls.ca_file={authority.pair('client').key}",
        "inference_server.tls.key_file=/none/key",
    ]
    settings = [part for each in ("server.port=127.0.0.1:0", *wrong) for part in ("--set", each)]
    command = [sys.executable, "-m", "lipsync_cli", "serve", "compositing", *settings]
    ended = subprocess.run(command, check=False, cwd=TREE, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (1, "")
    last = ended.stderr.splitlines()[-1]
    for says in (
        "cannot start: tls.certificate_file: /none/compositing.crt cannot be read: No such file or directory; ",
        f"tls.key_file: {authority.certificate} holds no private key in PEM form; ",
        "inference_server.tls.certificate_file: not given, and a client that presents a certificate needs it; ",
        f"inference_server.tls.ca_file: {authority.pair('client').key} holds no certificate in PEM form",
    ):
        assert says in last


@pytest.mark.parametrize("wrong", ["plaintext", "no-certificate", "strange-authority", "strange-certificate", "name"])
def test_an_inference_service_that_cannot_be_trusted_is_unavailable_in_time(
    pair: Service, models_root: Path, authority: Authority, stranger: Authority, tmp_path: Path, wrong: str
) -> None:
    section = "inference_server.tls"
    settings = {
        "plaintext": [],
        "no-certificate": [f"{section}.ca_file={authority.certificate}"],
        "strange-authority": [*client_tls(authority), f"{section}.ca_file={stranger.certificate}"],
        "strange-certificate": [*client_tls(stranger), f"{section}.ca_file={authority.certificate}"],
        "name": [*client_tls(authority), f"{section}.server_name=elsewhere"],
    }[wrong]
    # The compositing service of `pair` wants TLS and a certificate as well: any server does, no call of ours gets through.
    with compositing(models_root, pair.address, *settings, log=tmp_path / "log") as service:
        with Client(service.address, timeout=20) as client, pytest.raises(LipsyncError) as caught:
            client.composite("small", SOUND, batch_size=2)
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        assert caught.value.message == "the inference service cannot be reached; try again shortly"
        reason = "inference call failed after 3 retries: UNAVAILABLE connections to all backends failing; last error: "
        until(lambda: reason in service.log.read_text())


@pytest.mark.slow
def test_a_renewed_client_certificate_is_what_the_next_connection_presents(
    models_root: Path, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    """The inference service comes back trusting the new authority alone."""
    in_use = Authority(tmp_path / "in-use")
    shutil.copytree(authority.folder, in_use.folder)
    port = f"server.port=127.0.0.1:{free_port()}"
    address = port.removeprefix("server.port=")
    with compositing(models_root, address, *client_tls(in_use), log=tmp_path / "compositing") as service:
        with inference(models_root, port, *server_tls(authority, "inference"), log=tmp_path / "one"):
            before = frames(service.address)
        for name in ("ca.crt", "compositing.crt", "compositing.key"):
            put(stranger.folder / name, in_use.folder / name)
        until(lambda: "inference_server.tls: renewed from changed files" in service.log.read_text())
        with inference(models_root, port, *server_tls(stranger, "inference"), log=tmp_path / "two"):
            assert frames(service.address) == before


@pytest.mark.slow
def test_calls_under_way_and_those_that_follow_survive_a_renewal(models_root: Path, authority: Authority, tmp_path: Path) -> None:
    """Both sides get new certificates of the same authority, again and again, while a caller who never retries asks on."""
    in_use = Authority(tmp_path / "in-use")
    shutil.copytree(authority.folder, in_use.folder)
    request = pb.CompositeBatchRequest(model_id="small", batch_size=5, raw_audio=SOUND.tobytes())
    with (
        inference(models_root, *server_tls(in_use, "inference"), log=tmp_path / "inference") as first,
        compositing(models_root, first.address, *client_tls(in_use), log=tmp_path / "compositing") as second,
        SteadyCaller(second.address, request) as caller,
    ):
        for turn in range(3):
            renewed = authority.issue(tmp_path / f"new-{turn}", names="DNS:localhost,IP:127.0.0.1")
            for name in ("inference", "compositing"):
                put(renewed.key, in_use.pair(name).key)
                put(renewed.certificate, in_use.pair(name).certificate)
            for service in (first, second):
                until(partial(renewed_so_often, service, turn + 1))
            caller.wait_for_a_call()


def renewed_so_often(service: Service, times: int) -> bool:
    return service.log.read_text().count("renewed from changed files") == times
