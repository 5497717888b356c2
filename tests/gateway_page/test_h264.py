"""Sessions with H.264 in a browser: Chromium's own decoder shows the pictures that the JPEG files have, with their colours."""

from __future__ import annotations

import base64

import cv2
import numpy as np
from playwright.sync_api import Browser

from compositing_service.picture.jpeg.encoder import encode
from service_kit.h264 import H264Encoder

# Draws each access unit as a <video> would, and returns the pixels.
SHOW = """
async ([units, width, height]) => {
  const shown = [];
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d", {willReadFrequently: true});
  const decoder = new VideoDecoder({
    output: frame => {
      context.drawImage(frame, 0, 0);
      frame.close();
      shown.push(context.getImageData(0, 0, width, height).data);
    },
    error: error => { throw error; },
  });
  decoder.configure({codec: "avc1.42E01F", optimizeForLatency: true});
  units.forEach(([key, data], place) => decoder.decode(new EncodedVideoChunk({
    type: key ? "key" : "delta", timestamp: 40000 * place, data: Uint8Array.from(atob(data), each => each.charCodeAt(0)),
  })));
  await decoder.flush();
  const last = shown[shown.length - 1];
  let text = "";
  for (let first = 0; first < last.length; first += 32768) text += String.fromCharCode(...last.subarray(first, first + 32768));
  return [shown.length, btoa(text)];
}
"""
WIDTH, HEIGHT, PICTURES = 1280, 720, 4


def test_chromium_shows_the_colours_of_the_pictures(browser: Browser, address: str) -> None:
    """Fields of strong colours: with another matrix or range their means are off by 5 to 20."""
    colours = np.random.default_rng(5).integers(0, 256, (6, 8, 3), np.uint8)
    colours[0] = [[0, 0, 255], [0, 255, 0], [255, 0, 0], [0, 255, 255], [255, 255, 0], [255, 0, 255], [0, 0, 0], [255, 255, 255]]
    picture = cv2.resize(colours, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
    encoder, file = H264Encoder(90), encode(picture, quality=90, restart_interval=0).tobytes()
    packets = [encoder.encode(file, key=False) for _ in range(PICTURES)]
    units = [[packet.is_key, base64.b64encode(packet.data).decode()] for packet in packets]
    page = browser.new_page()
    page.goto(address)
    count, pixels = page.evaluate(SHOW, [units, WIDTH, HEIGHT])
    page.close()
    assert count == PICTURES
    shown = np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(HEIGHT, WIDTH, 4)[..., 2::-1]
    true = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    for row in range(6):
        for column in range(8):
            field = slice(120 * row + 20, 120 * row + 100), slice(160 * column + 20, 160 * column + 140)
            means = [image[field].mean((0, 1)) for image in (shown, true)]
            assert np.abs(means[0] - means[1]).max() < 2, (colours[row, column], means)
