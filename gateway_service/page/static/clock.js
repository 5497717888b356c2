// The time by which everything is shown: the sound that is heard now. Until a browser lets the page play sound, the system's clock.

// The output's own time stamps tremble by some milliseconds; they are followed so slowly that the time runs evenly.
const FOLLOW = 0.05;
const JUMP_S = 0.1;

export class Clock {
  constructor() {
    this._context = null;
    this._offset = 0; // from the system's clock to the time that is heard
    this._heard = 0;
  }

  get context() {
    return this._context;
  }

  get isAudio() {
    return this._context?.state === "running";
  }

  /** Takes the time of a context that runs. Returns the step of `now` in seconds: what is planned moves by it. */
  follow(context) {
    const before = this.now();
    this._context = context;
    this._offset = this._measure();
    this._heard = -Infinity;
    return this.now() - before;
  }

  /** Seconds of sound that were heard. It never goes back; while the system holds the sound, the system's clock goes on. */
  now() {
    const system = performance.now() / 1000;
    if (!this._context) return system;
    if (this.isAudio) {
      const gap = this._measure() - this._offset;
      this._offset += Math.abs(gap) > JUMP_S ? gap : FOLLOW * gap;
    }
    this._heard = Math.max(this._heard, system + this._offset);
    return this._heard;
  }

  /** The earliest moment at which sound can still begin. */
  next() {
    return this.isAudio ? Math.max(this._context.currentTime, this.now()) : this.now();
  }

  _measure() {
    const { contextTime, performanceTime } = this._context.getOutputTimestamp();
    if (performanceTime > 0) return contextTime - performanceTime / 1000;
    return this._context.currentTime - (this._context.outputLatency || 0) - performance.now() / 1000;
  }
}
