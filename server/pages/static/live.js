// Keeps [data-live] regions as the server would render them now. The page is asked for again, with its ETag, so that
// nothing changed costs an empty answer. A hidden tab asks nothing.
import { showTimes } from "./times.js";

const EVERY_MS = 1500;
const SLOWEST_MS = 15_000;

export function follow() {
  const regions = [...document.querySelectorAll("[data-live][id]")];
  if (!regions.length) return;
  const known = new Map(regions.map((region) => [region.id, null]));
  const indicator = document.getElementById("live-state");
  let tag = null, timer = null, waitMs = EVERY_MS, isAsking = false;

  async function ask() {
    if (isAsking || document.hidden) return;
    isAsking = true;
    try {
      const reply = await fetch(location.href, { headers: { Accept: "text/html", ...(tag && { "If-None-Match": tag }) }, cache: "no-store", redirect: "manual" });
      if (reply.type === "opaqueredirect") return location.reload(); // signed out
      if (reply.status === 200) {
        replace(new DOMParser().parseFromString(await reply.text(), "text/html"), known);
        tag = reply.headers.get("ETag");
        dispatchEvent(new Event("livechange"));
      } else if (reply.status !== 304) throw new Error(`status ${reply.status}`);
      waitMs = EVERY_MS;
      show(indicator, "live", "Live");
    } catch {
      waitMs = Math.min(waitMs * 2, SLOWEST_MS);
      show(indicator, "away", "No answer, trying again");
    } finally {
      isAsking = false;
      schedule();
    }
  }

  function schedule() {
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(ask, waitMs);
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : ask()));
  addEventListener("pageshow", (event) => event.persisted && ask());
  ask();
}

function replace(fresh, known) {
  for (const id of known.keys()) {
    const now = document.getElementById(id), next = fresh.getElementById(id);
    if (!now || !next) continue;
    const html = next.innerHTML;
    if (known.get(id) === html) continue;
    const isFirst = known.get(id) === null;
    known.set(id, html);
    if (isFirst && sameText(now, next)) continue;
    const focused = now.contains(document.activeElement) ? document.activeElement : null;
    const ticked = [...now.querySelectorAll("input[type=checkbox]:checked")].map((box) => `${box.name} ${box.value}`);
    const opened = [...now.querySelectorAll("details[id][open]")].map((details) => details.id);
    now.innerHTML = html;
    for (const open of opened) document.getElementById(open)?.setAttribute("open", "");
    for (const box of now.querySelectorAll("input[type=checkbox]")) box.checked ||= ticked.includes(`${box.name} ${box.value}`);
    focusAgain(now, focused);
    showTimes(now);
    now.dispatchEvent(new CustomEvent("replaced", { bubbles: true }));
  }
}

// The page as it came differs from the server's text in its times only.
function sameText(now, next) {
  const texts = [now, next].map((node) => {
    const copy = node.cloneNode(true);
    for (const time of copy.querySelectorAll("time")) time.textContent = time.title;
    return copy.innerHTML;
  });
  return texts[0] === texts[1];
}

function focusAgain(region, focused) {
  if (!focused) return;
  const links = [...region.querySelectorAll("a[href], button, summary, input, [tabindex]")];
  const again = focused.id ? document.getElementById(focused.id)
    : links.find((link) => ["href", "value"].some((name) => focused.getAttribute(name) && link.getAttribute(name) === focused.getAttribute(name)));
  again?.focus({ preventScroll: true });
}

function show(indicator, state, text) {
  if (!indicator || indicator.dataset.state === state) return;
  indicator.hidden = false;
  indicator.dataset.state = state;
  indicator.textContent = text;
}
