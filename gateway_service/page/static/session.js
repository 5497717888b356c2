// A live session that outlives its sockets: it keeps what another socket needs to go on (docs/sessions.md, "Resuming").

import { readProblem, ticket } from "./http.js";
import { keyHeaders } from "./key.js";
import { read, write } from "./protocol.js";
import { Segments } from "./segments.js";

// Sound that was not shown is kept this far below the server's bound, so that an interrupt is read at once.
const AHEAD_MS = 2000;
// Waits between attempts; the last one repeats.
const WAITS_MS = [0, 250, 500, 1000, 2000, 4000];
// A server that gives no session for so long has an avatar to load.
const PATIENT_MS = 3000;
// Another attempt would end in the same way, or nobody may be there to want it.
const LASTING = new Set([
  "INVALID_ARGUMENT",
  "NOT_FOUND",
  "FAILED_PRECONDITION",
  "PERMISSION_DENIED",
  "UNAUTHENTICATED",
  "DEADLINE_EXCEEDED",
]);

/**
 * `listener` is called with (name, content): the server's events; "frame" with `source`, the Segment that it shows or null;
 * "connecting" {attempt, wait_ms, error, lost}, "slow" while the server prepares the session, "connected" {resumed, seconds}, and
 * "failed" {code, message} when it gives up: `wake` tries again.
 */
export class Session {
  constructor(url, options, listener) {
    this._url = url;
    this.options = options; // of `config`, without the avatar
    this._listener = listener;
    this.avatar = null;
    this._segments = new Segments();
    this._nextNumber = 0;
    this._position = 0;
    this._jump = null;
    this._switches = [];
    this._socket = null;
    this._live = false;
    this._ever = false;
    this._attempt = 0;
    this._timer = 0; // of the next attempt
    this._slow = 0;
    this._lostAt = null;
    this._aheadMs = 500;
  }

  /** Something is being said, or on its way. */
  get busy() {
    return this._segments.any;
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

  /** Goes on, if it had ended. */
  wake() {
    if (this.avatar && !this._socket && !this._timer) this.open(this.avatar);
  }

  /** Begins a segment and returns it. One that is open ends. */
  begin(kind, about) {
    const segment = this._segments.begin(kind, about);
    this._pump();
    return segment;
  }

  /** Adds int16 samples to a segment that `begin` gave, and that was not dropped meanwhile. */
  push(segment, samples) {
    segment.add(samples);
    this._pump();
  }

  /** The last segment is a whole utterance. */
  endSegment() {
    this._segments.end();
    this._pump();
  }

  /** Has the server speak a text, as a segment of its own; `voice` "": its default. */
  speak(text, voice) {
    this.begin("text", { text, voice });
    this.endSegment();
  }

  /** Drops all sound that is not shown. The frames of it that are on their way come without a `source`. */
  interrupt() {
    this._segments.interrupt(this._live);
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
    let opened = false;
    socket.onopen = async () => {
      opened = true;
      let shown;
      try {
        shown = await ticket();
      } catch (error) {
        ending = { code: error.code ?? "UNAVAILABLE", message: error.message, retry_ms: error.retry_ms };
        socket.close(1000);
        return;
      }
      if (socket !== this._socket) return;
      socket.send(write("config", { ...this._config(), ...shown }));
      this._slow = setTimeout(() => this._listener("slow"), PATIENT_MS);
    };
    socket.onmessage = ({ data }) => {
      if (socket !== this._socket) return;
      const [name, content] = read(data);
      if (name === "error") ending = content;
      else if (name) this._take(name, content);
    };
    socket.onclose = async ({ code }) => {
      if (socket !== this._socket) return;
      ending ??= opened ? { code: "UNAVAILABLE", message: `the socket was closed (${code})` } : await refusal(this._url);
      if (socket === this._socket) this._broken(ending);
    };
    this._socket = socket;
  }

  _drop() {
    clearTimeout(this._timer);
    clearTimeout(this._slow);
    this._timer = 0;
    const socket = this._socket;
    this._socket = null;
    this._live = false;
    if (socket) socket.close(1000);
  }

  _config() {
    const place = this._segments.rewind();
    const config = { model_id: this._switches.at(-1) ?? this.avatar, audio_encoding: "PCM_INT16", ...this.options };
    if (!this._ever) return config;
    return { ...config, start_frame_idx: this._position, resume: { next_number: this._nextNumber, ...place } };
  }

  _broken(error) {
    this._drop();
    this._lostAt ??= performance.now();
    const refused = error.code === "RESOURCE_EXHAUSTED" && error.retry_ms === undefined && !this._ever;
    if (LASTING.has(error.code) || refused) {
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
        this._segments.speaking(content.segment);
        this._pump();
        break;
      case "sound":
        this._segments.find(content.segment)?.add(content.samples);
        break;
      case "segment_ended":
        this._segments.ended(content.segment);
        break;
      case "interrupted":
        this._segments.interrupted();
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
        this._segments.speakFailed(content.segment);
        this._pump();
        break;
    }
    this._listener(name, content);
  }

  _started(content) {
    clearTimeout(this._slow);
    const seconds = this._lostAt === null ? 0 : (performance.now() - this._lostAt) / 1000;
    const resumed = this._ever;
    if (this._switches.length) this.avatar = this._switches.at(-1);
    this._switches = [];
    this._lostAt = null;
    this._live = this._ever = true;
    this._aheadMs = Math.min(AHEAD_MS, content.max_buffered_ms / 2);
    this._listener("connected", { resumed, seconds });
    this._pump();
  }

  _frame(frame) {
    this._attempt = 0;
    this._nextNumber = frame.number + 1;
    this._position = this._jump?.number === frame.number ? this._jump.next_position : frame.position + 1;
    this._jump = null;
    frame.source = this._segments.shown(frame);
    this._pump();
  }

  /** Sends what the server should have now. */
  _pump() {
    if (this._live) this._segments.pump((message) => this._send(message), this._aheadMs);
  }

  _send(message) {
    if (this._socket?.readyState === WebSocket.OPEN) this._socket.send(message);
  }
}

/** Asks why the gateway gave no socket: browsers do not say. Returns an error as the server's. */
async function refusal(url) {
  const unknown = { code: "UNAVAILABLE", message: "the connection could not be opened" };
  try {
    const answer = await fetch(url.href.replace(/^ws/, "http"), { headers: keyHeaders() });
    return answer.status === 400 ? unknown : await readProblem(answer); // 400: this is no socket, but could be one
  } catch {
    return { code: "UNAVAILABLE", message: "the gateway does not answer" };
  }
}
