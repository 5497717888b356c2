// What the session achieves: counted here from what was drawn, and told by the server.

const WINDOW_S = 2;
const PLOTTED = 500; // frames: 20 s

export class Figures {
  constructor() {
    this.firstFrameMs = null;
    this.delayMs = null;
    this.status = null;
    this.stalls = 0;
    /** [seconds, drift in ms, loudness 0 to 1 or null] of the last frames drawn. */
    this.points = [];
    this._asked = null;
  }

  /** Somebody wants speech now: the next frame of it is the first one. */
  ask(now) {
    this._asked = now;
  }

  /** The clock took a step. */
  step(seconds) {
    for (const point of this.points) point[0] += seconds;
    if (this._asked !== null) this._asked += seconds;
  }

  /** A frame was drawn at `now`, whose sound was heard at `heard`. */
  drawn(frame, heard, now) {
    if (frame.source && this._asked !== null) {
      this.firstFrameMs = 1000 * (now - this._asked);
      this._asked = null;
    }
    if (frame.source?.delay != null) this.delayMs = 1000 * frame.source.delay;
    this.points.push([now, 1000 * (now - heard), frame.source ? frame.loudness : null]);
    if (this.points.length > PLOTTED) this.points.shift();
  }

  /** The server's figures; its counts begin anew with each socket. */
  told(status) {
    this.status = status;
  }

  framesASecond(now) {
    return this.points.filter(([at]) => at > now - WINDOW_S).length / WINDOW_S;
  }

  /** Median and greatest size of the drift in ms over the frames that are plotted; null without any. */
  drift() {
    const sorted = this.points.map(([, drift]) => drift).sort((a, b) => a - b);
    if (!sorted.length) return null;
    const middle = sorted[sorted.length >> 1];
    return [middle, Math.max(Math.abs(sorted[0]), Math.abs(sorted.at(-1)))];
  }
}
