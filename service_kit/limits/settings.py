"""The settings of quotas."""

from __future__ import annotations

from pydantic import Field

from service_kit.sections import Section


class QuotaSection(Section):
    """What one may use."""

    sessions: int | None = Field(default=None, ge=0, le=1_000_000)
    """Live sessions at once; null: no limit. One that lost its connection keeps its place for 15 s."""

    speech_seconds_per_minute: float | None = Field(default=None, gt=0, le=1e9)
    """Speech of live sessions; null: no limit. Beyond it, new sessions are refused; running ones go on."""

    batch_frames_per_minute: float | None = Field(default=None, gt=0, le=1e9)
    """Frames of batches; null: no limit."""

    loads_per_hour: float | None = Field(default=None, gt=0, le=1e9)
    """LoadModel; null: no limit."""


class QuotasSection(Section):
    """How much may be used, counted by this process. Beyond it: RESOURCE_EXHAUSTED, with the time after which to come back."""

    per_caller: QuotaSection = QuotaSection()
    per_avatar: QuotaSection = QuotaSection()
    in_all: QuotaSection = QuotaSection()
