// The sound of one segment as it was sent or came: kept while it may have to be sent again, or has still to be played.

import { FRAME_MS, SAMPLES_A_FRAME } from "./protocol.js";

// A frame depends on sound from so many frames before it on (docs/sessions.md, "Resuming").
export const LEAD_IN_FRAMES = 10;

export class Segment {
  /**
   * `kind`: "microphone", "file" or "text". `start`: of a microphone, the moment on the audio clock at which its first sample was
   * captured. `text`, `voice`: what the server speaks, and how.
   */
  constructor(kind, { start = null, text = "", voice = "" } = {}) {
    this.kind = kind;
    this.start = start;
    this.text = text;
    this.voice = voice;
    this.asked = false; // the server was asked to speak it
    this.number = -1; // the server's; known once some of it was sent
    this.count = 0; // samples known
    this.sent = 0; // samples that the present socket has
    this.begun = false; // the present socket has some of it
    this.ended = false; // nothing more is added
    this.endSent = false;
    this.shown = 0; // frames that came
    this.delay = null; // seconds from sound to picture; only of a microphone
    this._held = new Int16Array(0);
    this._from = 0;
  }

  get isText() {
    return this.kind === "text";
  }

  get isShown() {
    return this.ended && this.shown * SAMPLES_A_FRAME >= this.count;
  }

  /** Appends int16 samples. */
  add(samples) {
    const end = this.count - this._from + samples.length;
    if (end > this._held.length) {
      const grown = new Int16Array(Math.max(end, 2 * this._held.length));
      grown.set(this._held);
      this._held = grown;
    }
    this._held.set(samples, this.count - this._from);
    this.count += samples.length;
  }

  /** Drops the samples from `end` on. */
  cut(end) {
    this.count = Math.min(this.count, end);
  }

  /** The frame whose sound begins at `audio_us` came. */
  advance(audio_us) {
    this.shown = Math.round(audio_us / 1000 / FRAME_MS) + 1;
    this._forget();
  }

  /** Returns a copy of samples [first, end), or those of them that are held. */
  slice(first, end) {
    const stop = Math.min(end, this.count) - this._from;
    return this._held.slice(Math.max(0, first - this._from), Math.max(0, stop));
  }

  /** Releases what is not needed any more, in steps of some seconds. */
  _forget() {
    const first = (this.shown - 2 * LEAD_IN_FRAMES) * SAMPLES_A_FRAME;
    if (first - this._from < 500 * SAMPLES_A_FRAME) return;
    this._held = this._held.slice(first - this._from, this.count - this._from);
    this._from = first;
  }
}
