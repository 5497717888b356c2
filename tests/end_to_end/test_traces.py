"""Traces as a collector receives them: the services run as processes, and the collector is an OTLP receiver of this test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

from ..grpc_servers import serving
from .avatars import write_avatar
from .processes import free_port, running, until
from .talking import pcm

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SAMPLED = (("traceparent", f"00-{TRACE}-{CALLER}-01"),)
FEATURES = bytes(4 * 16 * 512)  # of all frames


@dataclass
class Collector(TraceServiceServicer):
    """Keeps the spans that come, by the service that sent them."""

    spans: list[tuple[str, Span]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    address: str = ""

    def Export(self, request: otlp.ExportTraceServiceRequest, context: object) -> otlp.ExportTraceServiceResponse:
        with self.lock:
            for resource in request.resource_spans:
                names = {each.key: each.value.string_value for each in resource.resource.attributes}
                self.spans += [(names["service.name"], span) for scope in resource.scope_spans for span in scope.spans]
        return otlp.ExportTraceServiceResponse()

    def of(self, trace: str) -> list[tuple[str, Span]]:
        with self.lock:
            return [(service, span) for service, span in self.spans if span.trace_id.hex() == trace]


@pytest.fixture
def collector() -> Iterator[Collector]:
    receiver = Collector()
    with serving(add_TraceServiceServicer_to_server, receiver) as address:
        receiver.address = f"http://{address}"
        yield receiver


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    root.mkdir()
    write_avatar(root, "small")
    return root


def batch(model_id: str = "small") -> pb.CompositeBatchRequest:
    return pb.CompositeBatchRequest(model_id=model_id, audio_features=FEATURES, batch_size=8)


def path_of(spans: list[tuple[str, Span]], leaf: str) -> list[tuple[str, str]]:
    """The spans from the one named `leaf` up to the one whose parent is not ours: service and name."""
    by_id = {span.span_id: (service, span) for service, span in spans}
    service, span = next(each for each in spans if each[1].name == leaf)
    path = [(service, span.name)]
    while span.parent_span_id in by_id:
        service, span = by_id[span.parent_span_id]
        path.append((service, span.name))
    assert span.parent_span_id.hex() in {"", CALLER}
    return path


async def test_one_trace_leads_through_all_services(root: Path, collector: Collector, tmp_path: Path) -> None:
    traced = f"tracing.endpoint={collector.address}"
    with (
        running("inference", f"models_root={root}", traced, log=tmp_path / "inference") as inference,
        running(
            "compositing",
            f"models_root={root}",
            f"inference_server.url={inference.address}",
            traced,
            log=tmp_path / "compositing",
        ) as compositing,
        running("gateway", f"compositing_server.url={compositing.address}", traced, log=tmp_path / "gateway") as gateway,
        grpc.insecure_channel(compositing.address) as channel,
    ):
        stub = CompositingServiceStub(channel)
        assert stub.InferBatchComposite(batch(), timeout=60, metadata=SAMPLED).success
        with pytest.raises(grpc.RpcError):
            stub.InferBatchComposite(batch("none"), timeout=60, metadata=SAMPLED)
        until(lambda: sum(span.kind == Span.SPAN_KIND_SERVER for _, span in collector.of(TRACE)) == 3)
        spans = collector.of(TRACE)
        upward = [
            ("lipsync-inference", "inference.InferenceService/InferStream"),
            ("lipsync-compositing", "mouths"),
            ("lipsync-compositing", "compositing.CompositingService/InferBatchComposite"),
        ]
        for leaf in ("queue", "network"):
            assert path_of(spans, leaf) == [("lipsync-inference", leaf), *upward]
        assert path_of(spans, "paste") == [("lipsync-compositing", "paste"), upward[-1]]
        failed = [span for _, span in spans if span.status.code == Status.STATUS_CODE_ERROR]
        codes = {each.value.string_value for span in failed for each in span.attributes if "status_code" in each.key}
        assert codes == {"NOT_FOUND"}
        for _, span in spans:
            assert span.start_time_unix_nano <= span.end_time_unix_nano

        # A browser's session goes over the lasting call between the services, and has its place in the browser's trace.
        headers = {"traceparent": f"00-{TRACE[::-1]}-{CALLER}-01"}
        async with aiohttp.ClientSession(headers=headers) as http, http.ws_connect(f"http://{gateway.address}/ws") as socket:
            await socket.send_json({"config": {"model_id": "small", "audio_encoding": "PCM_INT16"}})
            await socket.send_bytes(pcm(np.full(32_000, 0.1), pb.PCM_INT16))
            await socket.send_json({"end_of_segment": {}})
            while (message := await socket.receive()).type is not aiohttp.WSMsgType.TEXT or "segment_ended" not in message.json():
                assert message.type in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}
        names = {"GET /ws", "compositing.CompositingService/StreamComposite", "audio"}
        until(lambda: names <= {span.name for _, span in collector.of(TRACE[::-1])})
        spans = collector.of(TRACE[::-1])
        assert path_of(spans, "audio")[-1] == ("lipsync-gateway", "GET /ws")
        assert {service for service, _ in path_of(spans, "audio")} == {
            f"lipsync-{name}" for name in ("inference", "compositing", "gateway")
        }


def test_a_service_that_records_nothing_passes_a_trace_on_and_an_undecided_caller_is_heard(
    root: Path, collector: Collector, tmp_path: Path
) -> None:
    traced = f"tracing.endpoint={collector.address}"
    with (
        running("inference", f"models_root={root}", traced, "tracing.sample_ratio=0", log=tmp_path / "inference") as inference,
        running(
            "compositing", f"models_root={root}", f"inference_server.url={inference.address}", log=tmp_path / "compositing"
        ) as compositing,
        grpc.insecure_channel(compositing.address) as channel,
    ):
        stub = CompositingServiceStub(channel)
        unwanted = f"00-{TRACE[::-1]}-{CALLER}-00"
        for traceparent in (unwanted, "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"):
            assert stub.InferBatchComposite(batch(), timeout=60, metadata=(("traceparent", traceparent),)).success
        assert stub.InferBatchComposite(batch(), timeout=60, metadata=SAMPLED).success
        until(lambda: path_found(collector))
    assert {span.trace_id.hex() for _, span in collector.spans} == {TRACE}
    [call] = [span for _, span in collector.of(TRACE) if span.kind == Span.SPAN_KIND_SERVER]
    assert call.parent_span_id.hex() == CALLER


def path_found(collector: Collector) -> bool:
    return any(span.name == "network" for _, span in collector.of(TRACE))


def test_spans_leave_before_the_process_does_and_a_collector_that_is_gone_holds_nothing_up(
    root: Path, collector: Collector, tmp_path: Path
) -> None:
    for address in (collector.address, f"http://127.0.0.1:{free_port()}"):
        with running("inference", f"models_root={root}", f"tracing.endpoint={address}", log=tmp_path / "log") as inference:
            with grpc.insecure_channel(inference.address) as channel:
                ask = channel.unary_unary("/inference.InferenceService/ListModels")
                ask(b"", timeout=60, metadata=SAMPLED)
            inference.process.terminate()
            assert inference.process.wait(60) == 0
    assert [span.name for _, span in collector.spans] == ["inference.InferenceService/ListModels"]
