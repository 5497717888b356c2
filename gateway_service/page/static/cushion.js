// The jitter cushion: when each frame is shown. Frames come 40 ms apart, more or less; they are shown 40 ms apart, exactly.

import { FRAME_MS, RATE_HZ } from "./protocol.js";

const FRAME_S = FRAME_MS / 1000;
// Planning a frame's sound takes so long after it came; decoding its picture at least and at most so long.
const PLAN_S = 0.015;
const [LEAST_LEAD_S, MOST_LEAD_S] = [0.03, 0.3];
const DECODED = 50;
const FIRST_S = 0.06;
const LEAST_S = 0.03;
const MOST_S = 0.4;
// Frames whose arrivals decide about the cushion, twelve seconds; and how many of them may come too late for it.
const REMEMBERED = 300;
const LATE = 0.01;
// While nobody speaks a frame may be shown shorter or longer: unseen by so much, and for a large gap up to twice as fast.
const STEP_S = 0.004;
const LONG_STEP_S = 0.02;
const SHARE = 0.1;
// So much is not made up for by steps.
const LEAP_S = 3;

export class Cushion {
  constructor() {
    this._base = null; // frame n is due at base + n x 40 ms
    this._behind = []; // arrivals on the same scale
    this._lastDue = -Infinity;
    this._decodings = [];
    this._lead = LEAST_LEAD_S; // seconds that a frame must have before its time
    this.shifts = 0; // frames that came too late for their time
  }

  /** Seconds between the earliest usual arrival of a frame and its time. */
  get seconds() {
    return this._base === null ? 0 : this._base - ascending(this._behind)[0];
  }

  /** Seconds by which the cushion is larger than the arrivals of the last seconds need. */
  get excess() {
    return this._base === null ? 0 : this._base - this._wanted();
  }

  /** The clock took a step: all that is planned moves with it. */
  step(seconds) {
    if (this._base !== null) this._base += seconds;
    this._behind = this._behind.map((each) => each + seconds);
    this._lastDue += seconds;
  }

  /** A picture was ready so many seconds after it came. */
  decoded(seconds) {
    this._decodings.push(seconds);
    if (this._decodings.length > DECODED) this._decodings.shift();
    const usual = ascending(this._decodings)[Math.floor(0.9 * (this._decodings.length - 1))];
    this._lead = Math.min(MOST_LEAD_S, Math.max(LEAST_LEAD_S, 1.2 * usual));
  }

  /** A frame came at `now`, the earliest moment at which sound can begin. Returns the moment at which it is due. */
  arrived(number, now, idle) {
    const behind = now - number * FRAME_S;
    this._base ??= behind + this._lead + FIRST_S;
    this._behind.push(behind);
    if (this._behind.length > REMEMBERED) this._behind.shift();
    if (idle) this._adapt();
    else this._keepAhead(behind);
    // Whole samples, so that each frame's sound begins where the one before it ends.
    this._lastDue = Math.round(Math.max(this._base + number * FRAME_S, this._lastDue + FRAME_S / 4) * RATE_HZ) / RATE_HZ;
    return this._lastDue;
  }

  /** Moves towards the cushion that is wanted. */
  _adapt() {
    const gap = this._wanted() - this._base;
    const step = Math.min(LONG_STEP_S, Math.max(STEP_S, SHARE * Math.abs(gap)));
    this._base += Math.abs(gap) > LEAP_S ? gap : Math.max(-step, Math.min(step, gap));
  }

  /** The base with which all but the latest few frames of the last seconds would have come in time. */
  _wanted() {
    const sorted = ascending(this._behind);
    const usual = sorted[Math.floor((1 - LATE) * (sorted.length - 1))];
    return this._lead + sorted[0] + Math.min(MOST_S, Math.max(LEAST_S, usual - sorted[0]));
  }

  /** A frame with sound that came too late moves its time and that of all after it: nothing of the sound is lost. */
  _keepAhead(behind) {
    if (behind + PLAN_S <= this._base) return;
    this._base = behind + this._lead;
    this.shifts += 1;
  }
}

function ascending(numbers) {
  return numbers.toSorted((a, b) => a - b);
}
