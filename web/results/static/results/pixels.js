// A Web Worker: unpacks pictures bit by bit, and traces the regions of an explanation.
// A canvas would make 16 bits 8, and browsers that guard against fingerprints blur what is read from one.
"use strict";
importScripts("jpegls.js");
(() => {
  const SIGNATURE = 0x89504e47;
  const [IDAT, IEND] = [0x49444154, 0x49454e44];
  const SAMPLES = { 0: 1, 6: 4 }; // of a pixel, by colour type: grey, RGBA (PNG specification, 11.2.1)
  const MAX_PIXELS = 1 << 26;

  // ---- PNG -----------------------------------------------------------------
  const header = (view) => {
    if (view.byteLength < 33 || view.getUint32(0) !== SIGNATURE) return null;
    const [columns, rows] = [view.getUint32(16), view.getUint32(20)];
    const [depth, colour, interlaced] = [view.getUint8(24), view.getUint8(25), view.getUint8(28)];
    const samples = SAMPLES[colour];
    const known = samples && (depth === 8 || (depth === 16 && samples === 1)) && !interlaced && columns * rows <= MAX_PIXELS;
    return known ? { columns, rows, depth, samples, size: (samples * depth) / 8 } : null;
  };
  const inflated = async (view) => {
    const parts = [];
    for (let at = 8; at + 12 <= view.byteLength;) {
      const [length, kind] = [view.getUint32(at), view.getUint32(at + 4)];
      if (kind === IEND) break;
      if (kind === IDAT) parts.push(new Uint8Array(view.buffer, at + 8, length));
      at += 12 + length;
    }
    const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  // Take the filters off, in place (PNG specification, 9.2); each row begins with the number of its own.
  const unfilter = (raw, rows, width, size) => {
    if (raw.length < rows * (width + 1)) throw new Error("a picture was cut short");
    for (let row = 0; row < rows; row += 1) {
      const start = row * (width + 1) + 1;
      const end = start + width;
      const above = start - width - 1; // of the row above; there is none above the first
      const filter = raw[start - 1];
      if (filter === 1) for (let at = start + size; at < end; at += 1) raw[at] += raw[at - size];
      else if (filter === 2 && row) for (let at = start, up = above; at < end; at += 1, up += 1) raw[at] += raw[up];
      else if (filter === 3) {
        for (let at = start, up = above; at < end; at += 1, up += 1) {
          const left = at < start + size ? 0 : raw[at - size];
          raw[at] += (left + (row ? raw[up] : 0)) >> 1;
        }
      } else if (filter === 4) {
        for (let at = start, up = above; at < end; at += 1, up += 1) {
          const first = at < start + size;
          const a = first ? 0 : raw[at - size];
          const b = row ? raw[up] : 0;
          const c = first || !row ? 0 : raw[up - size];
          const [pa, pb] = [Math.abs(b - c), Math.abs(a - c)];
          const pc = Math.abs(a + b - c - c);
          raw[at] += pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
        }
      }
    }
  };
  const unpackedPng = async (bytes) => {
    const view = new DataView(bytes);
    const head = header(view);
    if (!head) return null;
    const { columns, rows, depth, samples, size } = head;
    const width = columns * size;
    const raw = await inflated(view);
    unfilter(raw, rows, width, size);
    if (depth === 16) {
      const values = new Uint16Array(columns * rows);
      for (let row = 0, n = 0; row < rows; row += 1) {
        let at = row * (width + 1) + 1;
        for (let column = 0; column < columns; column += 1, at += 2, n += 1) values[n] = (raw[at] << 8) | raw[at + 1];
      }
      return { columns, rows, samples, depth, values };
    }
    const values = new Uint8Array(rows * width);
    for (let row = 0; row < rows; row += 1) values.set(raw.subarray(row * (width + 1) + 1, (row + 1) * (width + 1)), row * width);
    return { columns, rows, samples, depth, values };
  };

  // ---- regions -------------------------------------------------------------
  // The sides of pixels where one colour ends, as closed lines from corner to corner.
  const sides = (colours, columns, rows) => {
    const found = new Map(); // colour -> from corner, to corner, ...
    const corner = columns + 1;
    for (let row = 0, n = 0; row < rows; row += 1) {
      for (let column = 0; column < columns; column += 1, n += 1) {
        const colour = colours[n];
        if (!colour) continue;
        let lines = found.get(colour);
        if (!lines) found.set(colour, lines = []);
        const at = row * corner + column;
        if (!row || colours[n - columns] !== colour) lines.push(at, at + 1);
        if (column === columns - 1 || colours[n + 1] !== colour) lines.push(at + 1, at + corner + 1);
        if (row === rows - 1 || colours[n + columns] !== colour) lines.push(at + corner + 1, at + corner);
        if (!column || colours[n - 1] !== colour) lines.push(at + corner, at);
      }
    }
    return found;
  };
  const loops = (lines, corner) => {
    const next = new Map(); // corner -> corners that follow; two where regions touch at a corner
    for (let n = 0; n < lines.length; n += 2) {
      const known = next.get(lines[n]);
      if (known) known.push(lines[n + 1]);
      else next.set(lines[n], [lines[n + 1]]);
    }
    const found = [];
    for (const [start, ends] of next) {
      while (ends.length) {
        const xy = [];
        let at = start;
        do {
          xy.push(at % corner, Math.floor(at / corner));
          at = next.get(at).pop();
        } while (at !== start);
        found.push(xy);
      }
    }
    return found;
  };
  // Three moving averages along the line are nearly a Gaussian: stairs become curves.
  const smooth = (xy, reach) => {
    const count = xy.length / 2;
    const half = Math.min(reach, Math.floor(count / 10));
    let points = Float32Array.from(xy);
    for (let pass = 0; half && pass < 3; pass += 1) {
      const smoothed = new Float32Array(points.length);
      for (let axis = 0; axis < 2; axis += 1) {
        let sum = 0;
        for (let k = -half; k <= half; k += 1) sum += points[2 * ((k + count) % count) + axis];
        for (let n = 0; n < count; n += 1) {
          smoothed[2 * n + axis] = sum / (2 * half + 1);
          sum += points[2 * ((n + half + 1) % count) + axis] - points[2 * ((n - half + count) % count) + axis];
        }
      }
      points = smoothed;
    }
    return points;
  };
  const regions = ({ columns, rows, values }) => {
    const colours = new Uint32Array(values.buffer);
    for (let n = 0; n < colours.length; n += 1) if (!values[4 * n + 3]) colours[n] = 0;
    const reach = Math.max(1, Math.round(Math.max(columns, rows) / 170));
    const found = [];
    for (const [colour, lines] of sides(colours, columns, rows)) {
      const [red, , blue, alpha] = new Uint8Array(Uint32Array.of(colour).buffer);
      const outlines = loops(lines, columns + 1).map((loop) => smooth(loop, reach));
      found.push({ supports: red > blue, alpha, outlines });
    }
    return found.sort((a, b) => a.alpha - b.alpha);
  };

  // ---- what the page asks for ------------------------------------------------
  const answer = async ({ id, file, traced }) => {
    try {
      const picture = unpackedJpegLs(file) ?? await unpackedPng(file);
      if (traced) {
        if (picture?.samples !== 4) throw new Error("the explanation is no RGBA picture");
        postMessage({ id, columns: picture.columns, rows: picture.rows, regions: regions(picture) });
      } else if (picture?.samples === 1) {
        const { columns, rows, depth, values } = picture;
        postMessage({ id, columns, rows, depth, values }, [values.buffer]);
      } else {
        const bitmap = await createImageBitmap(new Blob([file]));
        postMessage({ id, columns: bitmap.width, rows: bitmap.height, bitmap }, [bitmap]);
      }
    } catch (fault) {
      postMessage({ id, fault: String(fault) });
    }
  };
  addEventListener("message", ({ data }) => answer(data));
})();
