"""Writes the Grafana dashboard: `python deploy/monitoring/dashboard.py`. A test fails when the JSON is out of date."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("grafana") / "dashboards" / "lipsync.json"
SOURCE = {"type": "prometheus", "uid": "${source}"}
WIDTH, HEIGHT = 24, 8

OF_OURS = 'grpc_service=~"inference.*|compositing.*"'
WHERE = "{{instance}}"
DEVICE = "{{instance}} GPU {{gpu_id}}"


@dataclass(frozen=True)
class Panel:
    """One panel: its queries by legend."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    width: int = 8
    kind: str = "timeseries"
    text: str = ""


def rate(metric: str, *, by: str = "", only: str = "") -> str:
    """The growth of a counter in a second, summed up for each value of the labels `by`."""
    grown = f"rate({metric}{{{only}}}[$__rate_interval])" if only else f"rate({metric}[$__rate_interval])"
    return f"sum by ({by}) ({grown})" if by else grown


def quantiles(metric: str, by: str) -> dict[str, str]:
    """Median and 95th percentile of a histogram, one line for each value of the label."""
    buckets = rate(f"{metric}_bucket", by=f"le, {by}")
    return {f"{{{{{by}}}}} p{100 * q:g}": f"histogram_quantile({q}, {buckets})" for q in (0.5, 0.95)}


CACHE = "lipsync_compositing_cache"
HITS, MISSES = rate(f"{CACHE}_hits_total"), rate(f"{CACHE}_misses_total")

GLANCE = [
    Panel("Services up", {"{{job}}": 'sum by (job) (up{job=~"inference|compositing|gateway|haproxy"})'}, kind="stat", width=6),
    Panel("Frames a second", {"": f"sum({rate('lipsync_compositing_frames_total')})"}, kind="stat", width=6),
    Panel("Calls that fail", {"{{job}}": "lipsync:failed_calls:ratio5m"}, "percentunit", 6, "stat"),
    Panel(
        "Requests slower than their frames play",
        {"": "lipsync:late_requests:ratio5m"},
        "percentunit",
        6,
        "stat",
        text="A viewer sees a stall when nothing is buffered.",
    ),
]

OF_CALLS = [
    Panel(
        "Calls by method",
        {"{{job}} {{grpc_method}}": rate("grpc_server_started_total", by="job, grpc_method", only=OF_OURS)},
        "reqps",
    ),
    Panel(
        "Errors by code",
        {"{{job}} {{grpc_code}}": rate("grpc_server_handled_total", by="job, grpc_code", only=f'{OF_OURS}, grpc_code!="OK"')},
        "reqps",
    ),
    Panel("Time of a call", quantiles("grpc_server_handling_seconds", "grpc_method"), "s"),
    Panel("Calls and streams running", {"{{job}} {{instance}}": "lipsync_running_calls"}),
    Panel("Stalls: requests slower than their frames play", {WHERE: rate("lipsync_compositing_late_requests_total")}, "reqps"),
    Panel(
        "Retries and errors towards inference",
        {
            "retries": f"sum({rate('lipsync_compositing_inference_retries_total')})",
            "{{code}}": rate("lipsync_compositing_inference_errors_total", by="code"),
        },
        "reqps",
    ),
]

OF_COMPOSITING = [
    Panel("Time by stage", quantiles("lipsync_compositing_stage_seconds", "stage"), "s"),
    Panel("Frames a second", {WHERE: rate("lipsync_compositing_frames_total")}),
    Panel("Frames asked for in one request", quantiles("lipsync_compositing_batch_frames", "job")),
    Panel("Backgrounds in memory", {WHERE: f"{CACHE}_bytes", f"{WHERE} may take": f"{CACHE}_max_bytes"}, "bytes"),
    Panel("Share of backgrounds that lay ready", {WHERE: f"{HITS} / ({HITS} + {MISSES})"}, "percentunit"),
    Panel(
        "Evictions",
        {f"{WHERE} backgrounds": rate(f"{CACHE}_evictions_total"), f"{WHERE} avatars": rate(f"{CACHE}_avatar_evictions_total")},
        "ops",
    ),
]

