// Resamples sound that comes piece by piece: a sinc with a Kaiser window, looked up in a table.

const ZEROS = 24; // crossings of the sinc on each side
const STEPS = 512; // entries of the table between two of them
const BETA = 9; // of the window: what is above the limit is 90 dB down
const SHARE = 0.9; // of the lower rate's half, up to which sound is kept whole

const TABLE = Float64Array.from({ length: ZEROS * STEPS + 2 }, (_, index) => {
  const x = index / STEPS;
  if (x >= ZEROS) return 0;
  const sinc = x ? Math.sin(Math.PI * x) / (Math.PI * x) : 1;
  return (sinc * bessel(BETA * Math.sqrt(1 - (x / ZEROS) ** 2))) / bessel(BETA);
});

export class Resampler {
  /** Rates in Hz. Sample k that comes out is the sound at k / `to` seconds. */
  constructor(from, to) {
    this._step = from / to;
    this._scale = SHARE * Math.min(1, to / from);
    this._reach = ZEROS / this._scale;
    this._held = new Float32Array(0);
    this._first = 0; // which of all samples `_held` begins with
    this._next = 0; // of what comes out
  }

  /** Takes samples. Returns those that are complete now: 25 ms of the sound, or less, is still to come. */
  push(samples) {
    const held = new Float32Array(this._held.length + samples.length);
    held.set(this._held);
    held.set(samples, this._held.length);
    const end = this._first + held.length;
    const made = [];
    for (; this._next * this._step + this._reach < end; this._next += 1) made.push(this._at(held, this._next * this._step));
    const kept = Math.max(this._first, Math.ceil(this._next * this._step - this._reach));
    this._held = held.slice(kept - this._first);
    this._first = kept;
    return made;
  }

  _at(held, moment) {
    const last = Math.floor(moment + this._reach);
    let sum = 0;
    for (let sample = Math.max(0, Math.ceil(moment - this._reach)); sample <= last; sample += 1) {
      const place = Math.abs(moment - sample) * this._scale * STEPS;
      const below = Math.floor(place);
      const weight = TABLE[below] + (place - below) * (TABLE[below + 1] - TABLE[below]);
      sum += held[sample - this._first] * weight;
    }
    return sum * this._scale;
  }
}

/** The modified Bessel function of order 0, by its series. */
function bessel(x) {
  let [sum, term] = [1, 1];
  for (let k = 1; term > sum * 1e-12; k += 1) {
    term *= (x / 2 / k) ** 2;
    sum += term;
  }
  return sum;
}
