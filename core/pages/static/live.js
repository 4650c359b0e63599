// Keeps parts of a page fresh: <section data-live="/fragment" data-every="5"> has its content replaced every 5 s.
// A page is whole without this script. While a request fails, the section says so instead of showing old news as new.
"use strict";

async function refresh(section) {
  try {
    const answer = await fetch(section.dataset.live, { headers: { Accept: "text/html" } });
    if (!answer.ok) throw new Error(answer.status);
    const html = await answer.text();
    if (section.dataset.shown !== html) {
      section.innerHTML = html;
      section.dataset.shown = html;
    }
    section.classList.remove("stale");
  } catch {
    section.classList.add("stale");
  }
}

for (const section of document.querySelectorAll("[data-live]")) {
  const every = Number(section.dataset.every || 5) * 1000;
  setInterval(() => document.hidden || refresh(section), every);
}