OF_SESSIONS = [
    Panel("Live sessions", {f"{WHERE} runs": "lipsync_sessions", f"{WHERE} carries": "lipsync_inference_sessions"}),
    Panel(
        "Sessions that the networks can carry",
        {WHERE: "lipsync_inference_capacity_frames_per_second / 25"},
        text="As measured in the last seconds in which networks ran. New sessions may take nine tenths of it.",
    ),
    Panel(
        "Processor time that sessions may take",
        {WHERE: "lipsync_inference_processor_load"},
        "percentunit",
        text="At full rate, with all other work but batches. New sessions may fill nine tenths of it.",
    ),
    Panel("Sessions refused", {"{{instance}} {{admission}}": rate("lipsync_inference_refused_sessions_total")}, "reqps"),
    Panel(
        "Overload",
        {f"{WHERE} asks for": "lipsync_inference_overload", f"{WHERE} follows": "lipsync_compositing_overload"},
        text="1: larger groups of frames, batch work waits; 2: half rate where callers allow it; 3: new sessions were refused.",
    ),
    Panel("Frames by kind", {"{{kind}}": rate("lipsync_session_frames_total", by="kind")}),
    Panel(
        "Share of frames that leave late",
        {WHERE: "lipsync:late_frames:ratio5m"},
        "percentunit",
        text="40 ms or more after their time: a viewer without a buffer sees the picture stand still.",
    ),
    Panel(
        "Stalls: the sound of a segment ran out",
        {WHERE: rate("lipsync_session_stalls_total")},
        "ops",
        text="The caller's sound came too late; cushion_ms helps.",
    ),
    Panel(
        "Delay of a segment's first frame",
        quantiles("lipsync_session_first_frame_seconds", "instance"),
        "s",
        text="From when it could be made until it left.",
    ),
    Panel("Sound received and not shown", {WHERE: "lipsync_session_buffered_seconds"}, "s"),
    Panel(
        "Interruptions and resumed sessions",
        {
            "interruptions": f"sum({rate('lipsync_session_interruptions_total')})",
            "resumed": f"sum({rate('lipsync_session_resumes_total')})",
        },
        "ops",
    ),
]

OF_GATEWAY = [
    Panel(
        "Live sessions of browsers",
        {f"{WHERE} sessions": "lipsync_gateway_sessions", f"{WHERE} sockets": "lipsync_gateway_sockets"},
    ),
    Panel("Frames a second to browsers", {WHERE: rate("lipsync_gateway_frames_total")}),
    Panel("Bytes a second to browsers", {WHERE: rate("lipsync_gateway_frame_bytes_total")}, "Bps"),
    Panel(
        "Time of a frame in the gateway",
        quantiles("lipsync_gateway_frame_seconds", "instance"),
        "s",
        text="With waiting for browsers that read slowly.",
    ),
    Panel(
        "WebSockets that ended, and requests refused",
        {
            "{{code}}": rate("lipsync_gateway_ended_total", by="code"),
            "refused: {{reason}}": rate("lipsync_gateway_refused_total", by="reason"),
        },
        "ops",
    ),
    Panel(
        "Connections to compositing, and sessions resumed",
        {f"{WHERE} connections": "lipsync_gateway_connections", f"{WHERE} resumed": rate("lipsync_gateway_resumes_total")},
    ),
]

OF_INFERENCE = [
    Panel("Time by stage", quantiles("lipsync_inference_stage_seconds", "stage"), "s"),
    Panel("Frames waiting", {DEVICE: "lipsync_inference_queued_frames"}),
    Panel("Frames in one run", quantiles("lipsync_inference_batch_frames", "gpu_id")),
    Panel("Frames a second", {DEVICE: rate("lipsync_inference_frames_total")}),
    Panel(
        "Requests given up before their run",
        {"{{reason}}": rate("lipsync_inference_dropped_requests_total", by="reason")},
        "reqps",
    ),
    Panel("Avatars loaded", {WHERE: "lipsync_loaded_models"}),
    Panel(
        "Avatars loaded and unloaded",
        {
            "{{outcome}}": rate("lipsync_model_loads_total", by="outcome"),
            "unloaded: {{reason}}": rate("lipsync_model_evictions_total", by="reason"),
        },
        "ops",
    ),
    Panel("GPU busy", {DEVICE: "lipsync_gpu_utilization_ratio"}, "percentunit"),
    Panel("GPU memory", {DEVICE: "lipsync_gpu_used_memory_bytes", f"{DEVICE} has": "lipsync_gpu_total_memory_bytes"}, "bytes"),
]

OF_MACHINES = [
    Panel("Processor time", {"{{job}} {{instance}}": rate("process_cpu_seconds_total")}),
    Panel("Memory", {"{{job}} {{instance}}": "process_resident_memory_bytes"}, "bytes"),
    Panel("Open files", {"{{job}} {{instance}}": "process_open_fds"}),
]

ROWS = {
    "At a glance": GLANCE,
    "Calls": OF_CALLS,
    "Compositing": OF_COMPOSITING,
    "Live sessions": OF_SESSIONS,
    "Gateway": OF_GATEWAY,
    "Inference": OF_INFERENCE,
    "Machines": OF_MACHINES,
}


def panel_json(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """The panel as Grafana wants it, at its place."""
    targets = [
        {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": query, "legendFormat": legend or "all"}
        for place, (legend, query) in enumerate(panel.queries.items())
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": HEIGHT if panel.kind == "timeseries" else HEIGHT // 2},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


def dashboard() -> dict[str, Any]:
    """All rows, one under the other."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
            }
        )
        y += 1
        x = 0
        for panel in row:
            if x + panel.width > WIDTH:
                x, y = 0, y + HEIGHT
            panels.append(panel_json(panel, len(panels) + 1, x, y))
            x += panel.width
        y += HEIGHT
    return {
        "uid": "lipsync",
        "title": "Lip-sync serving",
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]},
        "panels": panels,
    }


def text() -> str:
    """The content of the JSON file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
