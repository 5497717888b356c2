// Tells speech from silence by loudness alone: enough to notice that somebody begins to speak.

import { loudness } from "./playing.js";

const LEAST_DB = -48;
const ABOVE_NOISE_DB = 12;
const BEGINS_MS = 120;
const ENDS_MS = 500;

export class VoiceActivity {
  constructor() {
    this.db = -100;
    this.speaking = false;
    this._noise = -60;
    this._changing = 0;
  }

  /** Takes a chunk of int16 samples that lasts `ms`. Returns "begins" or "ends" when that is so, else null. */
  hear(samples, ms) {
    this.db = 20 * Math.log10(loudness(samples) + 1e-5);
    // Noise is followed at once downwards, slowly upwards.
    this._noise = this.db < this._noise ? this.db : this._noise + 0.02 * (Math.min(this.db, this._noise + 5) - this._noise);
    const loud = this.db > Math.max(LEAST_DB, this._noise + ABOVE_NOISE_DB);
    if (loud === this.speaking) {
      this._changing = 0;
      return null;
    }
    this._changing += ms;
    if (this._changing < (loud ? BEGINS_MS : ENDS_MS)) return null;
    this._changing = 0;
    this.speaking = loud;
    return loud ? "begins" : "ends";
  }
}
