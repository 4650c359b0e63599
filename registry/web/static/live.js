// Keeps the marked parts of a page fresh: <section data-live="/address of the fragment" data-every="seconds">.
"use strict";

async function refresh(part) {
  try {
    const answer = await fetch(part.dataset.live, { credentials: "same-origin" });
    if (!answer.ok) throw new Error(String(answer.status));
    const html = await answer.text();
    // Replacing what has not changed would lose the reader's selection and focus.
    if (html !== part.lastHtml && !part.contains(document.activeElement)) {
      part.innerHTML = html;
      part.lastHtml = html;
    }
    part.classList.remove("stale");
  } catch {
    part.classList.add("stale"); // the page says that it is old rather than pretending
  }
}

for (const part of document.querySelectorAll("[data-live]")) {
  const every = Number(part.dataset.every || 5) * 1000;
  setInterval(() => { if (!document.hidden) refresh(part); }, every);
}
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) document.querySelectorAll("[data-live]").forEach(refresh);
});
