"""The sessions of one graph on one device, lent for one run at a time, and those that several avatars share."""

from __future__ import annotations

import logging
import queue
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import onnx
import onnxruntime

from avatar_kit.errors import BrokenAvatar
from inference_service.engines.device_copies import Placed
from inference_service.engines.devices import CPU, CUDA, Device
from inference_service.engines.fixed_buffers import FixedBuffers, WeightBlock
from inference_service.engines.outputs import FloatOutputs, PixelOutputs, RunOutputs
from inference_service.engines.sessions import open_session
from inference_service.engines.shared_memory import SharedMemory
from inference_service.graphs.weights import Place, SharedGraph
from inference_service.graphs.wrapping import WrappedNetwork, without_sent_pictures
from inference_service.settings import OnnxSection

log = logging.getLogger(__name__)

# Providers that take weights as inputs. Others compile them into their programs.
_TAKES_WEIGHTS = frozenset({CPU, CUDA})


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """A session for one run at a time, and where its outputs are. A GPU's sessions have one lane each."""

    session: onnxruntime.InferenceSession
    outputs: RunOutputs
    fixed: Mapping[int, FixedBuffers]  # for CUDA graphs, by the frames of a run


class NetworkSessions:
    """The sessions of one graph on one device. Thread-safe."""

    def __init__(
        self,
        model: onnx.ModelProto,
        network: WrappedNetwork,
        device: Device,
        options: OnnxSection,
        *,
        name: str,
        run_sizes: Sequence[int],
        places: Sequence[Place] = (),
        bank: Placed | None = None,
    ) -> None:
        """Opens the sessions. `run_sizes`: frames of a run, ascending; `places`: of weights that are inputs.

        `bank`: the device's arena of crops, for captured graphs.

        Raises BrokenAvatar, naming the file `name`, and DeviceError.
        """
        self.network = network
        self._device = device
        self._places = places
        self._bank = bank
        self._captures = options.cuda_graphs and device.replays_graphs
        self.memory = SharedMemory()
        self._is_gpu = device.is_gpu
        self._run_sizes = run_sizes
        count = options.cuda_streams_per_worker if device.is_gpu else 1
        self.sessions = [open_session(model, device, options, name=name) for _ in range(count)]
        captured = without_sent_pictures(model) if self._captures else model
        self._idle: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        for session in self.sessions:
            self._idle.put(self._lane(session, self._replayed(captured, options, name) if self._captures else None))

    @contextmanager
    def lent_lane(self) -> Iterator[Lane]:
        """Lends a lane for the runs of a batch: on a GPU one of a session that no other has, on a CPU one of the one session."""
        try:
            lane = self._idle.get(block=self._is_gpu)
        except queue.Empty:
            lane = self._lane(self.sessions[0])
        try:
            yield lane
        finally:
            self._idle.put(lane)

    def _replayed(self, model: onnx.ModelProto, options: OnnxSection, name: str) -> onnxruntime.InferenceSession | None:
        """Opens a session that replays CUDA graphs; None for a network that cannot be captured, such as one with a loop."""
        try:
            return open_session(model, self._device, options, name=name, captures=True)
        except BrokenAvatar as error:
            log.warning("runs without captured graphs (onnx.cuda_graphs): %s", error)
            return None

    def _lane(self, session: onnxruntime.InferenceSession, replayed: onnxruntime.InferenceSession | None = None) -> Lane:
        outputs = PixelOutputs if self._is_gpu else FloatOutputs
        fixed: dict[int, FixedBuffers] = {}
        if replayed:
            block, thread = WeightBlock(self._places, self._device), ThreadPoolExecutor(1, thread_name_prefix="captured")
            fixed = {
                size: FixedBuffers(replayed, self.network, block, self._device, size, thread=thread, bank=self._bank)
                for size in self._run_sizes
            }
        return Lane(session, outputs(self.network.mouths_float, self._run_sizes[-1]), fixed)


_Key: TypeAlias = tuple[str, int, tuple[int, ...]]  # of a graph, a device and the sizes of runs


class SharedSessions:
    """The sessions that avatars with equal graphs share: open while an engine of one of them lives. Thread-safe."""

    def __init__(self, options: OnnxSection) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._opened: weakref.WeakValueDictionary[tuple[str, int, tuple[int, ...]], NetworkSessions] = (
            weakref.WeakValueDictionary()
        )

    def are_for(self, device: Device) -> bool:
        """Tells if avatars on the device share sessions, as far as their graphs are equal."""
        provider = device.providers[0][0]
        wanted = provider != CPU if self._options.share_sessions == "auto" else self._options.share_sessions
        return wanted and provider in _TAKES_WEIGHTS

    def sessions(
        self, graph: SharedGraph, device: Device, *, name: str, run_sizes: tuple[int, ...], bank: Placed | None = None
    ) -> NetworkSessions:
        """Returns the sessions of a graph on a device, and opens them first if needed. Raises BrokenAvatar and DeviceError."""
        key = (graph.key, device.gpu_id, run_sizes)
        with self._lock:
            found = self._opened.get(key)
        if found is not None:
            return found
        opened = NetworkSessions(
            graph.model, graph.network, device, self._options, name=name, run_sizes=run_sizes, places=graph.places, bank=bank
        )
        with self._lock:  # not held while they are opened: another load may be opening them too, or be stuck at it
            return self._opened.setdefault(key, opened)
