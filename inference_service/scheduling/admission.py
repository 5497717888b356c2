"""Decides which live sessions can be kept in real time, from the speed of networks and processors, and from late frames.

The networks have their limit on a GPU; where cores have to do with all of a frame, in this service and in others, the processors
may have theirs before. Frames that come late tell of whatever else holds them up, but only once it happens.

Pure policy but for its clock. A new session will ask for FRAME_RATE frames a second, one that shares its requests among several
replicas for fewer here. A frame costs a worker what the last runs of its avatar took, and the processors what all frames took.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from service_kit.clock import Clock
from service_kit.processor_load import ProcessorLoad, Reading
from shared_proto.timing import FRAME_RATE

# A session is carried for so long after its last request.
CARRIED_S = 2.0
# The frames that a session asks for in that time, if it asks here alone.
WHOLE = round(FRAME_RATE * CARRIED_S)
# The share of the capacity that is kept for sessions which go on after they broke.
RESERVE = 0.1
# The most that the processors may have to do. Beyond it frames wait long for their turn: at 0.95 four of ten crowds were late on
# two cores where all spoke at once, at 0.9 none of five.
BUSY_CORES = 0.9
# A frame that is made so long after its time has half of a frame's time left for the rest of its way. While more than this share
# of those of the last CARRIED_S are so far behind, there is no room for new sessions.
BEHIND_S = 0.5 / FRAME_RATE
MOST_BEHIND = 0.1
# The runs that tell a network's speed: those of the last seconds, or the last few of all. The median of them counts, since single
# runs take many times as long when another process has the cores.
RECENT_S = 10.0
ENOUGH_RUNS = 5
MAX_RUNS = 64
# How far apart an avatar's runs may be. A network that runs many frames at once fills its runs only if it waits for them.
RUN_INTERVAL_S = 0.16
# Avatars whose speed is remembered, the last ones that ran.
MAX_AVATARS = 1000


@dataclass
class _Speed:
    """The time that a network takes for a frame in its last runs."""

    run_frames: int = 1
    runs: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MAX_RUNS))  # moment, seconds a frame

    def note(self, now_s: float, *, run_frames: int, seconds_a_frame: float) -> None:
        self.run_frames = run_frames
        self.runs.append((now_s, seconds_a_frame))

    def recent(self, now_s: float) -> list[float]:
        return [seconds for noted_s, seconds in self.runs if now_s - noted_s <= RECENT_S]

    def seconds_a_frame(self, now_s: float) -> float:
        recent = self.recent(now_s)
        return median(recent if len(recent) >= ENOUGH_RUNS else [seconds for _, seconds in self.runs][-ENOUGH_RUNS:])

    def load(self, frames_a_second: float, now_s: float) -> float:
        """Returns the share of one worker's time that so many frames of one avatar take."""
        return max(frames_a_second, self.run_frames / RUN_INTERVAL_S) * self.seconds_a_frame(now_s)


@dataclass
class _Session:
    """A session that is carried, and what it asks for."""

    avatar_id: str
    since_s: float  # beginning of the time in which `frames` were asked for
    seen_s: float
    frames: int = 0
    most: int = 0  # in such a time; 0: none is over yet
    may_halve: bool = False  # under overload it asks for every second frame

    @property
    def asked(self) -> int:
        """Frames that it asks for in CARRIED_S, one at least."""
        return min(self.most, WHOLE) or WHOLE

    def note(self, now_s: float, frames: int) -> None:
        if (passed_s := now_s - self.since_s) >= CARRIED_S:
            self.most = max(self.most, round(self.frames * CARRIED_S / passed_s), 1)
            self.since_s, self.frames = now_s, 0
        self.frames += frames
        self.seen_s = now_s


class _Timeliness:
    """Counts the frames made in the last CARRIED_S, and those of them that came too far behind their time."""

    def __init__(self) -> None:
        self._made: deque[tuple[float, int, int]] = deque()  # moment, frames, those behind
        self._frames = self._behind = 0

    def note(self, now_s: float, *, frames: int, behind: int) -> None:
        self._made.append((now_s, frames, behind))
        self._frames += frames
        self._behind += behind

    def share_behind(self, now_s: float) -> float:
        """Returns the share of those behind. A few frames alone, as at the start of a first session, do not make a large one."""
        while self._made and now_s - self._made[0][0] > CARRIED_S:
            _, frames, behind = self._made.popleft()
            self._frames -= frames
            self._behind -= behind
        return self._behind / max(self._frames, FRAME_RATE)


