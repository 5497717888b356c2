// Runs beside the sound: hands over what the microphone gave, 32 ms at a time at 16 kHz, with the moment at which it began.

import { RATE_HZ } from "./protocol.js";
import { Resampler } from "./resampler.js";

const CHUNK = 512; // four of the 128 samples that a worklet gets, so chunks come evenly

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this._begin();
  }

  _begin() {
    this._resampler = sampleRate === RATE_HZ ? null : new Resampler(sampleRate, RATE_HZ);
    this._start = null; // of the first sample since the last gap
    this._given = 0; // samples since then
    this._chunk = new Int16Array(CHUNK);
    this._filled = 0;
  }

  process([[channel]]) {
    if (!channel) {
      if (this._start !== null) this._begin();
      return true;
    }
    this._start ??= currentTime;
    for (const sample of this._resampler?.push(channel) ?? channel) {
      this._chunk[this._filled] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
      this._filled += 1;
      if (this._filled === CHUNK) this._give();
    }
    return true;
  }

  _give() {
    this.port.postMessage({ start: this._start + this._given / RATE_HZ, samples: this._chunk });
    this._given += CHUNK;
    this._chunk = new Int16Array(CHUNK);
    this._filled = 0;
  }
}

registerProcessor("capture", Capture);
