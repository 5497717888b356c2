// Draws the drift of the last frames, and how loud their sound was, in the colours of the page.

const SECONDS = 20;
const RANGE_MS = 80;
const BAND_MS = 40;

/** Draws on a canvas of any size; `points` as Figures keeps them. */
export function plot(canvas, points, now) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const paint = canvas.getContext("2d");
  paint.setTransform(scale, 0, 0, scale, 0, 0);
  paint.clearRect(0, 0, width, height);
  const colour = (name) => getComputedStyle(canvas).getPropertyValue(name);
  const x = (at) => width * (1 - (now - at) / SECONDS);
  const y = (drift) => (height / 2) * (1 - Math.max(-RANGE_MS, Math.min(RANGE_MS, drift)) / RANGE_MS);
  paint.fillStyle = colour("--band");
  paint.fillRect(0, y(BAND_MS), width, y(-BAND_MS) - y(BAND_MS));
  paint.fillStyle = colour("--voice");
  for (const [at, , loud] of points) if (loud) paint.fillRect(x(at), height - loud * 2 * height, (width / SECONDS) * 0.04, loud * 2 * height);
  paint.fillStyle = colour("--accent");
  for (const [at, drift] of points) paint.fillRect(x(at) - 0.75, y(drift) - 0.75, 1.5, 1.5);
}
