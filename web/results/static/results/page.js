// On every page: the theme, and times as the reader's own clock shows them.
"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const label = () => { button.textContent = root.dataset.theme === "light" ? "Dark theme" : "Light theme"; };
  if (button) {
    label();
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = root.dataset.theme === "light" ? "dark" : "light";
      const secure = location.protocol === "https:" ? "; Secure" : "";
      document.cookie = `limen_theme=${root.dataset.theme}; Path=/; Max-Age=31536000; SameSite=Lax${secure}`;
      label();
    });
  }

  const two = (n) => String(n).padStart(2, "0");
  const local = (d) => `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${two(d.getHours())}:${two(d.getMinutes())}`;
  const age = (d) => {
    const minutes = Math.max(0, Math.floor((Date.now() - d) / 60000));
    if (minutes < 1) return "just now";
    if (minutes < 60) return `${minutes} min ago`;
    if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ago`;
    return `${Math.floor(minutes / 1440)} d ago`;
  };
  const showTimes = (within) => {
    for (const node of within.querySelectorAll("time[data-age], time[data-local]")) {
      const when = new Date(node.dateTime);
      if (Number.isNaN(when.getTime())) continue;
      node.textContent = "age" in node.dataset ? age(when) : local(when);
      node.title = local(when);
    }
  };
  showTimes(document);
  setInterval(() => showTimes(document), 30000);

  window.limen = {
    showTimes,
    // A key is the page's own unless the reader types, or holds a modifier.
    isTyping: (event) => event.ctrlKey || event.metaKey || event.altKey
      || Boolean(event.target.closest?.("input:not([type=range]):not([type=checkbox]), textarea, select")),
  };
})();
