// Takes over the parts of the page that changed: every element with an id and `data-live`.
// The server sends the whole page again, or 304 where nothing changed. Text comes escaped and scripts in it
// do not run: a parsed document runs none.
"use strict";

const WAIT_MS = 2000;
const state = document.getElementById("live-state");
let tag = null;

// Whether all was taken over: a part that holds the focus is left as it is, and looked at again.
function takeOver(html) {
  let all = true;
  const fresh = new DOMParser().parseFromString(html, "text/html");
  for (const part of document.querySelectorAll("[data-live][id]")) {
    const other = fresh.getElementById(part.id);
    if (!other || other.innerHTML === part.innerHTML) continue;
    if (part.contains(document.activeElement)) all = false;
    else part.replaceChildren(...other.childNodes);
  }
  return all;
}

async function look() {
  const started = performance.now();
  try {
    const headers = tag ? { "If-None-Match": tag } : {};
    const answer = await fetch(location.href, { headers });
    if (answer.status === 200) {
      tag = takeOver(await answer.text()) ? answer.headers.get("ETag") : null;
    }
    state.textContent = answer.ok || answer.status === 304 ? "" : `The audit server answers ${answer.status}.`;
  } catch {
    state.textContent = "The audit server does not answer.";
  }
  setTimeout(look, Math.max(WAIT_MS, 5 * (performance.now() - started)));
}

if (document.querySelector("[data-live]")) setTimeout(look, WAIT_MS);
