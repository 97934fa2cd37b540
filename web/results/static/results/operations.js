// The operations page: fresh every ten seconds, but never under the hands of who writes a reason.
"use strict";
(() => {
  const hosts = document.getElementById("hosts");
  const isBusy = () => hosts.contains(document.activeElement)
    || [...hosts.querySelectorAll("input[name=reason]")].some((field) => field.value);
  const refresh = async () => {
    if (document.hidden || isBusy()) return;
    try {
      const answer = await fetch(location.href, { cache: "no-store", redirect: "manual", signal: AbortSignal.timeout(10000) });
      if (answer.status !== 200) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("hosts");
      if (!fresh || isBusy()) return;
      hosts.replaceChildren(...document.adoptNode(fresh).childNodes);
      limen.showTimes(hosts);
    } catch { /* the server is away for a moment; the next turn asks again */ }
  };
  setInterval(refresh, 10000);
})();
