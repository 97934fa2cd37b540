// JPEG-LS (ITU-T T.87, ISO 14495-1), as slices come: one component, without loss. Names are those of the standard.
// No browser knows it, and every DICOM toolkit does; it takes three fifths of what a PNG of 16 bits takes.
"use strict";
const unpackedJpegLs = (() => {
  const [SOF55, LSE, SOS] = [0xf7, 0xf8, 0xda];
  const MAX_PIXELS = 1 << 26;
  // Code order of run lengths (A.2.1).
  const J = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15];

  // ---- what the segments say -------------------------------------------------
  const segments = (view) => {
    const found = {};
    for (let at = 2; at + 4 <= view.byteLength;) {
      const kind = view.getUint16(at) - 0xff00;
      const length = view.getUint16(at + 2);
      if (kind === SOF55) {
        const [depth, rows, columns] = [view.getUint8(at + 4), view.getUint16(at + 5), view.getUint16(at + 7)];
        Object.assign(found, { depth, rows, columns, components: view.getUint8(at + 9) });
      } else if (kind === LSE && view.getUint8(at + 4) === 1) { // preset parameters; 0 is the default
        found.preset = [5, 7, 9, 11, 13].map((n) => view.getUint16(at + n));
      } else if (kind === SOS) {
        const [near, interleaved] = [view.getUint8(at + length - 1), view.getUint8(at + length)];
        return { ...found, plain: !near && !interleaved, begins: at + 2 + length };
      }
      at += 2 + length;
    }
    return null;
  };
  // Default thresholds of gradients (C.2.4.1.1.1), without loss.
  const thresholds = (maximum) => {
    const clamped = (value, low) => (value > maximum || value < low ? low : value);
    if (maximum < 128) {
      const factor = Math.floor(256 / (maximum + 1));
      const first = clamped(Math.max(2, Math.floor(3 / factor)), 1);
      const second = clamped(Math.max(3, Math.floor(7 / factor)), first);
      return [first, second, clamped(Math.max(4, Math.floor(21 / factor)), second)];
    }
    const factor = Math.floor((Math.min(maximum, 4095) + 128) / 256);
    const first = clamped(factor + 2, 1);
    const second = clamped(4 * factor + 3, first);
    return [first, second, clamped(17 * factor + 4, second)];
  };
  // Number of the region of each gradient, -4 to 4 (A.3.3); that of gradient g is at g + maximum.
  const quantised = (maximum, chosen) => {
    const found = new Int8Array(2 * maximum + 1);
    for (const [n, least] of [1, ...chosen].entries()) found.fill(n + 1, maximum + least).fill(-n - 1, 0, Math.max(0, maximum - least + 1));
    return found;
  };
  let regions = null; // of the last picture: the next one has the same

  // ---- bits ------------------------------------------------------------------
  // The bits of the scan without those that were put in: after a byte 0xff one of seven bits follows, and one of
  // eight there is a marker, which ends the scan (A.1). Behind them are zeros.
  const bitsOf = (bytes, begins) => {
    const found = new Uint8Array(bytes.length - begins + 16);
    let written = 0; // bits
    let before = 0;
    for (let at = begins; at < bytes.length; at += 1) {
      const byte = bytes[at];
      if (before === 0xff && byte > 0x7f) break;
      const size = before === 0xff ? 7 : 8;
      const room = 16 - size - (written & 7);
      found[written >> 3] |= (byte << room) >> 8;
      found[(written >> 3) + 1] = byte << room;
      written += size;
      before = byte;
    }
    return [found, written];
  };
  // The 32 bits from one on.
  const word = (bits, from) => {
    const at = from >> 3;
    const shift = from & 7;
    const first = (bits[at] << 24) | (bits[at + 1] << 16) | (bits[at + 2] << 8) | bits[at + 3];
    return (first << shift) | (bits[at + 4] >> 1 >> (7 - shift));
  };

  // ---- the scan ----------------------------------------------------------------
  const scan = (bytes, { rows, columns, depth, preset, begins }) => {
    const maximum = preset?.[0] || 2 ** depth - 1;
    const chosen = thresholds(maximum).map((value, n) => preset?.[n + 1] || value);
    const reset = preset?.[4] || 64;
    const range = maximum + 1;
    const plain = Math.ceil(Math.log2(range)); // qbpp, and bpp: they are one without loss
    const limit = 2 * (Math.max(2, plain) + Math.max(8, plain));
    const known = [maximum, ...chosen].join(" ");
    if (regions?.known !== known) regions = { known, of: quantised(maximum, chosen) };
    const region = regions.of;
    const [bits, total] = bitsOf(bytes, begins);

    // The last two contexts are of what ends a run; B of those is Nn.
    const [A, B, C, N] = [new Int32Array(367), new Int32Array(367), new Int32Array(367), new Int32Array(367)];
    A.fill(Math.max(2, Math.floor((range + 32) / 64)));
    N.fill(1);
    const values = new Uint16Array(rows * columns);
    // A sample at the left of each line, and one at its right (A.2.1).
    let above = new Int32Array(columns + 2);
    let line = new Int32Array(columns + 2);
    let at = 0; // bit
    let run = 0; // RUNindex

    for (let row = 0; row < rows; row += 1) {
      line[0] = above[1];
      above[columns + 1] = above[columns];
      for (let column = 1; column <= columns; column += 1) {
        const a = line[column - 1];
        const b = above[column];
        const c = above[column - 1];
        let context = 81 * region[above[column + 1] - b + maximum] + 9 * region[b - c + maximum] + region[c - a + maximum];
        let sign = 1;
        let predicted;
        let weight;
        let most = limit - plain - 1;
        if (context) { // by itself (A.4)
          if (context < 0) {
            context = -context;
            sign = -1;
          }
          if (c >= a && c >= b) predicted = a < b ? a : b;
          else if (c <= a && c <= b) predicted = a < b ? b : a;
          else predicted = a + b - c;
          predicted += sign * C[context];
          if (predicted < 0) predicted = 0;
          else if (predicted > maximum) predicted = maximum;
          weight = A[context];
        } else { // after samples that are as the one before them (A.7)
          let left = columns + 1 - column;
          while (left > 0 && word(bits, at) < 0) {
            at += 1;
            const whole = 1 << J[run];
            const filled = Math.min(whole, left);
            line.fill(a, column, column + filled);
            column += filled;
            left -= filled;
            if (filled === whole && run < 31) run += 1;
          }
          if (!left) break;
          const rest = Math.min(word(bits, at + 1) >>> 1 >>> (31 - J[run]), left - 1);
          at += 1 + J[run];
          line.fill(a, column, column + rest);
          column += rest;
          predicted = above[column];
          context = a === predicted ? 366 : 365;
          weight = A[context] + (a === predicted ? N[context] >> 1 : 0);
          if (a > predicted) sign = -1;
          most -= J[run] + 1;
        }

        // A Golomb code of order k; after `most` zeros the value stands there as it is (A.5.3).
        let k = Math.clz32(N[context]) - Math.clz32(weight);
        if (k < 0) k = 0;
        else if (N[context] << k < weight) k += 1;
        let next = word(bits, at);
        let lead = Math.clz32(next);
        let zeros = lead;
        while (lead === 32) {
          at += 32;
          next = word(bits, at);
          lead = Math.clz32(next);
          zeros += lead;
          if (zeros > most) throw new Error("the picture is damaged");
        }
        const size = zeros < most ? k : plain;
        next = lead + size < 32 ? next << lead << 1 : word(bits, at + lead + 1);
        const rest = next >>> 1 >>> (31 - size);
        at += lead + 1 + size;
        const coded = zeros < most ? (zeros << k) + rest : rest + 1;

        let error;
        if (context < 365) {
          error = coded & 1 ? -((coded + 1) >> 1) : coded >> 1;
          if (!k && 2 * B[context] <= -N[context]) error = -error - 1;
          A[context] += error < 0 ? -error : error;
          B[context] += error;
          if (N[context] === reset) {
            A[context] >>= 1;
            B[context] >>= 1;
            N[context] >>= 1;
          }
          const n = N[context] += 1;
          if (B[context] <= -n) {
            B[context] = Math.max(B[context] + n, 1 - n);
            if (C[context] > -128) C[context] -= 1;
          } else if (B[context] > 0) {
            B[context] = Math.min(B[context] - n, 0);
            if (C[context] < 127) C[context] += 1;
          }
        } else {
          const alike = context - 365;
          const odd = (coded + alike) & 1;
          error = (coded + alike + odd) >> 1;
          if ((k !== 0 || 2 * B[context] >= N[context]) === (odd === 1)) error = -error;
          if (error < 0) B[context] += 1;
          A[context] += (coded + 1 - alike) >> 1;
          if (N[context] === reset) {
            A[context] >>= 1;
            B[context] >>= 1;
            N[context] >>= 1;
          }
          N[context] += 1;
          if (run) run -= 1;
        }
        const value = predicted + sign * error;
        line[column] = value < 0 ? value + range : value > maximum ? value - range : value;
      }
      values.set(line.subarray(1, columns + 1), row * columns);
      [above, line] = [line, above];
      if (at > total) throw new Error("a picture was cut short");
    }
    return values;
  };

  // A picture; null where the file is something else.
  return (file) => {
    const view = new DataView(file);
    if (view.byteLength < 4 || view.getUint16(0) !== 0xffd8) return null;
    const head = segments(view);
    if (!head?.rows || !head.columns || head.components !== 1 || !head.plain || head.depth < 2 || head.depth > 16 || head.rows * head.columns > MAX_PIXELS) return null;
    const { columns, rows, depth } = head;
    return { columns, rows, samples: 1, depth, values: scan(new Uint8Array(file), head) };
  };
})();
