// The slices of a study: windows, zoom, sides, and the explanation over them. What else is on the page: reading.js.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const stage = byId("stage");
  if (!stage) return;
  const data = (id) => JSON.parse(byId(id).textContent);
  const slices = data("slices");
  const presets = data("windows");
  const looked = byId("slice"); // has the focus and the words; nothing is drawn on it
  const greys = [...document.querySelectorAll(".grey")]; // the slice through the window, pixel by pixel; one for each pane
  const canvas = byId("explained"); // of the explanation, as large as the stage; away where there is none to draw
  const paint = canvas.getContext("2d");
  const slider = byId("number");
  const strength = byId("strength");
  const [centreField, widthField] = [byId("centre"), byId("width")];
  const chart = byId("chart");
  const percent = (p) => (p === null ? "not analysed" : `${(100 * p).toFixed(1)} %`);
  const says = (s) => s.said || percent(s.probability); // of several findings each
  const within = (value, low, high) => Math.min(Math.max(value, low), high);

  const HU_OFFSET = 1024; // of a picture in HU, see the schema of the result document
  const MAX_ZOOM = 20;
  const AHEAD = 64; // slices kept ready on either side
  const MAX_BYTES = 192 * 2 ** 20; // of them, unpacked
  const AT_ONCE = 6; // requests
  const FILL = 0.4; // at most: what is under it stays to be seen
  const ORANGE = "255 140 30";
  const BLUE = "70 150 255";
  const TO_SLICE = 40; // pixels of a trackpad, or of a finger

  // ---- what is shown -------------------------------------------------------
  const state = {
    number: 1,
    centre: presets[0]?.centre ?? 40, width: presets[0]?.width ?? 80, inverted: false,
    zoom: 1, x: 0, y: 0, // pan, in CSS pixels
    explanation: "contour", beside: false,
  };
  const slice = () => slices[state.number - 1];
  const hasHu = (s) => s.unit === "HU";

  // ---- pictures come -------------------------------------------------------
  const { worker, first, picture } = window.limenOpening; // the first slice is on its way
  const ready = new Map(); // address -> { stop } on its way, { fault }, or what pixels.js answers
  const asked = new Map(); // id -> address
  let last = 0;
  let opened = false;
  const bytes = (entry) => entry.values?.byteLength ?? (entry.bitmap ? 4 * entry.columns * entry.rows : 0);
  const overlays = new Set(slices.map((s) => s.overlay));
  const addresses = (number) => {
    const s = slices[number - 1];
    return s ? [s.original, s.overlay].filter(Boolean) : [];
  };
  const nearest = () => {
    const found = [];
    for (let d = 0; d <= AHEAD; d += 1) for (const n of new Set([state.number + d, state.number - d])) found.push(...addresses(n));
    return found;
  };
  const begin = async (address) => {
    const id = last += 1;
    const stop = new AbortController();
    ready.set(address, { id, stop });
    asked.set(id, address);
    try {
      const answer = await fetch(address, { signal: stop.signal });
      if (!answer.ok) throw new Error(`answered ${answer.status}`);
      const file = await answer.arrayBuffer();
      worker.postMessage({ id, file, traced: overlays.has(address) }, [file]);
    } catch (fault) { arrive(id, { fault }); }
  };
  const fetchNearest = () => {
    const wanted = nearest();
    const ring = new Set(wanted);
    let kept = 0;
    for (const [address, entry] of [...ready].reverse()) { // the newest first
      kept += bytes(entry);
      if (ring.has(address) || (!entry.id && kept < MAX_BYTES)) continue;
      if (entry.id) { entry.stop.abort(); asked.delete(entry.id); }
      entry.bitmap?.close();
      ready.delete(address);
    }
    for (const address of wanted) {
      // The first slice shares the line with nothing.
      if (asked.size >= (opened ? AT_ONCE : 1)) return;
      if (!ready.has(address)) begin(address);
    }
  };
  const arrive = (id, found) => {
    const address = asked.get(id);
    if (!address) return; // it was stopped
    asked.delete(id);
    ready.set(address, found);
    opened = true;
    if (addresses(state.number).includes(address)) schedule();
    fetchNearest();
  };
  worker.addEventListener("message", ({ data: { id, ...found } }) => arrive(id, found));
  if (picture) {
    const id = last += 1;
    ready.set(first, { id, stop: new AbortController() });
    asked.set(id, first);
    picture.then((found) => arrive(id, found));
  } else opened = true;

  // ---- grey values ---------------------------------------------------------
  const tables = new Map(); // the last one: the window stays from slice to slice
  const table = (length, centre, width) => {
    const key = [length, centre, width, state.inverted].join(" ");
    if (tables.has(key)) return tables.get(key);
    const found = new Uint32Array(length);
    for (let value = 0; value < length; value += 1) {
      const share = within((value - (centre - width / 2)) / width, 0, 1);
      const level = Math.round(255 * (state.inverted ? 1 - share : share));
      found[value] = 0xff000000 | (level * 0x010101);
    }
    tables.clear();
    tables.set(key, found);
    return found;
  };
  const windowed = (s, entry, grey) => {
    const key = [s.original, state.inverted, ...(hasHu(s) ? [state.centre, state.width] : [])].join(" ");
    if (key === grey.shown) return;
    grey.shown = key;
    if (grey.width !== entry.columns || grey.height !== entry.rows) {
      grey.width = entry.columns;
      grey.height = entry.rows;
      grey.image = null;
    }
    const into = grey.getContext("2d", { alpha: false }); // what lies under it is not drawn
    if (entry.bitmap) {
      into.drawImage(entry.bitmap, 0, 0);
      if (state.inverted) {
        into.globalCompositeOperation = "difference";
        into.fillStyle = "#fff";
        into.fillRect(0, 0, grey.width, grey.height);
        into.globalCompositeOperation = "source-over";
      }
    } else {
      grey.image ??= into.createImageData(entry.columns, entry.rows);
      const out = new Uint32Array(grey.image.data.buffer);
      const levels = hasHu(s) ? table(65536, state.centre + HU_OFFSET, state.width)
        : entry.depth === 16 ? table(65536, 32768, 65536) : table(256, 127.5, 255);
      const { values } = entry;
      for (let n = 0; n < out.length; n += 1) out[n] = levels[values[n]];
      into.putImageData(grey.image, 0, 0);
    }
  };

  // ---- where the slice lies on the stage -------------------------------------
  const size = { width: 1, height: 1, ratio: 1 }; // of the stage, in CSS pixels; of those to the screen's
  const panes = () => (state.beside ? 2 : 1);
  const place = (entry, pane = 0) => {
    const { ratio } = size;
    const [width, height] = [(size.width * ratio) / panes(), size.height * ratio];
    const scale = Math.min(width / entry.columns, height / entry.rows) * state.zoom;
    return {
      ratio, scale, clip: [pane * width, 0, width, height],
      left: Math.round(pane * width + (width - entry.columns * scale) / 2 + state.x * ratio),
      top: Math.round((height - entry.rows * scale) / 2 + state.y * ratio),
    };
  };
  const keepInSight = () => {
    const entry = ready.get(slice().original);
    if (!entry?.columns) return;
    const { scale, ratio, clip } = place(entry);
    const [limitX, limitY] = [[entry.columns, clip[2]], [entry.rows, clip[3]]].map(([n, room]) => Math.max(0, (n * scale - room) / 2 + (state.zoom > 1 ? room / 4 : 0)) / ratio);
    state.x = within(state.x, -limitX, limitX);
    state.y = within(state.y, -limitY, limitY);
  };

  // ---- draw ------------------------------------------------------------------
  let scheduled = false;
  const schedule = () => {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => { scheduled = false; draw(); });
  };
  const outlined = (over) => {
    over.paths ??= over.regions.map(({ outlines }) => {
      const path = new Path2D();
      for (const xy of outlines) {
        for (let n = 0; n < xy.length; n += 2) path[n ? "lineTo" : "moveTo"](xy[n], xy[n + 1]);
        path.closePath();
      }
      return path;
    });
    return over.paths;
  };
  const drawExplanation = (over, entry, at) => {
    const peak = Math.max(...over.regions.map((r) => r.alpha));
    const share = strength.value / 100;
    const strongest = over.regions.findLast((r) => r.supports);
    const toOver = (at.scale * entry.columns) / over.columns;
    paint.save();
    paint.setTransform(toOver, 0, 0, (at.scale * entry.rows) / over.rows, at.left, at.top);
    paint.lineJoin = "round";
    outlined(over).forEach((path, n) => {
      const region = over.regions[n];
      const colour = region.supports ? ORANGE : BLUE;
      if (state.explanation === "fill") {
        paint.fillStyle = `rgb(${colour} / ${FILL * share * (region.alpha / peak)})`;
        paint.fill(path, "evenodd");
        return;
      }
      const thin = at.ratio * within(size.height / 700, 1, 2.5); // on a large screen, larger
      const wide = thin * (1 + (region.alpha / peak) + (region === strongest ? 1 : 0));
      for (const [stroke, width] of [[`rgb(0 0 0 / ${0.55 * share})`, wide + 2 * thin], [`rgb(${colour} / ${share})`, wide]]) {
        paint.strokeStyle = stroke;
        paint.lineWidth = width / toOver;
        paint.stroke(path);
      }
    });
    paint.restore();
  };
  // The browser scales the greys; this canvas is drawn anew only where something on it changes.
  let drawn = "";
  const drawOver = (s, entry, over) => {
    canvas.hidden = !over;
    if (!over) return;
    const at = place(entry, panes() - 1);
    const key = JSON.stringify([at, state.number, state.explanation, strength.value]);
    if (key === drawn) return;
    drawn = key;
    [canvas.width, canvas.height] = [size.width * at.ratio, size.height * at.ratio].map(Math.round);
    paint.beginPath();
    paint.rect(...at.clip);
    paint.clip();
    drawExplanation(over, entry, at);
  };
  const scale = byId("scale");
  const showScale = (mm, at) => {
    const length = mm && [100, 50, 20, 10, 5, 2, 1].find((n) => (n / mm) * at.scale <= at.clip[2] / 4);
    scale.hidden = !length;
    if (!length) return;
    scale.textContent = length >= 10 ? `${length / 10} cm` : `${length} mm`;
    scale.style.width = `${((length / mm) * at.scale) / at.ratio}px`;
  };
  let scaled = "";
  const draw = () => {
    const s = slice();
    const entry = s.original ? ready.get(s.original) : null;
    if (entry?.id || (!entry && s.original)) return; // still on its way: the slice before stays
    const isThere = Boolean(entry?.columns);
    const missing = byId("missing");
    missing.hidden = isThere;
    missing.textContent = s.reason || "No picture of this slice";
    stage.classList.toggle("beside", state.beside);
    const over = s.overlay ? ready.get(s.overlay) : null;
    const explained = Boolean(isThere && over?.regions?.length && state.explanation !== "off");
    greys.forEach((grey, pane) => {
      grey.hidden = !isThere || pane >= panes();
      if (grey.hidden) return;
      windowed(s, entry, grey);
      const { left, top, scale, ratio, clip } = place(entry, pane);
      grey.style.transform = `translate(${(left - clip[0]) / ratio}px, ${top / ratio}px) scale(${scale / ratio})`;
    });
    drawOver(s, entry, explained ? over : null);
    const at = isThere ? place(entry) : null;
    const known = JSON.stringify([at?.scale, at && s.pixel_mm]);
    if (known !== scaled) showScale(at && s.pixel_mm, at);
    scaled = known;
    looked.dataset.number = String(state.number);
    looked.dataset.explanation = explained ? state.explanation : "off";
    looked.dataset.window = hasHu(s) ? `${state.centre}/${state.width}` : "";
  };
  new ResizeObserver(() => {
    Object.assign(size, { width: stage.clientWidth, height: stage.clientHeight, ratio: devicePixelRatio });
    drawn = "";
    keepInSight();
    draw();
  }).observe(stage);

  // ---- say -------------------------------------------------------------------
  const pressed = (buttons, isOn) => { for (const b of buttons) b.setAttribute("aria-pressed", String(isOn(b))); };
  const presetButtons = [...document.querySelectorAll("[data-preset]")];
  const explanationButtons = [...document.querySelectorAll("[data-explanation]")];
  const presetOf = () => presets.findIndex((p) => p.centre === state.centre && p.width === state.width);
  const sayWindow = () => {
    const s = slice();
    const at = presetOf();
    const name = presets[at]?.name ?? "own window";
    byId("window").textContent = hasHu(s) ? `${name}  C ${state.centre}  W ${state.width}${state.inverted ? "  inverted" : ""}` : state.inverted ? "inverted" : "";
    pressed(presetButtons, (b) => Number(b.dataset.preset) === at + 1);
    pressed([byId("invert")], () => state.inverted);
    centreField.value = String(state.centre);
    widthField.value = String(state.width);
    for (const control of [...presetButtons, centreField, widthField]) control.disabled = !hasHu(s);
    byId("one-window").hidden = hasHu(s) || !s.original;
    byId("zoomed").textContent = `${Math.round(100 * state.zoom)} %`;
  };
  const sayExplanation = () => {
    const s = slice();
    const e = s.explained;
    pressed(explanationButtons, (b) => b.dataset.explanation === state.explanation);
    pressed([byId("beside")], () => state.beside);
    const words = [s.sentence || `The model says ${says(s)} of this slice.`];
    if (e && e.without !== null) words.push(`Without the region with the thickest outline it says ${percent(e.without)}.`);
    if (e) words.push(e.poor ? `The explanation describes the model poorly here${e.reason ? `: ${e.reason}` : ""}.` : "The explanation describes the model well here.");
    else if (s.positive && hasExplanation) words.push("This slice is not explained.");
    if (e?.second && !e.reason.includes(e.second)) words.push(`Second method: ${e.second}.`);
    if (e?.ownMap && !e.reason.includes(e.ownMap)) words.push(`${e.ownMap[0].toUpperCase()}${e.ownMap.slice(1)}.`);
    byId("said").textContent = words.join(" ");
    byId("said").classList.toggle("poorly", Boolean(e?.poor));
    strength.setAttribute("aria-valuetext", `${strength.value} %`);
  };
  const say = () => {
    const s = slice();
    const mm = s.position === null ? "position unknown" : `${s.position.toFixed(1)} mm`;
    const shown = s.overlay ? (state.explanation === "off" ? "explanation hidden" : "explanation shown") : "";
    const hidden = shown === "explanation hidden" ? shown : "";
    byId("where").textContent = [`${state.number} / ${slices.length}   ${mm}`, s.series, s.oriented ? "" : "orientation unknown"].filter(Boolean).join("\n");
    for (const side of document.querySelectorAll("[data-side]")) side.hidden = !s.oriented;
    byId("what").textContent = [says(s), s.positive ? "positive" : "", hidden].filter(Boolean).join("   ");
    byId("what").classList.toggle("positive", s.positive);
    const lies = s.oriented ? "right of the patient at the left" : "orientation unknown";
    const words = [`Slice ${state.number} of ${slices.length}`, s.series, mm, lies, says(s), s.positive ? "positive" : "", shown].filter(Boolean).join(", ");
    looked.setAttribute("aria-label", words);
    slider.setAttribute("aria-valuetext", words);
    sayWindow();
    sayLater();
  };
  // What stands beside the stage follows ten times a second: a browser without a graphics card draws all that
  // lies between two things that change.
  let later = 0;
  const sayLater = () => { later ||= setTimeout(() => { later = 0; sayElsewhere(); }, 100); };
  const sayElsewhere = () => {
    sayExplanation();
    if (chart) {
      const x = (state.number - 0.5) * Number(chart.dataset.step);
      byId("here").setAttribute("transform", `translate(${x} ${chart.viewBox.baseVal.height - 14})`);
      chart.querySelector(".column.at")?.classList.remove("at");
      chart.querySelector(`[data-number="${state.number}"]`)?.classList.add("at");
    }
    for (const row of document.querySelectorAll("#quality tr[data-number], .flagged button")) row.classList.toggle("at", Number(row.dataset.number ?? row.dataset.go) === state.number);
  };

  // ---- do --------------------------------------------------------------------
  const go = (number) => {
    state.number = within(number, 1, slices.length);
    slider.value = String(state.number);
    byId("hu").textContent = "";
    for (const address of addresses(state.number)) if (ready.get(address)?.fault) ready.delete(address); // asked again
    say();
    fetchNearest();
    schedule();
  };
  const toPositive = (step) => {
    for (let n = state.number + step; n >= 1 && n <= slices.length; n += step) if (slices[n - 1].positive) { go(n); return; }
  };
  const look = (centre, width) => {
    if (!hasHu(slice()) || !Number.isFinite(centre) || !Number.isFinite(width)) return;
    state.centre = within(Math.round(centre), -HU_OFFSET, 64000);
    state.width = within(Math.round(width), 1, 65000);
    sayWindow();
    schedule();
  };
  const preset = (number) => { const p = presets[number - 1]; if (p) look(p.centre, p.width); };
  const invert = () => { state.inverted = !state.inverted; sayWindow(); schedule(); };
  const zoom = (factor, x = size.width / panes() / 2, y = size.height / 2) => {
    const old = state.zoom;
    state.zoom = within(old * factor, 1, MAX_ZOOM);
    const grown = state.zoom / old;
    const [fromX, fromY] = [x - size.width / panes() / 2, y - size.height / 2];
    state.x = fromX + (state.x - fromX) * grown;
    state.y = fromY + (state.y - fromY) * grown;
    keepInSight();
    sayWindow();
    schedule();
  };
  const pan = (x, y) => { state.x += x; state.y += y; keepInSight(); schedule(); };
  const reset = () => {
    Object.assign(state, { zoom: 1, x: 0, y: 0, inverted: false });
    sayWindow();
    preset(1);
    schedule();
  };
  const hasExplanation = slices.some((s) => s.overlay);
  const explain = (how) => { if (hasExplanation) state.explanation = how; say(); schedule(); };
  const toggle = (how) => explain(state.explanation === how ? (how === "fill" ? "contour" : "off") : how);
  const besides = () => { state.beside = !state.beside; keepInSight(); say(); schedule(); };
  const fade = (step) => { strength.value = String(Number(strength.value) + step); sayExplanation(); schedule(); };

  // ---- keys ------------------------------------------------------------------
  const keys = {
    ArrowUp: () => go(state.number - 1), ArrowLeft: () => go(state.number - 1),
    ArrowDown: () => go(state.number + 1), ArrowRight: () => go(state.number + 1),
    Home: () => go(1), End: () => go(slices.length),
    PageUp: () => toPositive(-1), PageDown: () => toPositive(1),
    o: () => toggle(state.explanation === "off" ? "contour" : state.explanation === "fill" ? "off" : "contour"),
    f: () => toggle("fill"), b: besides, i: invert, "[": () => fade(-10), "]": () => fade(10),
    "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), Escape: reset,
  };
  const shifted = { ArrowUp: [0, 40], ArrowDown: [0, -40], ArrowLeft: [40, 0], ArrowRight: [-40, 0] };
  document.addEventListener("keydown", (event) => {
    if (limen.isTyping(event) || event.target === strength) return;
    const act = event.shiftKey && shifted[event.key] ? () => pan(...shifted[event.key])
      : /^[1-5]$/.test(event.key) ? () => preset(Number(event.key)) : keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  // ---- wheel: one notch is one slice -------------------------------------------
  let turned = 0;
  let turnedAt = 0;
  const notches = (event) => {
    const ticks = event.wheelDeltaY ? -event.wheelDeltaY / 120 : 0;
    if (event.deltaMode || (ticks && Number.isInteger(ticks))) { turned = 0; return Math.sign(event.deltaY); }
    if (event.timeStamp - turnedAt > 300 || turned * event.deltaY < 0) turned = 0;
    turnedAt = event.timeStamp;
    turned += event.deltaY;
    const steps = Math.trunc(turned / TO_SLICE);
    turned -= steps * TO_SLICE;
    return steps;
  };
  const local = (event) => {
    const box = stage.getBoundingClientRect();
    const width = box.width / panes();
    return [(event.clientX - box.left) % width, event.clientY - box.top];
  };
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.ctrlKey) { zoom(Math.exp(-within(event.deltaY, -60, 60) / 200), ...local(event)); return; }
    const steps = notches(event);
    if (steps) go(state.number + steps);
  }, { passive: false });

  // ---- pointers: a window, a pan, a pinch, a finger through the slices ---------
  const down = new Map(); // pointer -> where it was last
  let drag = null;
  const readOut = (event) => {
    const s = slice();
    const entry = ready.get(s.original);
    if (!entry?.values || !hasHu(s)) return "";
    const box = stage.getBoundingClientRect();
    const pane = state.beside && event.clientX - box.left > box.width / 2 ? 1 : 0;
    const at = place(entry, pane);
    const column = Math.floor(((event.clientX - box.left) * at.ratio - at.left) / at.scale);
    const row = Math.floor(((event.clientY - box.top) * at.ratio - at.top) / at.scale);
    if (column < 0 || row < 0 || column >= entry.columns || row >= entry.rows) return "";
    return `${entry.values[row * entry.columns + column] - HU_OFFSET} HU`;
  };
  const spread = () => {
    const [[x1, y1], [x2, y2]] = [...down.values()];
    return { wide: Math.hypot(x1 - x2, y1 - y2) || 1, x: (x1 + x2) / 2, y: (y1 + y2) / 2 };
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button > 1) return;
    event.preventDefault();
    looked.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    down.set(event.pointerId, [event.clientX, event.clientY]);
    if (down.size === 2) { drag = { kind: "pinch", ...spread() }; return; }
    const kind = event.button === 1 || event.shiftKey ? "pan" : event.pointerType === "touch" ? "slices" : "window";
    drag = { kind, x: event.clientX, y: event.clientY, from: state.number, centre: state.centre, width: state.width };
  });
  stage.addEventListener("pointermove", (event) => {
    byId("hu").textContent = readOut(event);
    const before = down.get(event.pointerId);
    if (!before || !drag) return;
    down.set(event.pointerId, [event.clientX, event.clientY]);
    const [x, y] = [event.clientX - drag.x, event.clientY - drag.y];
    if (drag.kind === "pinch" && down.size === 2) {
      const now = spread();
      zoom(now.wide / drag.wide, ...local({ clientX: now.x, clientY: now.y }));
      pan(now.x - drag.x, now.y - drag.y);
      Object.assign(drag, now);
    } else if (drag.kind === "pan") pan(event.clientX - before[0], event.clientY - before[1]);
    else if (drag.kind === "slices") go(drag.from + Math.round(y / 12));
    else if (drag.kind === "window") look(drag.centre + (y * drag.width) / 400, drag.width * Math.exp(x / 250));
  });
  const release = (event) => { down.delete(event.pointerId); drag = null; };
  stage.addEventListener("pointerup", release);
  stage.addEventListener("pointercancel", release);
  stage.addEventListener("pointerleave", () => { byId("hu").textContent = ""; });

  // ---- controls ----------------------------------------------------------------
  slider.addEventListener("input", () => go(Number(slider.value)));
  strength.addEventListener("input", () => { sayExplanation(); schedule(); });
  for (const field of [centreField, widthField]) field.addEventListener("change", () => look(centreField.valueAsNumber, widthField.valueAsNumber));
  const buttons = { invert, beside: besides, in: () => zoom(1.25), out: () => zoom(0.8), reset, keys: () => byId("keys").showModal() };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { go: to, preset: window, explanation, act } = button.dataset;
    if (to) go(Number(to));
    else if (window) preset(Number(window));
    else if (explanation) explain(explanation);
    else if (act) buttons[act]();
  });
  chart?.addEventListener("click", (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
    go(Math.floor(point.x / Number(chart.dataset.step)) + 1);
  });
  for (const control of [...explanationButtons, strength]) control.disabled = !hasExplanation;
  byId("legend").hidden = !hasExplanation;

  // Open where the server says (viewer.py), or where the reader was when the explanation came.
  const kept = sessionStorage.getItem("limen-slice")?.split(" ");
  sessionStorage.removeItem("limen-slice");
  go(Number(kept?.[0] === location.pathname ? kept[1] : stage.dataset.first));
})();
