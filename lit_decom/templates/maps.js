"use strict";
/** What draws the maps and crops of a report, all on canvases of one size. */
const drawing = (data) => {
  const [height, width] = data.canvas;
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const heat = bytes(data.heat);

  const inflate = async (text) => {
    const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };

  /** For each of `size` pixels the four grid cells it is interpolated from, and their weights: bicubic, a = -0.75. */
  const taps = (n, size) => Array.from({ length: size }, (_, pixel) => {
    const at = (pixel + 0.5) * n / size - 0.5;
    const first = Math.floor(at) - 1;
    return [0, 1, 2, 3].map((k) => {
      const x = Math.abs(at - first - k);
      const weight = x <= 1 ? (1.25 * x - 2.25) * x * x + 1 : ((-0.75 * x + 3.75) * x - 6) * x + 3;
      return [Math.min(Math.max(first + k, 0), n - 1), weight];
    });
  });

  const upsample = (map, [h, w], rows, columns) => {
    const tall = new Float32Array(height * w);
    for (let y = 0; y < height; y++) {
      for (const [row, weight] of rows[y]) {
        for (let x = 0; x < w; x++) tall[y * w + x] += weight * map[row * w + x];
      }
    }
    const out = new Float32Array(height * width);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        let sum = 0;
        for (const [column, weight] of columns[x]) sum += weight * tall[y * w + column];
        out[y * width + x] = sum;
      }
    }
    return out;
  };

  /** Draw heat over the grey image, and what is below 0 in blue where a map is signed; one that is not finite in red. */
  const paint = (canvas, grey, values, gain, signed = false) => {
    const context = canvas.getContext("2d");
    const picture = context.createImageData(width, height);
    for (let i = 0; i < height * width; i++) {
      const value = values ? values[i] * gain / (signed ? 127 : 255) : 0;
      const level = Math.min(signed ? Math.abs(value) : Math.max(value, 0), 1);
      const share = level > 0.02 ? 0.15 + 0.7 * level : 0;
      const colour = 3 * Math.floor(level * 255);
      for (let channel = 0; channel < 3; channel++) {
        picture.data[4 * i + channel] = values
          ? (1 - share) * 0.55 * grey[i] + share * heat[colour + (value < 0 ? 2 - channel : channel)]
          : 0.5 * grey[i] + (channel === 0 ? 76 : 0);
      }
      picture.data[4 * i + 3] = 255;
    }
    context.putImageData(picture, 0, 0);
  };

  const greyOf = (photo) => {
    const grey = new Float32Array(height * width).fill(128);
    if (!photo) return grey;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d");
    context.drawImage(photo, 0, 0, width, height);
    const pixels = context.getImageData(0, 0, width, height).data;
    return grey.map((_, i) => (pixels[4 * i] + pixels[4 * i + 1] + pixels[4 * i + 2]) / 3);
  };

  /** Image regions as pictures, each named by the class of its image. */
  const cropsOf = (crops, photos, name) => crops.filter(([row]) => photos.has(String(row))).map(
    ([row, left, top, right, bottom]) => {
      const canvas = Object.assign(document.createElement("canvas"), { width: 112, height: 112 });
      const photo = photos.get(String(row));
      const [down, across] = [photo.naturalHeight / data.image[0], photo.naturalWidth / data.image[1]];
      canvas.getContext("2d").drawImage(
        photo, left * across, top * down, (right - left) * across, (bottom - top) * down, 0, 0, 112, 112);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${name} in an image of ${data.names[row]}`);
      return canvas;
    });

  const make = (tag, text, name = "") => Object.assign(document.createElement(tag), { textContent: text, className: name });

  return { width, height, make, inflate, taps, upsample, paint, greyOf, cropsOf };
};
