// The worklist: keys, and a refresh that never moves a row under the reader.
"use strict";
(() => {
  const list = document.getElementById("worklist");
  const body = list.querySelector("tbody");
  const news = document.getElementById("news");
  const rows = () => (body ? [...body.rows] : []);
  let at = -1;

  const select = (index) => {
    const all = rows();
    if (!all.length) return;
    all[at]?.classList.remove("at");
    at = Math.min(Math.max(index, 0), all.length - 1);
    all[at].classList.add("at");
    all[at].querySelector("a").focus({ preventScroll: true });
    all[at].scrollIntoView({ block: "nearest" });
  };

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && event.target.id === "q") event.target.blur();
    if (limen.isTyping(event)) return;
    if (event.key === "j") select(at + 1);
    else if (event.key === "k") select(at - 1);
    else if (event.key === "/") document.getElementById("q")?.focus();
    else return;
    event.preventDefault();
  });
  // Who comes back finds the row that was left, or what stands in its place by now.
  const HERE = location.pathname + location.search;
  const leave = (row) => sessionStorage.setItem("limen-row", JSON.stringify({
    list: HERE, key: row.dataset.key, index: rows().indexOf(row),
  }));
  const comeBack = () => {
    const left = JSON.parse(sessionStorage.getItem("limen-row") ?? "null");
    const [navigation] = performance.getEntriesByType("navigation");
    const returns = navigation?.type === "back_forward" || document.referrer.includes("/studies/");
    if (!left || left.list !== HERE || !returns) return;
    const index = rows().findIndex((row) => row.dataset.key === left.key);
    select(index < 0 ? left.index : index);
  };
  body?.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (link) leave(link.closest("tr"));
  });
  body?.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row && !event.target.closest("a") && !String(getSelection())) row.querySelector("a").click();
  });
  body?.addEventListener("focusin", (event) => {
    const index = rows().indexOf(event.target.closest("tr"));
    if (index >= 0 && index !== at) select(index);
  });

  const announce = (count, positive) => {
    if (!count) { news.replaceChildren(); return; }
    const show = document.createElement("button");
    show.textContent = `${positive} positive among ${count} new: show`;
    show.addEventListener("click", () => location.reload());
    news.replaceChildren(show);
  };

  // What waits and what is not well; whether the list was open is the reader's.
  const tellBoard = (fresh) => {
    const board = document.getElementById("board");
    const open = board.querySelector("details")?.open;
    board.replaceChildren(...document.adoptNode(fresh).childNodes);
    const list = board.querySelector("details");
    if (list && open !== undefined) list.open = open;
  };

  // Rows that are here change in place; those that are not are counted, not inserted.
  const merge = (html) => {
    const fresh = new DOMParser().parseFromString(html, "text/html");
    tellBoard(fresh.getElementById("board"));
    document.getElementById("new").replaceChildren(...document.adoptNode(fresh.getElementById("new")).childNodes);
    const here = new Map(rows().map((row) => [row.dataset.key, row]));
    let unseen = 0;
    let positive = 0;
    for (const row of fresh.querySelectorAll("tr[data-key]")) {
      const old = here.get(row.dataset.key);
      if (!old) {
        unseen += 1;
        positive += row.dataset.urgency === "0" ? 1 : 0;
        continue;
      }
      if (old.dataset.changed === row.dataset.changed) continue;
      const focused = old.contains(document.activeElement);
      old.replaceChildren(...document.adoptNode(row).childNodes);
      old.classList.toggle("unread", row.classList.contains("unread"));
      Object.assign(old.dataset, row.dataset);
      if (focused) old.querySelector("a").focus({ preventScroll: true });
    }
    limen.showTimes(document);
    // Nobody reads an empty list: there is no row to move.
    if (unseen && !here.size) location.reload();
    else announce(unseen, positive);
  };

  let etag = list.dataset.etag;
  const refresh = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href, {
        headers: { "X-Limen-Poll": "1", "If-None-Match": etag }, cache: "no-store",
        signal: AbortSignal.timeout(10000),
      });
      if (answer.redirected) { location.reload(); return; }
      if (answer.status !== 200) return;
      etag = answer.headers.get("ETag");
      merge(await answer.text());
    } catch { /* the server is away for a moment; the next turn asks again */ }
  };
  setInterval(refresh, 5000);
  document.addEventListener("visibilitychange", refresh);
  comeBack();
})();
