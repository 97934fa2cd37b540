// Before all else on the page of a study: the worker that unpacks pictures starts, and the first one goes to it,
// while the rest of the page is read and laid out. viewer.js takes over.
"use strict";
(() => {
  const { pixels, first } = document.currentScript.dataset;
  const worker = new Worker(pixels);
  const unpacked = async () => {
    const answer = await fetch(first); // the head of the page has asked for it
    if (!answer.ok) throw new Error(`answered ${answer.status}`);
    const file = await answer.arrayBuffer();
    worker.postMessage({ id: 0, file }, [file]);
    return new Promise((done) => {
      worker.addEventListener("message", ({ data: { id, ...found } }) => done(found), { once: true });
    });
  };
  window.limenOpening = { worker, first, picture: first ? unpacked().catch((fault) => ({ fault })) : null };
})();
