"""Errors of an avatar's files, as the statuses that callers see."""

from __future__ import annotations

import grpc
import pytest

from avatar_kit.errors import AvatarError, AvatarNotFound, AvatarReplaced, BrokenAvatar, InvalidAvatarId
from service_kit.errors import InvalidRequest, ServiceError, as_service_errors

Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidAvatarId, Code.INVALID_ARGUMENT),
        (AvatarNotFound, Code.NOT_FOUND),
        (BrokenAvatar, Code.FAILED_PRECONDITION),
        (AvatarReplaced, Code.ABORTED),
    ],
)
def test_each_has_its_status_and_names_its_first_problems(error: type[AvatarError], code: grpc.StatusCode) -> None:
    with pytest.raises(ServiceError) as raised, as_service_errors(AvatarError, field="model_id"):
        raise error([f"picture {number} is missing" for number in range(5000)])
    assert raised.value.code is code
    assert "picture 9 is missing; and 4990 more like these" in raised.value.message
    if isinstance(raised.value, InvalidRequest):
        assert [violation.field for violation in raised.value.violations] == ["model_id"]


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), as_service_errors(AvatarError, field="model_id"):
        _ = 1 / 0
