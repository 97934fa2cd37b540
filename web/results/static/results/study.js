// The page of a study: slices on a canvas, the explanation over them. What else is on it: reading.js.
"use strict";
(() => {
  const slices = JSON.parse(document.getElementById("slices").textContent);
  const byId = (id) => document.getElementById(id);
  const percent = (p) => (p === null ? "not analysed" : `${(100 * p).toFixed(1)} %`);

  // ---- slices ------------------------------------------------------------
  let current = 1;
  if (slices.length) {
    const canvas = byId("slice");
    const paint = canvas.getContext("2d");
    const slider = byId("number");
    const overlay = byId("overlay");
    const opacity = byId("opacity");
    const chart = byId("chart");
    const here = byId("here");
    const AHEAD = 40; // slices kept ready on either side
    const ready = new Map(); // address -> image

    const load = (address) => {
      if (!address) return null;
      let image = ready.get(address);
      if (!image) {
        image = new Image();
        image.decoding = "async";
        image.addEventListener("load", () => { if (needed(address)) schedule(); });
        image.addEventListener("error", () => { if (needed(address)) schedule(); });
        image.src = address;
        ready.set(address, image);
      }
      return image;
    };
    const needed = (address) => {
      const s = slices[current - 1];
      return address === s.original || address === s.overlay;
    };
    const keepRing = () => {
      const ring = new Set();
      for (let d = 0; d <= AHEAD; d += 1) {
        for (const n of new Set([current + d, current - d])) {
          const s = slices[n - 1];
          if (!s) continue;
          for (const address of [s.original, s.overlay]) if (address) { ring.add(address); load(address); }
        }
      }
      for (const address of ready.keys()) if (!ring.has(address)) ready.delete(address);
    };
    const isDrawable = (image) => image && image.complete && image.naturalWidth > 0;

    let scheduled = false;
    const schedule = () => {
      if (scheduled) return;
      scheduled = true;
      requestAnimationFrame(() => { scheduled = false; draw(); });
    };
    const draw = () => {
      const s = slices[current - 1];
      const image = load(s.original);
      const missing = byId("missing");
      if (isDrawable(image)) {
        if (canvas.width !== image.naturalWidth || canvas.height !== image.naturalHeight) {
          canvas.width = image.naturalWidth;
          canvas.height = image.naturalHeight;
        }
        paint.drawImage(image, 0, 0);
        missing.hidden = true;
      } else if (!image || image.complete) {
        paint.clearRect(0, 0, canvas.width, canvas.height);
        missing.textContent = s.reason || "No picture of this slice";
        missing.hidden = false;
      } else return; // still on its way: the slice before stays
      const over = load(s.overlay);
      const shown = overlay.checked && isDrawable(over);
      if (shown) {
        paint.globalAlpha = opacity.value / 100;
        paint.drawImage(over, 0, 0, canvas.width, canvas.height);
        paint.globalAlpha = 1;
      }
      canvas.dataset.number = String(current);
      canvas.dataset.overlay = String(shown);
    };

    const say = () => {
      const s = slices[current - 1];
      const mm = s.position === null ? "position unknown" : `${s.position.toFixed(1)} mm`;
      const explained = s.overlay ? (overlay.checked ? "explanation shown" : "explanation hidden") : "";
      byId("where").textContent = [`${current} / ${slices.length}   ${mm}`, s.series, s.oriented ? "" : "orientation unknown"].filter(Boolean).join("\n");
      for (const side of document.querySelectorAll("[data-side]")) side.hidden = !s.oriented;
      byId("what").textContent = [percent(s.probability), s.positive ? "positive" : "", explained].filter(Boolean).join("   ");
      byId("what").classList.toggle("positive", s.positive);
      const lies = s.oriented ? "right of the patient at the left" : "orientation unknown";
      const words = `Slice ${current} of ${slices.length}${s.series ? `, ${s.series}` : ""}, ${mm}, ${lies}, ${percent(s.probability)}${s.positive ? ", positive" : ""}${explained ? `, ${explained}` : ""}`;
      canvas.setAttribute("aria-label", words);
      slider.setAttribute("aria-valuetext", words);
      opacity.setAttribute("aria-valuetext", `${opacity.value} %`);
    };
    const go = (number) => {
      current = Math.min(Math.max(number, 1), slices.length);
      slider.value = String(current);
      if (chart) {
        const x = (current - 0.5) * Number(chart.dataset.step);
        here.setAttribute("transform", `translate(${x} ${chart.viewBox.baseVal.height - 14})`);
        for (const bar of chart.querySelectorAll(".column")) bar.classList.toggle("at", Number(bar.dataset.number) === current);
      }
      for (const row of document.querySelectorAll("#quality tr[data-number], .flagged button")) {
        const at = Number(row.dataset.number ?? row.dataset.go) === current;
        row.classList.toggle("at", at);
      }
      say();
      keepRing();
      schedule();
    };
    const toPositive = (step) => {
      for (let n = current + step; n >= 1 && n <= slices.length; n += step) {
        if (slices[n - 1].positive) { go(n); return; }
      }
    };
    const toggle = (on) => { overlay.checked = on; say(); schedule(); };
    const fade = (step) => { opacity.value = String(Number(opacity.value) + step); say(); schedule(); };

    const keys = {
      ArrowUp: () => go(current - 1), ArrowLeft: () => go(current - 1),
      ArrowDown: () => go(current + 1), ArrowRight: () => go(current + 1),
      Home: () => go(1), End: () => go(slices.length),
      PageUp: () => toPositive(-1), PageDown: () => toPositive(1),
      l: () => toggle(!overlay.checked), "[": () => fade(-10), "]": () => fade(10),
    };
    document.addEventListener("keydown", (event) => {
      if (limen.isTyping(event) || event.target.id === "opacity" || !(event.key in keys)) return;
      event.preventDefault();
      keys[event.key]();
    });
    slider.addEventListener("input", () => go(Number(slider.value)));
    overlay.addEventListener("change", () => toggle(overlay.checked));
    opacity.addEventListener("input", () => { say(); schedule(); });
    let turned = 0;
    byId("stage").addEventListener("wheel", (event) => {
      if (event.ctrlKey) return; // zoom is the browser's
      event.preventDefault();
      turned += event.deltaMode === 1 ? event.deltaY * 40 : event.deltaY;
      const steps = Math.trunc(turned / 40);
      if (steps) { turned -= steps * 40; go(current + Math.sign(steps) * Math.min(Math.abs(steps), 3)); }
    }, { passive: false });
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => { drag = { y: event.clientY, from: current }; canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointermove", (event) => { if (drag) go(drag.from + Math.round((event.clientY - drag.y) / 8)); });
    canvas.addEventListener("pointerup", () => { drag = null; });
    canvas.addEventListener("pointercancel", () => { drag = null; });
    chart?.addEventListener("click", (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
      go(Math.floor(point.x / Number(chart.dataset.step)) + 1);
    });
    document.addEventListener("click", (event) => {
      const button = event.target.closest("[data-go]");
      if (button) go(Number(button.dataset.go));
    });

    const hasOverlay = slices.some((s) => s.overlay);
    overlay.disabled = !hasOverlay;
    opacity.disabled = !hasOverlay;
    byId("legend").hidden = !hasOverlay;
    overlay.checked = hasOverlay;
    // Open on the slice that says most, or where the reader was when the explanation came.
    const kept = sessionStorage.getItem("limen-slice")?.split(" ");
    sessionStorage.removeItem("limen-slice");
    const best = slices.reduce((a, b) => ((b.probability ?? -1) > (a.probability ?? -1) ? b : a));
    go(kept && kept[0] === location.pathname ? Number(kept[1]) : "openOnHighest" in byId("stage").dataset ? best.number : Math.ceil(slices.length / 2));
  }
})();
