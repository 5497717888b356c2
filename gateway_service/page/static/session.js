// A live session that outlives its sockets: it keeps what another socket needs to go on (docs/sessions.md, "Resuming").

import { FRAME_MS, RATE_HZ, SAMPLES_A_FRAME, read, write } from "./protocol.js";
import { LEAD_IN_FRAMES, Segment } from "./sound.js";

const MESSAGE_SAMPLES = 3200;
// Sound that was not shown is kept this far below the server's bound, so that an interrupt is read at once.
const AHEAD_MS = 2000;
// Waits between attempts; the last one repeats.
const WAITS_MS = [0, 250, 500, 1000, 2000, 4000];
// A server that gives no session for so long is full.
const PATIENT_MS = 3000;
// Another attempt would end in the same way.
const LASTING = new Set(["INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "PERMISSION_DENIED", "UNAUTHENTICATED"]);

/**
 * `listener` is called with (name, content): the server's events; "frame" with `source`, the Segment that it shows or null;
 * "connecting" {attempt, wait_ms, error, lost}, "queued" while the server has no place yet, "connected" {resumed, seconds}, and
 * "failed" {code, message} when it gives up.
 */
export class Session {
  constructor(url, options, listener) {
    this._url = url;
    this.options = options; // of `config`, without the avatar
    this._listener = listener;
    this.avatar = null;
    this._segments = []; // not shown to their end, the oldest first
    this._nextSegment = 0;
    this._nextNumber = 0;
    this._position = 0;
    this._jump = null;
    this._switches = [];
    this._texts = []; // asked for, without an answer
    this._socket = null;
    this._live = false;
    this._ever = false;
    this._attempt = 0;
    this._timer = 0;
    this._lostAt = null;
    this._aheadMs = 500;
  }

  /** Something is being said, or on its way. */
  get busy() {
    return this._segments.length > 0 || this._texts.length > 0;
  }

  get live() {
    return this._live;
  }

  open(avatar) {
    this.avatar = avatar;
    this._attempt = 0;
    this._connect();
  }

  /** Ends the socket. `open` goes on where it was. */
  close() {
    this._drop();
  }

  /** Begins a segment and returns it. One that is open ends. */
  begin(kind, about) {
    this.endSegment();
    const segment = new Segment(kind, about);
    this._segments.push(segment);
    return segment;
  }

  /** Adds int16 samples to a segment that `begin` gave, and that was not dropped meanwhile. */
  push(segment, samples) {
    segment.add(samples);
    this._pump();
  }

  /** The last segment is a whole utterance. */
  endSegment() {
    const open = this._segments.at(-1);
    if (open && !open.ended) open.ended = true;
    this._pump();
  }

  /** Asks the server to speak a text, as a segment of its own. */
  speak(text) {
    this.endSegment();
    this._texts.push(text);
    if (this._live) this._send(write("speak", { text }));
  }

  /** Drops all sound that is not shown. The frames of it that are on their way come without a `source`. */
  interrupt() {
    this._segments = [];
    this._texts = [];
    if (this._live) this._send(write("interrupt"));
  }

  switchAvatar(avatar) {
    this._switches.push(avatar);
    if (this._live) this._send(write("switch_avatar", { model_id: avatar, start_frame_idx: 0 }));
    else this.open(avatar);
  }

  /** Other options from the next frame on: the session goes on over another socket. */
  configure(options) {
    this.options = { ...this.options, ...options };
    if (this._socket) this._connect();
  }

  // Sockets

  _connect() {
    // One that is on its way reads the options and the avatar when it is there.
    if (this._socket?.readyState === WebSocket.CONNECTING) return;
    this._drop();
    const socket = new WebSocket(this._url);
    socket.binaryType = "arraybuffer";
    let ending = null; // the server's own word, if it had one
    socket.onopen = () => {
      socket.send(write("config", this._config()));
      this._timer = setTimeout(() => this._listener("queued"), PATIENT_MS);
    };
    socket.onmessage = ({ data }) => {
      if (socket !== this._socket) return;
      const [name, content] = read(data);
      if (name === "error") ending = content;
      else if (name) this._take(name, content);
    };
    socket.onclose = ({ code }) => {
      if (socket === this._socket) this._broken(ending, code);
    };
    this._socket = socket;
  }

  _drop() {
    clearTimeout(this._timer);
    const socket = this._socket;
    this._socket = null;
    this._live = false;
    if (socket) socket.close(1000);
  }

  _config() {
    this._prepare();
    const config = { model_id: this._switches.at(-1) ?? this.avatar, audio_encoding: "PCM_INT16", ...this.options };
    if (!this._ever) return config;
    const first = this._segments[0];
    const shown = first?.shown ?? 0;
    const resume = { next_number: this._nextNumber, segment: this._nextSegment, audio_start_frame: 0, first_frame: shown };
    if (shown) resume.audio_start_frame = Math.max(0, shown - LEAD_IN_FRAMES);
    return { ...config, start_frame_idx: this._position, resume };
  }

  /** Winds everything that was sent back to where the next socket begins. */
  _prepare() {
    // What a microphone said during the break is past: it goes on with what is said now.
    for (const segment of this._segments) segment.ended ||= segment.kind === "text";
    this._texts.unshift(...this._segments.filter((each) => each.kind === "text" && !each.count).map((each) => each.text));
    this._segments = this._segments.filter((each) => each.kind !== "microphone" && each.count && !each.isShown);
    for (const segment of this._segments) {
      segment.sent = Math.max(0, segment.shown - LEAD_IN_FRAMES) * SAMPLES_A_FRAME;
      segment.begun = segment.endSent = false;
    }
    const first = this._segments[0];
    if (first?.number >= 0) this._nextSegment = first.number;
  }

  _broken(ending, code) {
    this._drop();
    this._lostAt ??= performance.now();
    const error = ending ?? { code: "UNAVAILABLE", message: `the socket was closed (${code})` };
    if (LASTING.has(error.code) || (ending && error.retry_ms === undefined && error.code === "RESOURCE_EXHAUSTED" && !this._ever)) {
      this._listener("failed", error);
      return;
    }
    const wait_ms = error.retry_ms ?? WAITS_MS[Math.min(this._attempt, WAITS_MS.length - 1)];
    this._attempt += 1;
    this._listener("connecting", { attempt: this._attempt, wait_ms, error, lost: this._ever });
    this._timer = setTimeout(() => this._connect(), wait_ms);
  }

  // What comes down

  _take(name, content) {
    switch (name) {
      case "started":
        this._started(content);
        break;
      case "frame":
        if (content.number < this._nextNumber) return;
        this._frame(content);
        break;
      case "jump":
        this._jump = content;
        break;
      case "speaking":
        this._speaking(content);
        break;
      case "sound":
        this._find(content.segment)?.add(content.samples);
        break;
      case "segment_ended":
        this._segments = this._segments.filter((segment) => segment.number < 0 || segment.number > content.segment);
        break;
      case "avatar_switched":
        this.avatar = content.model_id;
        this._position = this._switches.includes(content.model_id) ? 0 : this._position;
        this._switches = this._switches.filter((avatar) => avatar !== content.model_id);
        break;
      case "switch_failed":
        this._switches = this._switches.filter((avatar) => avatar !== content.model_id);
        break;
      case "speak_failed":
        this._texts.shift();
        break;
    }
    this._listener(name, content);
  }

  _started(content) {
    clearTimeout(this._timer);
    const seconds = this._lostAt === null ? 0 : (performance.now() - this._lostAt) / 1000;
    const resumed = this._ever;
    if (this._switches.length) this.avatar = this._switches.at(-1);
    this._switches = [];
    this._lostAt = null;
    this._live = this._ever = true;
    this._aheadMs = Math.min(AHEAD_MS, content.max_buffered_ms / 2);
    for (const text of this._texts) this._send(write("speak", { text }));
    this._listener("connected", { resumed, seconds });
    this._pump();
  }

  _frame(frame) {
    this._attempt = 0;
    this._nextNumber = frame.number + 1;
    this._position = this._jump?.number === frame.number ? this._jump.next_position : frame.position + 1;
    this._jump = null;
    frame.source = frame.audio_us >= 0 ? this._find(frame.segment) : null;
    if (frame.source) {
      frame.source.shown = Math.round(frame.audio_us / 1000 / FRAME_MS) + 1;
      frame.source.forget();
    }
    this._pump();
  }

  _speaking({ segment: number, text }) {
    this._texts.shift();
    const segment = new Segment("text", { text });
    segment.number = number;
    segment.begun = segment.endSent = true;
    this._nextSegment = number + 1;
    this._segments.push(segment);
  }

  _find(number) {
    return this._segments.find((segment) => segment.begun && segment.number === number) ?? null;
  }

  // What goes up

  /** Sends sound, as much of it as the server should have ahead of the frames that came. */
  _pump() {
    if (!this._live) return;
    for (const segment of this._segments) {
      if (segment.endSent) continue;
      while (segment.sent < segment.count && this._room(segment)) this._sendSound(segment);
      if (segment.sent < segment.count || !segment.ended) return;
      if (segment.begun && !segment.endSent) this._send(write("end_of_segment"));
      segment.endSent = true;
    }
    this._segments = this._segments.filter((segment) => segment.count || !segment.ended);
  }

  _room(segment) {
    if (segment.kind === "microphone") return true;
    const samples = this._segments.reduce((sum, each) => sum + Math.max(0, each.sent - each.shown * SAMPLES_A_FRAME), 0);
    return (samples * 1000) / RATE_HZ < this._aheadMs;
  }

  _sendSound(segment) {
    if (!segment.begun) segment.number = this._nextSegment++;
    segment.begun = true;
    const samples = segment.slice(segment.sent, segment.sent + MESSAGE_SAMPLES);
    segment.sent += samples.length;
    this._send(samples);
  }

  _send(message) {
    if (this._socket?.readyState === WebSocket.OPEN) this._socket.send(message);
  }
}
