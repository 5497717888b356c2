"""Suggestions for unknown keys: what was probably meant, and nothing where nothing was."""

from __future__ import annotations

from typing import ClassVar

import pytest
from pydantic import Field

from service_kit.schema import ID, keys, schema_of
from service_kit.sections import GrpcServerSection, Section
from service_kit.service_settings import GrpcSettings
from service_kit.settings import SettingsError, load_settings


class OwnServer(GrpcServerSection):
    queue_size: int = 64


class Upstream(Section):
    url: str = ""
    timeout_seconds: float = 1


class Store(Section):
    url: str = ""
    ca_file: str = ""


class Quotas(Section):
    store: Store = Store()


class Runtime(Section):
    intra_op_threads: int = 0
    inter_op_threads: int = 0


class Limits(Section):
    max_batch_size: int = 1


class Entry(Section):
    preload: bool = False
    source_video: str = ""


class OwnSettings(GrpcSettings):
    meaningless: ClassVar = {}
    server: OwnServer = OwnServer()
    upstream: Upstream = Upstream()
    quotas: Quotas = Quotas()
    onnx: Runtime = Runtime()
    limits: Limits = Limits()
    models_root: str = ""
    models: dict[str, Entry] = Field(default_factory=dict)


SUGGESTED = {
    # In the same section.
    "server.prot": "server.port",
    "server.queue_sise": "server.queue_size",
    "server.drain_second": "server.drain_seconds",
    "server.monolithic_port": "server.port",
    "server.drain": "server.drain_seconds",
    "server.keepalive": "server.keepalive_seconds or server.keepalive_timeout_seconds",
    "tls.certificate": "tls.certificate_file",
    "tls.ca_file": "tls.client_ca_file",
    "auth.jwt.issur": "auth.jwt.issuer",
    "onnx.threads": "onnx.intra_op_threads or onnx.inter_op_threads",
    "limits.batch_size": "limits.max_batch_size",
    "models.demo.preloda": "models.demo.preload",
    "models.demo.video": "models.demo.source_video",
    # Sections themselves.
    "sever": "server",
    "loging": "logging",
    "modles": "models",
    "models_rot": "models_root",
    "tls_cert": "tls",
    # In the wrong place.
    "queue_size": "server.queue_size",
    "port": "server.port or metrics.port",
    "url": "upstream.url",
    "server.max_batch_size": "limits.max_batch_size",
    "models.demo.max_batchsize": "limits.max_batch_size",
    # With the wrong separator.
    "server_port": "server.port",
    "servr_port": "server.port",
    "quotas_store_url": "quotas.store.url",
}

NOTHING = [
    "zzz",
    "debug",
    "server.url",  # of two others, and it says little
    "server.enabled",  # of many others
    "server.seconds",  # the end of many
    "server.host",
    "auth.token",
    "limits.x",
    "models.demo.port",
    "models.demo.color",
]


def told(key: str) -> str:
    with pytest.raises(SettingsError) as raised:
        load_settings(OwnSettings, config=None, overrides=[f"{key}=1"], environ={})
    [problem] = raised.value.problems
    return problem.removeprefix(f"{key}: unknown key (--set {key})")


@pytest.mark.parametrize(("key", "meant"), SUGGESTED.items(), ids=SUGGESTED)
def test_what_was_probably_meant_is_suggested(key: str, meant: str) -> None:
    assert told(key) == f"; did you mean {meant}?"


@pytest.mark.parametrize("key", NOTHING)
def test_nothing_is_suggested_that_has_little_to_do_with_the_key(key: str) -> None:
    assert told(key) == ""


def test_every_key_with_a_letter_too_many_is_found() -> None:
    for path, _ in keys(schema_of(OwnSettings)):
        if path[-1] != ID:
            *section, name = ("demo" if part == ID else part for part in path)
            wanted = ".".join([*section, name])
            assert told(f"{wanted}{name[-1]}") == f"; did you mean {wanted}?"
