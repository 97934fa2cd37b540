// The page of a study, but for its slices: what is new, votes, the note, keys n ? Esc Ctrl+Enter a r u.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const form = byId("vote");
  const csrf = () => form.querySelector("[name=csrfmiddlewaretoken]").value;
  const LOGGED_OUT = "You are logged out. Log in in another tab; then it is saved.";

  // Who logged in anew, in another tab, has another token: this page asks for it.
  const renew = async () => {
    const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(10000) });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.querySelector("#vote [name=csrfmiddlewaretoken]");
    if (fresh) form.querySelector("[name=csrfmiddlewaretoken]").value = fresh.value;
    return Boolean(fresh);
  };
  const post = async (address, fields, keepalive = false) => {
    const once = () => fetch(address, {
      method: "POST", body: new URLSearchParams({ csrfmiddlewaretoken: csrf(), ...fields }), keepalive,
      redirect: "manual", headers: { Accept: "application/json" }, signal: AbortSignal.timeout(10000),
    });
    let answer = await once();
    if (answer.status === 403 && await renew()) answer = await once();
    // A redirect leads to the login: nothing was done.
    if (answer.type === "opaqueredirect" || answer.status === 403) return { status: 401, said: { detail: LOGGED_OUT } };
    return { status: answer.status, said: await answer.json().catch(() => ({})) };
  };

  // ---- what is new --------------------------------------------------------
  const newer = byId("newer");
  const announce = (text, show) => {
    const banner = document.createElement("p");
    banner.className = "banner";
    const button = document.createElement("button");
    button.textContent = "Show it";
    button.addEventListener("click", show);
    banner.append(text, button);
    newer.replaceChildren(banner);
  };
  const stopVotes = () => {
    for (const button of form?.querySelectorAll("[name=verdict]") ?? []) button.disabled = true;
    if (byId("voted")) byId("voted").textContent = "A newer revision has come: vote on what that says.";
  };
  let etag = "";
  const told = { revision: Number(newer.dataset.revision), phase: newer.dataset.phase, awaits: newer.dataset.awaits === "1" };
  const hear = ({ revision, phase, awaits_more: awaits }) => {
    if (revision > told.revision) {
      document.querySelector("[data-waiting]")?.remove(); // the explanation of an older one does not come
      announce(`Revision ${revision} has come: this page shows an older one.`, () => { location.href = newer.dataset.page; });
      stopVotes();
    } else if (phase !== told.phase) {
      document.querySelector("[data-waiting]")?.remove();
      announce("The explanation has come.", () => {
        // Back to where the reader was.
        const at = byId("slice")?.dataset.number;
        if (at) sessionStorage.setItem("limen-slice", `${location.pathname} ${at}`);
        location.reload();
      });
    } else if (awaits && !told.awaits) {
      announce("More images of this study came, and have no result yet.", () => location.reload());
    } else return;
    Object.assign(told, { revision, phase, awaits });
  };
  const ask = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(newer.dataset.address, {
        headers: etag ? { "If-None-Match": etag } : {}, cache: "no-store", redirect: "manual",
        signal: AbortSignal.timeout(10000),
      });
      if (answer.status !== 200) return;
      etag = answer.headers.get("ETag");
      hear(await answer.json());
    } catch { /* the server is away for a moment; the next turn asks again */ }
  };
  setInterval(ask, 3000);
  document.addEventListener("visibilitychange", ask);

  // ---- votes --------------------------------------------------------------
  const send = async (button) => {
    if (button.disabled) return;
    byId("voted").textContent = "Saving …";
    try {
      const { status, said } = await post(form.action, { revision: form.elements.revision.value, verdict: button.value });
      if (status !== 200) throw new Error(said.detail ?? String(status));
      for (const b of form.querySelectorAll(".verdicts button")) b.setAttribute("aria-pressed", String(b.value === said.verdict));
      byId("voted").textContent = said.verdict ? `You voted: ${said.verdict}.` : "Your vote is taken back.";
      byId("undo").hidden = !said.verdict;
      if (!said.verdict) form.querySelector(".verdicts button").focus();
    } catch (error) {
      byId("voted").textContent = `Not saved: ${error.message}`;
    }
  };
  form?.addEventListener("submit", (event) => {
    event.preventDefault();
    if (event.submitter?.name === "verdict") send(event.submitter);
  });

  // ---- the note -----------------------------------------------------------
  // It is saved as it is typed. Until the server has it, it is kept in this tab, under the reader.
  const field = byId("note");
  const note = field && {
    draft: `limen-note ${form.dataset.reader} ${location.pathname}`,
    version: Number(form.dataset.version), saved: field.value, timer: 0, busy: false, stopped: false,
  };
  const say = (text, bad = false) => {
    byId("saved").textContent = text;
    byId("saved").classList.toggle("bad", bad);
  };
  const isDirty = () => field.value !== note.saved;
  const later = (wait) => { clearTimeout(note.timer); note.timer = setTimeout(save, wait); };
  const save = async (keepalive = false) => {
    if (note.busy || note.stopped || !isDirty()) return;
    note.busy = true;
    clearTimeout(note.timer);
    const text = field.value;
    say("Saving …");
    try {
      const { status, said } = await post(form.dataset.note, { note: text, version: note.version }, keepalive === true);
      if (status === 200) {
        note.version = said.version;
        note.saved = text;
        if (isDirty()) later(600);
        else { sessionStorage.removeItem(note.draft); say("Saved."); }
      } else if (status === 409) conflict(said);
      else { say(`Not saved: ${said.detail ?? status}`, true); later(5000); }
    } catch {
      say("Not saved: the server does not answer. It is tried again.", true);
      later(5000);
    } finally { note.busy = false; }
  };
  const conflict = (said) => {
    note.stopped = true;
    say("Not saved: changed elsewhere.", true);
    byId("other").textContent = said.text || "(nothing)";
    byId("conflict").hidden = false;
    const decide = (text) => {
      Object.assign(note, { version: said.version, saved: said.text, stopped: false });
      field.value = text;
      byId("conflict").hidden = true;
      field.focus();
      if (isDirty()) save();
      else { sessionStorage.removeItem(note.draft); say("Saved."); }
    };
    byId("keep-mine").onclick = () => decide(field.value);
    byId("take-other").onclick = () => decide(said.text);
  };
  if (field) {
    field.addEventListener("input", () => {
      sessionStorage.setItem(note.draft, JSON.stringify({ text: field.value, version: note.version }));
      if (!note.stopped) say("");
      later(600);
    });
    field.addEventListener("blur", () => save());
    window.addEventListener("online", () => save());
    // Who leaves the page leaves nothing behind: the request outlives it.
    window.addEventListener("pagehide", () => save(true));
    document.addEventListener("visibilitychange", () => { if (document.hidden) save(true); });
    window.addEventListener("beforeunload", (event) => {
      if (isDirty() && (note.busy || byId("saved").classList.contains("bad"))) event.preventDefault();
    });
    const kept = JSON.parse(sessionStorage.getItem(note.draft) ?? "null");
    if (kept && kept.text !== field.value) {
      // The version that it was written upon: what came in between is a conflict, not lost.
      note.version = kept.version;
      field.value = kept.text;
      save();
    } else sessionStorage.removeItem(note.draft);
  }

  // ---- keys ---------------------------------------------------------------
  const keys = byId("keys");
  const verdicts = { a: "agree", r: "disagree", u: "unsure" };
  // Before the viewer hears of a key: none of its own is meant while this dialog is open.
  window.addEventListener("keydown", (event) => {
    if (keys.open) {
      event.stopImmediatePropagation();
      if (event.key === "?") { event.preventDefault(); keys.close(); }
      return;
    }
    if (event.target === field) {
      if (event.key === "Escape" || (event.key === "Enter" && (event.ctrlKey || event.metaKey))) {
        event.preventDefault();
        field.blur();
      }
      return;
    }
    if (limen.isTyping(event) || event.repeat) return;
    if (event.key === "?") keys.showModal();
    else if (event.key === "n" && field) field.focus();
    else if (event.key in verdicts && form) {
      const button = form.querySelector(`.verdicts [value=${verdicts[event.key]}]`);
      if (!button) return;
      send(button);
    } else return;
    event.preventDefault();
    event.stopImmediatePropagation();
  }, { capture: true });
})();
