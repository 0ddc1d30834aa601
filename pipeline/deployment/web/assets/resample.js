// Pillow's antialiased bicubic resampling of a box, to the last bit: what the student was trained on.
// Two passes, across and down, each with weights of 22 fractional bits and a result rounded to a byte.
"use strict";

const FRACTION_BITS = 22;
const SUPPORT = 2; // of the bicubic kernel, in source pixels at scale 1

// Keys' kernel with a = -0.5.
function bicubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

// For each of `size` outputs, the first source pixel and the weights from there on; `low` and `high` bound the box.
function resamplingWeights(length, low, high, size) {
  const scale = Math.fround(high - low) / size;
  const stretch = Math.max(scale, 1);
  const support = SUPPORT * stretch;
  const outputs = [];
  for (let i = 0; i < size; i++) {
    const center = low + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(length, Math.trunc(center + support + 0.5));
    const weights = Array.from({ length: last - first }, (_, k) => bicubic((k + first - center + 0.5) / stretch));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const fixed = weights.map((weight) => {
      const scaled = (total === 0 ? weight : weight / total) * (1 << FRACTION_BITS);
      return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    outputs.push({ first, weights: Int32Array.from(fixed) });
  }
  return outputs;
}

// The largest square in the middle, as fractions kept in float32 (`center_view` of the Python side).
function centerBox(width, height) {
  const side = Math.min(width, height);
  const edge = (fraction) => Math.fround(Math.min(Math.max(fraction, 0), 1));
  const left = edge((1 - side / width) / 2), top = edge((1 - side / height) / 2);
  const right = edge(1 - (1 - side / width) / 2), bottom = edge(1 - (1 - side / height) / 2);
  return [left * width, top * height, Math.min(right * width, width), Math.min(bottom * height, height)].map(Math.fround);
}

// Pillow 13 goes down first where that shrinks the image more than twice as much; the order shows in the last bits.
function goesDownFirst(width, height, size) {
  return height > size && height - size > 2 * (width - size);
}

// `read(left, top, columns, rows)` gives RGBA bytes of a part of the image: only a strip of it is held at a time.
// Returns RGB bytes, row by row, of the center square at `size` x `size`.
function centerSquare(width, height, size, read, strip = 256) {
  const [left, top, right, bottom] = centerBox(width, height);
  const across = resamplingWeights(width, left, right, size);
  const down = resamplingWeights(height, top, bottom, size);
  const [x0, x1] = span(across), [y0, y1] = span(down);
  const out = new Uint8Array(size * size * 3);
  if (goesDownFirst(width, height, size)) {
    const columns = x1 - x0, half = new Uint8Array(size * columns * 3); // size rows of `columns` pixels
    for (let x = x0; x < x1; x += strip) {
      const lines = Math.min(strip, x1 - x);
      resample(read(x, y0, lines, y1 - y0), 4 * lines, 4, lines, down, y0, half, columns * 3, 3, (x - x0) * 3);
    }
    resample(half, 3, columns * 3, size, across, x0, out, 3, size * 3, 0);
  } else {
    const rows = y1 - y0, half = new Uint8Array(rows * size * 3); // `rows` rows of size pixels
    for (let y = y0; y < y1; y += strip) {
      const lines = Math.min(strip, y1 - y);
      resample(read(x0, y, x1 - x0, lines), 4, 4 * (x1 - x0), lines, across, x0, half, 3, size * 3, (y - y0) * size * 3);
    }
    resample(half, size * 3, 3, size, down, y0, out, size * 3, 3, 0);
  }
  return out;
}

// The first source pixel that any output needs, and the one after the last.
function span(outputs) {
  return [outputs[0].first, Math.max(...outputs.map(({ first, weights }) => first + weights.length))];
}

// One pass along lines of pixels, rows or columns alike: `step` bytes lead to the next pixel, `lineStep` to the next line.
function resample(source, step, lineStep, lines, outputs, shift, out, outStep, outLineStep, offset) {
  const half = 1 << (FRACTION_BITS - 1);
  for (let line = 0; line < lines; line++) {
    outputs.forEach(({ first, weights }, i) => {
      let red = half, green = half, blue = half, at = line * lineStep + (first - shift) * step;
      for (let k = 0; k < weights.length; k++, at += step) {
        red += source[at] * weights[k];
        green += source[at + 1] * weights[k];
        blue += source[at + 2] * weights[k];
      }
      const to = offset + line * outLineStep + i * outStep;
      out[to] = toByte(red);
      out[to + 1] = toByte(green);
      out[to + 2] = toByte(blue);
    });
  }
}

function toByte(sum) {
  return Math.min(255, Math.max(0, sum >> FRACTION_BITS));
}