class Admission:
    """Knows the sessions that are carried and the speed of the networks. Use it on the event loop."""

    def __init__(self, *, workers: int, clock: Clock, admits_all: bool = False, halved: float = 0.5) -> None:
        """`workers`: runs at the same time, on all devices together. `admits_all`: there is always room.

        `halved`: the share of its time that a session takes at half rate.
        """
        self._workers = workers
        self._admits_all = admits_all
        self._saved = 1 - halved
        self._clock = clock
        self._sessions: OrderedDict[str, _Session] = OrderedDict()  # by id; the one seen last at the end
        self._asked: Counter[str] = Counter()  # sum of their `asked` by avatar
        self._halvable: Counter[str] = Counter()  # the part of it that may be halved
        self._speeds: OrderedDict[str, _Speed] = OrderedDict()  # by avatar; the one that ran last at the end
        self._warm_up_speeds: OrderedDict[str, _Speed] = OrderedDict()
        self._all = _Speed()
        self._timeliness = _Timeliness()
        self._processors = ProcessorLoad()

    @property
    def carried(self) -> int:
        """Number of sessions with a sign in the last CARRIED_S."""
        self._forget_gone()
        return len(self._sessions)

    @property
    def frames_a_second(self) -> float:
        """Frames a second that all workers make of the avatars that ran last; 0 before the first run."""
        return self._workers / self._all.seconds_a_frame(self._clock.now()) if self._all.runs else 0.0

    @property
    def share_behind(self) -> float:
        """Share of the sessions' frames of the last CARRIED_S that were made too late to be shown in time."""
        return self._timeliness.share_behind(self._clock.now())

    @property
    def load(self) -> float:
        """Share of the capacity, of all workers or of the processors, that the sessions ask for at full rate."""
        self._forget_gone()
        return self._load(self._asked)

    @property
    def processor_load(self) -> float:
        """Share of what the processors may have to do that the sessions ask for at full rate; 0: not known yet."""
        self._forget_gone()
        return self._of_processors(self._asked)

    def note_processors(self, reading: Reading) -> None:
        """Notes how busy the processors have been until now."""
        self._processors.note(reading)

    def note_batch(self, frames: int) -> None:
        """Notes that frames of batch work are made now."""
        self._processors.note_frames(frames)

    def note_made(self, frames: int, *, first_due_s: float, apart: int = 1) -> None:
        """Notes that frames of a session are made now, so many `apart`, the first of which is due then, on the clock."""
        now_s = self._clock.now()
        behind = sum(now_s - first_due_s - apart * place / FRAME_RATE > BEHIND_S for place in range(frames))
        self._timeliness.share_behind(now_s)  # forgets
        self._timeliness.note(now_s, frames=frames, behind=behind)
        # A mouth that is shown more than once costs as if each frame took only a part of a frame's time.
        self._processors.note_frames(frames * (1 if apart == 1 else apart * (1 - self._saved)))

    def note_run(self, avatar_id: str, *, frames: int, run_frames: int, seconds: float) -> None:
        """Notes that a worker took `seconds` for a batch of `frames` of a network that runs `run_frames` frames at once."""
        full = -(-frames // run_frames) * run_frames  # more frames would have taken no longer
        for speed in (_of(self._speeds, avatar_id), self._all):
            speed.note(self._clock.now(), run_frames=run_frames, seconds_a_frame=seconds / full)

    def note_warm_up(self, avatar_id: str, *, run_frames: int, seconds: float) -> None:
        """Notes the time of the run that warmed a network up, which counts until a batch of any network has run."""
        _of(self._warm_up_speeds, avatar_id).note(self._clock.now(), run_frames=run_frames, seconds_a_frame=seconds / run_frames)

    def is_measured(self, avatar_id: str) -> bool:
        """Tells if this avatar's network has run often enough in the last seconds to be known well."""
        speed = self._speeds.get(avatar_id)
        return speed is not None and len(speed.recent(self._clock.now())) >= ENOUGH_RUNS

    def note_session(self, session_id: str, avatar_id: str, *, asked_frames: int = 0, may_halve: bool | None = None) -> None:
        """Notes a sign of a session: a request for `asked_frames`, or frames made for it. It is carried from now on.

        `asked_frames` are those that it shows, also where it shows each mouth twice. `may_halve`: it would; None: as before.
        """
        self._forget_gone()
        now_s = self._clock.now()
        session = self._forget(session_id) if session_id in self._sessions else _Session(avatar_id, now_s, now_s)
        session.avatar_id = avatar_id
        session.may_halve = session.may_halve if may_halve is None else may_halve
        session.note(now_s, asked_frames)
        self._sessions[session_id] = session
        self._asked[avatar_id] += session.asked
        self._halvable[avatar_id] += session.asked if session.may_halve else 0

    def has_room(self, session_id: str, avatar_id: str, *, resumed: bool = False, may_halve: bool = False) -> bool:
        """Tells if this session can be kept in real time beside the others: one that is carried already, or one more.

        Sessions that `may_halve` the frames that they ask for are expected to, before others are refused. Only a `resumed` one
        gets the last tenth of the networks' time, and a place while the processors have too much to do or frames come late. A
        session of an avatar of which no speed is known has room.
        """
        self._forget_gone()
        if self._admits_all or session_id in self._sessions:
            return True
        if not resumed and self.share_behind > MOST_BEHIND:
            return False
        asked = self._asked + Counter({avatar_id: WHOLE})
        halved = self._halvable + Counter({avatar_id: WHOLE if may_halve else 0})
        kept = {key: frames - self._saved * halved[key] for key, frames in asked.items()}
        return self._of_workers(kept) <= 1 if resumed else self._load(kept) <= 1 - RESERVE

    def refusal(self, avatar_id: str, *, may_halve: bool = False) -> str:
        """Says why a session of this avatar has no room, for its caller."""
        needed = FRAME_RATE * (1 - self._saved * may_halve) / (1 - RESERVE)
        speed = self._speed(avatar_id)
        made = self._workers / speed.seconds_a_frame(self._clock.now()) if speed else needed
        if not self.carried and made < needed:
            return (
                f"a live session could not be kept in real time: the network of {avatar_id} makes {made:.0f} frames a second "
                f"here, and a session takes {needed:.0f}; ask for frames without a clock, as `lipsync render` does, or have "
                "them late with limits.admit_sessions=all"
            )
        return (
            f"one more session could not be kept in real time: there are {self.carried}, or were two seconds ago, the networks "
            f"make {self.frames_a_second:.0f} frames a second, sessions ask for {self.processor_load:.0%} of the processors' "
            f"time, and {self.share_behind:.0%} of their frames come too late; try again later or on another replica"
        )

    def _load(self, asked: Mapping[str, float]) -> float:
        """Returns the share of the capacity that so many frames in CARRIED_S take, by avatar."""
        return max(self._of_workers(asked), self._of_processors(asked))

    def _of_workers(self, asked: Mapping[str, float]) -> float:
        now_s = self._clock.now()
        loads = (speed.load(frames / CARRIED_S, now_s) for key, frames in asked.items() if (speed := self._speed(key)))
        return sum(loads) / self._workers

    def _of_processors(self, asked: Mapping[str, float]) -> float:
        """Counts nothing while no session is carried: the first one shows what frames cost now."""
        return self._processors.share(sum(asked.values()) / CARRIED_S) / BUSY_CORES if self._sessions else 0.0

    def _speed(self, avatar_id: str) -> _Speed | None:
        """Returns what is known best: of the avatar's own runs, of all runs, or of its warm-up."""
        return self._speeds.get(avatar_id) or (self._all if self._all.runs else self._warm_up_speeds.get(avatar_id))

    def _forget_gone(self) -> None:
        gone_s = self._clock.now() - CARRIED_S
        while self._sessions:
            session_id, session = next(iter(self._sessions.items()))
            if session.seen_s > gone_s:
                break
            self._forget(session_id)

    def _forget(self, session_id: str) -> _Session:
        session = self._sessions.pop(session_id)
        self._asked[session.avatar_id] -= session.asked
        self._halvable[session.avatar_id] -= session.asked if session.may_halve else 0
        if not self._asked[session.avatar_id]:
            del self._asked[session.avatar_id], self._halvable[session.avatar_id]
        return session


def _of(speeds: OrderedDict[str, _Speed], avatar_id: str) -> _Speed:
    speed = speeds.setdefault(avatar_id, _Speed())
    speeds.move_to_end(avatar_id)
    if len(speeds) > MAX_AVATARS:
        speeds.popitem(last=False)
    return speed
