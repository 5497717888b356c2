from __future__ import annotations

import pytest

from service_kit.metrics import COUNT_BUCKETS, STAGE_BUCKETS_S, Metrics


def test_services_of_one_process_do_not_share_figures() -> None:
    first, second = Metrics(), Metrics()
    first.counter("lipsync_test_total", "x").inc()
    second.counter("lipsync_test_total", "x")
    assert first.registry.get_sample_value("lipsync_test_total") == 1
    assert second.registry.get_sample_value("lipsync_test_total") == 0


def test_a_name_given_twice_is_an_error() -> None:
    metrics = Metrics()
    metrics.gauge("lipsync_test_bytes", "x")
    with pytest.raises(ValueError, match="Duplicated"):
        metrics.gauge("lipsync_test_bytes", "y")


def test_stages_are_observed_also_when_they_fail() -> None:
    metrics = Metrics()
    stages = metrics.stages("lipsync_test_stage_seconds", "x", ("load", "run"))
    stages["load"].observe(0.003)
    with pytest.raises(RuntimeError), stages["run"].time():
        raise RuntimeError
    with pytest.raises(KeyError):
        stages["other"].observe(1)
    count = "lipsync_test_stage_seconds_count"
    assert [metrics.registry.get_sample_value(count, {"stage": stage}) for stage in ("load", "run")] == [1, 1]
    bucket = "lipsync_test_stage_seconds_bucket"
    assert metrics.registry.get_sample_value(bucket, {"stage": "load", "le": "0.0025"}) == 0
    assert metrics.registry.get_sample_value(bucket, {"stage": "load", "le": "0.005"}) == 1


def test_a_stage_that_was_never_reached_shows_as_zero() -> None:
    """So that a dashboard can tell "never" from "not measured"."""
    metrics = Metrics()
    metrics.stages("lipsync_test_stage_seconds", "x", ("load",))
    assert metrics.registry.get_sample_value("lipsync_test_stage_seconds_count", {"stage": "load"}) == 0


def test_buckets_grow() -> None:
    assert list(STAGE_BUCKETS_S) == sorted(set(STAGE_BUCKETS_S))
    assert list(COUNT_BUCKETS) == sorted(set(COUNT_BUCKETS))
