"""`lipsync avatar optimise`: makes a variant of an avatar's network in fewer bits, and measures it on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.manifest import MANIFEST_NAME
from avatar_tools.demo import SPEECH_PATH
from avatar_tools.variants import VariantPrecision, float32_path, make_variant, serve_network, variant_path
from lipsync_cli.failures import CliError
from lipsync_cli.files import replacing
from lipsync_cli.recording import read_recording
from monolithic_service.network_bench import LEAST_DB, NetworkBench, Way

COLUMNS = ("network", "runs in", ">a frame", ">speed", ">PSNR")
CALIBRATED = 24  # frames


@dataclass(frozen=True)
class Optimised:
    """The measured ways, and what became of the variant."""

    rows: Sequence[tuple[str, ...]]
    told: str
    is_refused: bool = False
    """It was to be served, and is not."""


def optimise(models_root: Path, avatar_id: str, precision: VariantPrecision, *, use: bool) -> Optimised:
    """Makes the variant beside the network, unless one that is there is better; with `use` it is served from now on.

    Raises CliError, AvatarError, ServiceError, DeviceError.
    """
    avatar, catalog = _found(models_root, avatar_id)
    bench = NetworkBench(avatar, catalog, read_recording(SPEECH_PATH).speech())
    frames = [place * avatar.frame_count // CALIBRATED for place in range(CALIBRATED)]
    made = make_variant(avatar, precision, frames, bench.windows(frames))
    place = variant_path(avatar.root, precision)
    with replacing(place) as partial:
        onnx.save(made, partial)
        variants = {precision: partial} | ({f"{precision}, made before": place} if place.is_file() else {})
        exact, present, new, *former = bench.measured(float32_path(avatar), variants)
        rows = [_row(way, exact) for way in (exact, present, new, *former)]
        told = f"{place}: written"
        if former and not is_better(new, former[0]):
            partial.write_bytes(place.read_bytes())
            told, new = f"{place}: kept, as the new one is not closer to float32 at the same speed or more", former[0]
    if not use:
        return Optimised(rows, f"{told}; what is served has not changed (--use)")
    if new.psnr_db < LEAST_DB or new.speed(present) < 1:
        is_so = f"{new.psnr_db:.1f} dB from float32, and {new.speed(present):.2f}x as fast as what is served"
        return Optimised(rows, f"{told}; not served: it is {is_so}; at least {LEAST_DB:g} dB and 1x are needed", is_refused=True)
    serve_network(avatar, place)
    return Optimised(rows, f"{told}, and served from now on; --precision float32 goes back")


def is_better(new: Way, former: Way) -> bool:
    """Tells if a variant may take the place of another: it is closer to float32, and not slower."""
    return new.psnr_db > former.psnr_db and new.speed(former) >= 1


def go_back(models_root: Path, avatar_id: str) -> str:
    """Makes the network in float32 the one that is served. Returns a line about it. Raises AvatarError, CliError."""
    avatar, _ = _found(models_root, avatar_id)
    path = float32_path(avatar)
    if path != avatar.network_path:
        serve_network(avatar, path)
    return f"{path}: served from now on"


def _found(models_root: Path, avatar_id: str) -> tuple[Avatar, AvatarCatalog]:
    catalog = AvatarCatalog(models_root)
    avatar = catalog.get(avatar_id)
    if not (avatar.root / MANIFEST_NAME).is_file():
        raise CliError(f"{avatar_id} is in a layout of the earlier servers: import it first (`lipsync avatar import`)")
    return avatar, catalog


def _row(way: Way, exact: Way) -> tuple[str, ...]:
    return (way.name, way.arithmetic, f"{way.frame_ms:.1f} ms", f"{way.speed(exact):.2f}x", f"{way.psnr_db:.1f} dB")
