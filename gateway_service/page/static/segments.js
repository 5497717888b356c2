// What is to be said, in order: segments of sound, and texts that the server speaks. Knows what the present socket has of each.

import { RATE_HZ, SAMPLES_A_FRAME, write } from "./protocol.js";
import { LEAD_IN_FRAMES, Segment } from "./sound.js";

const MESSAGE_SAMPLES = 3200;

export class Segments {
  constructor() {
    this._kept = []; // not shown to their end, the oldest first
    this._next = 0; // the number of the next one that begins
    this._interrupts = 0; // without an answer
  }

  get any() {
    return this._kept.length > 0;
  }

  /** Begins a segment and returns it. One that is open ends. */
  begin(kind, about) {
    this.end();
    const segment = new Segment(kind, about);
    this._kept.push(segment);
    return segment;
  }

  /** The last segment is a whole utterance. */
  end() {
    const open = this._kept.at(-1);
    if (open) open.ended = true;
  }

  /** Drops all. `told`: the server hears of it, and answers. */
  interrupt(told) {
    this._kept = [];
    this._interrupts += told;
  }

  /** The segment with this number, as far as the present socket knows of it. */
  find(number) {
    return this._kept.find((segment) => segment.begun && segment.number === number) ?? null;
  }

  // Another socket

  /** Winds everything that was sent back to where the next socket begins. Returns `resume` of its `config`, less the number. */
  rewind() {
    this._interrupts = 0;
    // What a microphone said during the break is past: it goes on with what is said now.
    this._kept = this._kept.filter((each) => each.isText || (each.kind !== "microphone" && each.count && !each.isShown));
    for (const segment of this._kept) {
      segment.sent = Math.max(0, segment.shown - LEAD_IN_FRAMES) * SAMPLES_A_FRAME;
      if (segment.isText) segment.cut(segment.sent); // the server speaks it again from there
      segment.begun = segment.asked = segment.endSent = false;
    }
    const [first] = this._kept;
    if (first?.number >= 0) this._next = first.number;
    const shown = first?.shown ?? 0;
    return { segment: this._next, first_frame: shown, audio_start_frame: Math.max(0, shown - LEAD_IN_FRAMES) };
  }

  // What comes down

  /** A frame came. Returns the segment that it shows, if it is wanted. */
  shown(frame) {
    const segment = frame.audio_us >= 0 ? this.find(frame.segment) : null;
    segment?.advance(frame.audio_us);
    return segment;
  }

  ended(number) {
    this._kept = this._kept.filter((segment) => segment.number < 0 || segment.number > number);
  }

  interrupted() {
    this._interrupts = Math.max(0, this._interrupts - 1);
  }

  /** The server begins to speak the text that it was asked for. */
  speaking(number) {
    this._next = number + 1;
    const text = this._interrupts ? null : this._asked();
    if (text) Object.assign(text, { number, begun: true, endSent: true });
  }

  /** It cannot speak it. One that had begun, with a number, ends as segments do. */
  speakFailed(number) {
    if (number !== undefined || this._interrupts) return;
    const text = this._asked();
    this._kept = this._kept.filter((segment) => segment !== text);
  }

  _asked() {
    return this._kept.find((segment) => segment.asked && !segment.begun);
  }

  // What goes up

  /** Sends as much as the server should have ahead of the frames that came. */
  pump(send, aheadMs) {
    for (const segment of this._kept) {
      if (segment.endSent) continue;
      if (segment.isText) {
        if (!segment.asked) ask(segment, send);
        return; // until the server has said which segment it is
      }
      while (segment.sent < segment.count && this._room(segment, aheadMs)) this._sendSound(segment, send);
      if (segment.sent < segment.count || !segment.ended) return;
      if (segment.begun) send(write("end_of_segment"));
      segment.endSent = true;
    }
    this._kept = this._kept.filter((segment) => segment.isText || segment.count || !segment.ended);
  }

  _room(segment, aheadMs) {
    if (segment.kind === "microphone") return true;
    const samples = this._kept.reduce((sum, each) => sum + Math.max(0, each.sent - each.shown * SAMPLES_A_FRAME), 0);
    return (samples * 1000) / RATE_HZ < aheadMs;
  }

  _sendSound(segment, send) {
    if (!segment.begun) segment.number = this._next++;
    segment.begun = true;
    const samples = segment.slice(segment.sent, segment.sent + MESSAGE_SAMPLES);
    segment.sent += samples.length;
    send(samples);
  }
}

function ask(segment, send) {
  const { text, voice } = segment;
  segment.asked = true;
  send(write("speak", { text, ...(voice && { voice }), ...(segment.shown && { resumed: true }) }));
}
