// What the screen says: the state in a sentence, problems, buttons, figures.

import { showPicture } from "./http.js";
import { plot } from "./plot.js";

const at = (id) => document.getElementById(id);
const BETWEEN_FIGURES_MS = 250;
const COUNT_MS = 250;
const CONNECTIONS = { waiting: "Connecting", live: "Connected", ended: "Ended" };
const SAYING = {
  microphone: "Listening: speak, and watch.",
  rest: "Showing the rest of what you said.",
  file: "Speaking the file.",
  recording: "Speaking the recording.",
  text: "Speaking your text.",
};

export class Screen {
  constructor(talk) {
    this._talk = talk;
    this._counting = 0;
    this._stream = null; // figures of WebRTC, while it shows the picture
    this.speaksTexts = false;
    at("problem-close").addEventListener("click", () => this.problem(null));
    setInterval(() => this._figures(), BETWEEN_FIGURES_MS);
  }

  /** Says what happens now. Nothing changes where it says so already: a screen reader would repeat it. */
  say(sentence) {
    if (at("state").textContent !== sentence) at("state").textContent = sentence;
  }

  /**
   * Shows what went wrong; null takes it away. `wait_ms`: the time to the next attempt, which is counted down. `action`, `act`: what
   * a button says and does.
   */
  problem(sentence, { wait_ms = 0, action = "", act = null } = {}) {
    at("problem").hidden = !sentence;
    // An alert is read aloud when it changes.
    if (at("problem-text").textContent !== sentence) at("problem-text").textContent = sentence ?? "";
    at("problem-action").hidden = !act;
    at("problem-action").textContent = action;
    at("problem-action").onclick = act;
    this._count(wait_ms);
  }

  /** Takes a problem away, if it is the one that is shown. */
  retract(sentence) {
    if (at("problem-text").textContent === sentence) this.problem(null);
  }

  _count(wait_ms) {
    clearInterval(this._counting);
    const end = performance.now() + wait_ms;
    const show = () => {
      const left = Math.ceil((end - performance.now()) / 1000);
      at("problem-wait").textContent = left > 0 ? `${left} s` : "";
      if (left <= 0) clearInterval(this._counting);
    };
    this._counting = setInterval(show, COUNT_MS);
    show();
  }

  /** "waiting", "live" or "ended". */
  connection(state) {
    at("connection").dataset.state = state;
    at("connection").querySelector(".word").textContent = CONNECTIONS[state];
  }

  /** Opens the ways to speak: before the first connection there is nobody to hear. */
  offer() {
    for (const id of ["microphone", "recording", "file"]) at(id).disabled = false;
    at("text").disabled = at("say").disabled = !this.speaksTexts;
  }

  /** What is spoken: "microphone", "rest" of that, "file", "recording", "text", or null. */
  mode(mode) {
    const listening = mode === "microphone";
    at("microphone").setAttribute("aria-pressed", String(listening));
    at("microphone").querySelector(".word").textContent = listening ? "Stop listening" : "Speak";
    at("interrupt").disabled = !mode;
    this.say(SAYING[mode] ?? "Ready: speak, or let it say something.");
  }

  /** Shows a still until the first frame is there; null: it is. */
  still(avatar) {
    at("still").hidden = !avatar;
    at("person").hidden = Boolean(avatar);
    if (avatar) showPicture(at("still"), avatar.still);
  }

  /** The picture comes over WebRTC from the moment on that `streamShown` is called, or no longer. */
  streaming(on) {
    at("stream-figures").hidden = !on;
    at("drift-plot").hidden = on;
    if (!on) at("stream").hidden = true;
    this._stream = null;
  }

  streamShown() {
    at("stream").hidden = false;
  }

  /** What the browser says of the stream. */
  streamFigures(figures) {
    this._stream = figures;
    at("stream-rate").textContent = `${(figures.kbps / 1000).toFixed(2)} Mbit/s`;
    at("stream-buffer").textContent = milliseconds(figures.bufferMs);
    at("stream-freezes").textContent = figures.freezes;
    at("stream-lost").textContent = figures.lost;
    at("stream-round-trip").textContent = milliseconds(figures.roundTripMs);
    at("stream-decoded").textContent = figures.decoded;
  }

  /** Asks for the API key, or no longer. */
  askForKey(wanted) {
    at("key-form").hidden = !wanted;
    if (wanted) at("key").focus();
  }

  /** How loud it is, 0 to 1. Told with each drawn frame, so that the screen is painted once for both. */
  level(loudness) {
    at("level").style.transform = `scaleX(${loudness.toFixed(2)})`;
  }

  _figures() {
    const { figures, clock, cushion, showing, streaming } = this._talk;
    const now = clock.now();
    const { status } = figures;
    const show = (id, value) => (at(id).textContent = value ?? "–");
    show("stalls", status?.stalls);
    if (streaming) {
      const apart = this._stream?.apartMs;
      for (const id of ["first-frame", "cushion"]) show(id, null);
      show("fps", this._stream?.framesASecond.toFixed(1));
      show("drift", apart == null ? null : milliseconds(apart));
      show("late", `${status?.late_frames ?? 0}, ${this._stream?.dropped ?? 0}`);
    } else {
      const drift = figures.drift();
      show("first-frame", figures.firstFrameMs === null ? null : milliseconds(figures.firstFrameMs));
      show("fps", figures.framesASecond(now).toFixed(1));
      show("drift", drift && `${milliseconds(drift[0])}, at most ${milliseconds(drift[1])}`);
      show("cushion", milliseconds(1000 * cushion.seconds));
      show("late", `${(status?.late_frames ?? 0) + cushion.shifts}, ${showing.dropped}`);
    }
    show("queue", status?.queue_ms.toFixed(1));
    show("audio", status?.audio_ms.toFixed(1));
    show("network", status?.inference_ms.toFixed(1));
    show("composite", status?.composite_ms.toFixed(1));
    if (!streaming) plot(at("plot"), figures.points, now);
  }
}

function milliseconds(value) {
  return `${Math.round(value) || 0} ms`; // no -0
}
