"""The .proto files against the contract that existing clients were built from."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2

from shared_proto import compositing_pb2, inference_pb2, monolithic_pb2, optimized_lipsyncsrv_pb2

from ..wire_contract import SERVICES, SESSIONS, STREAMS_BOTH_WAYS, file_of

OURS = {
    "inference": inference_pb2,
    "compositing": compositing_pb2,
    "monolithic": monolithic_pb2,
    "optimized_lipsyncsrv": optimized_lipsyncsrv_pb2,
}
FIRST_OF_OURS = 16
_Field = descriptor_pb2.FieldDescriptorProto


def ours(package: str) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    OURS[package].DESCRIPTOR.CopyToProto(file)
    return file


def field_key(field: descriptor_pb2.FieldDescriptorProto) -> tuple[object, ...]:
    return field.number, field.name, field.type, field.label, field.type_name


@pytest.mark.parametrize("package", OURS)
def test_every_message_has_the_contract_s_fields_and_only_additions_from_16_up(package: str) -> None:
    there = {message.name: message for message in ours(package).message_type}
    assert ours(package).package == package
    assert ours(package).syntax == "proto3"
    for wanted in file_of(package).message_type:
        fields = {field_key(field) for field in there[wanted.name].field}
        low = {key for key in fields if key[0] < FIRST_OF_OURS}
        assert low == {field_key(field) for field in wanted.field}, wanted.name


def test_every_message_of_sessions_has_the_contract_s_fields() -> None:
    integers = {_Field.TYPE_INT32, _Field.TYPE_ENUM}
    there = {message.name: {field.number: field for field in message.field} for message in ours("compositing").message_type}
    for wanted in file_of("compositing", SESSIONS).message_type:
        fields = there[wanted.name]
        for field in wanted.field:
            found = fields[field.number]
            assert (found.name, found.label) == (field.name, field.label), wanted.name
            assert found.type == field.type or {found.type, field.type} == integers, (wanted.name, field.name)


@pytest.mark.parametrize(
    ("enum", "values"),
    [
        ("Pacing", ["REALTIME", "AS_FAST_AS_POSSIBLE"]),
        ("IdlePolicy", ["IDLE_AVATAR", "IDLE_REST", "IDLE_STORED", "IDLE_NONE"]),
        ("GoingAwayReason", ["GOING_AWAY_DRAINING", "GOING_AWAY_SESSION_LENGTH"]),
        ("AudioEncoding", ["PCM_FLOAT32", "PCM_INT16"]),
        ("QualityPreset", ["QUALITY_UNSET", "QUALITY_LOW", "QUALITY_MEDIUM", "QUALITY_HIGH"]),
        ("OutputFormat", ["FORMAT_UNSET", "FORMAT_JPEG", "FORMAT_RAW_BGR", "FORMAT_H264"]),
    ],
)
def test_enumerations_of_sessions_have_the_contract_s_numbers(enum: str, values: list[str]) -> None:
    [found] = [each for each in ours("compositing").enum_type if each.name == enum]
    assert {value.name: value.number for value in found.value} == {name: number for number, name in enumerate(values)}


@pytest.mark.parametrize("service", SERVICES)
def test_every_rpc_of_the_contract_is_there_and_of_its_kind(service: str) -> None:
    package, _, name = service.partition(".")
    [found] = [each for each in ours(package).service if each.name == name]
    methods = {method.name: method for method in found.method}
    for rpc, (request, reply) in SERVICES[service].items():
        method = methods[rpc]
        assert (method.input_type, method.output_type) == (f".{package}.{request}", f".{package}.{reply}")
        streams = (service, rpc) in STREAMS_BOTH_WAYS
        assert (method.client_streaming, method.server_streaming) == (streams, streams)


@pytest.mark.parametrize("package", ["inference", "compositing"])
def test_enums_mean_by_0_what_clients_that_do_not_know_them_expect(package: str) -> None:
    zeros = {enum.name: enum.value[0].name for enum in ours(package).enum_type}
    wanted = {"AudioEncoding": "PCM_FLOAT32", "AudioEdges": "EDGES_SILENCE"}
    more = {
        "inference": {
            "MouthFormat": "FLOAT32_BGR",
            "SessionAdmission": "ADMITTED",
            "MouthFit": "FIT_NONE",
            "MouthRate": "MOUTH_RATE_FULL",
            "Overload": "OVERLOAD_NONE",
        },
        "compositing": {
            "QualityPreset": "QUALITY_UNSET",
            "OutputFormat": "FORMAT_UNSET",
            "Pacing": "REALTIME",
            "IdlePolicy": "IDLE_AVATAR",
            "GoingAwayReason": "GOING_AWAY_DRAINING",
            "Overload": "OVERLOAD_NONE",
        },
    }
    assert zeros == wanted | more[package]
