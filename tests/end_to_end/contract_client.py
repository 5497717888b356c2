"""A client of the wire contract alone, and the network's input as the earlier clients make it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import grpc
import numpy as np
from google.protobuf import message_factory

from ..jpegs import decoded
from ..wire_contract import SERVICES, pool_of
from .avatars import background, rect
from .conftest import CALL_S


class ContractClient:
    """Calls RPCs by name, with classes made from the contract's field numbers."""

    def __init__(self, channel: grpc.Channel, service: str) -> None:
        self._channel, self._service = channel, service
        self._package = service.partition(".")[0]
        self._pool = pool_of(self._package)

    def __call__(self, rpc: str, **fields: Any) -> Any:
        request_name, reply_name = SERVICES[self._service][rpc]
        call: Callable[..., Any] = self._channel.unary_unary(
            f"/{self._service}/{rpc}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=self._message_class(reply_name).FromString,
        )
        return call(self._message_class(request_name)(**fields), timeout=CALL_S)

    def _message_class(self, name: str) -> Any:
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"{self._package}.{name}"))


def network_input(index: int) -> np.ndarray:
    """[6, 320, 320] as the earlier clients make it, from the frame's picture."""
    picture = decoded(background(index))
    box = rect(index)
    crop = cv2.resize(picture[box.y1 : box.y2, box.x1 : box.x2], (328, 328), interpolation=cv2.INTER_CUBIC)[4:324, 4:324]
    masked = crop.copy()
    cv2.rectangle(masked, (5, 5, 310, 305), (0, 0, 0), -1)
    both = np.concatenate([crop.transpose(2, 0, 1), masked.transpose(2, 0, 1)])
    return np.ascontiguousarray(both.astype(np.float32) / 255.0)
