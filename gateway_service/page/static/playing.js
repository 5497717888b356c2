// Plays each frame's 40 ms of sound at the frame's time.

import { RATE_HZ, SAMPLES_A_FRAME } from "./protocol.js";

const FADE_S = 0.015;

export class Playing {
  constructor() {
    this._bus = null;
    this._context = null;
  }

  use(context) {
    this._context = context;
    this._bus = this._newBus();
  }

  /** Plays frame `place` of a segment from `at` on, a time of the context. Returns the loudness of its sound, 0 to 1. */
  play(segment, place, at, audible) {
    const samples = segment.slice(place * SAMPLES_A_FRAME, (place + 1) * SAMPLES_A_FRAME);
    if (audible && this._context?.state === "running" && samples.length) this._schedule(samples, at);
    return loudness(samples);
  }

  /** Ends all sound that is planned. */
  stop() {
    if (!this._bus) return;
    const ending = this._bus;
    ending.gain.setTargetAtTime(0, this._context.currentTime, FADE_S / 3);
    setTimeout(() => ending.disconnect(), 1000 * FADE_S * 4);
    this._bus = this._newBus();
  }

  _schedule(samples, at) {
    const buffer = this._context.createBuffer(1, samples.length, RATE_HZ);
    buffer.copyToChannel(Float32Array.from(samples, (sample) => sample / 32768), 0);
    const source = this._context.createBufferSource();
    source.buffer = buffer;
    source.connect(this._bus);
    // On the context's own grid, so that each piece begins where the one before it ends.
    source.start(Math.round(at * this._context.sampleRate) / this._context.sampleRate);
  }

  _newBus() {
    const bus = this._context.createGain();
    bus.connect(this._context.destination);
    return bus;
  }
}

/** Root mean square of int16 samples, 0 to 1. */
export function loudness(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return samples.length ? Math.sqrt(sum / samples.length) / 32768 : 0;
}
