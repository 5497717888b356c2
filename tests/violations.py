"""Fields that a refused request names."""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


def violations_of(error: grpc.RpcError) -> list[tuple[str, str]]:
    """Each field that a status names, with its problem, in order; none for a status without details of that kind."""
    status = rpc_status.from_call(error)
    found = []
    for detail in status.details if status else ():
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(bad_request):
            found += [(each.field, each.description) for each in bad_request.field_violations]
    return found
