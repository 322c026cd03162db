// Which view is shown, and the stream that keeps it up to date.

import { h } from "./dom.js";
import { RunList } from "./list.js";
import { RunView } from "./run.js";

const main = document.getElementById("main");
const here = document.getElementById("here");
const connection = document.getElementById("connection");
const RETRY_MS = 5000;

// The token is in a cookie by now: it need not stay in the address, where it would be copied and shown.
const address = new URL(location.href);
if (address.searchParams.has("token")) {
  address.searchParams.delete("token");
  history.replaceState(null, "", address);
}

let source = null;
let retry = 0;
let view = null;
let runs = null;

function wanted() {
  const match = /^#\/run\/(.+)$/.exec(location.hash);
  return match ? decodeURIComponent(match[1]) : "";
}

function say(state, text) {
  connection.className = `connection ${state}`;
  if (connection.textContent !== text) connection.textContent = text;
}

function listen(run) {
  clearTimeout(retry);
  source?.close();
  const mine = new EventSource(`/api/stream?run=${encodeURIComponent(run)}`);
  source = mine;
  mine.onopen = () => say("live", "Live");
  mine.onerror = () => {
    if (mine !== source) return;
    say("lost", "Connection lost, trying again …");
    if (mine.readyState === EventSource.CLOSED) retry = setTimeout(() => listen(run), RETRY_MS);
  };
  mine.addEventListener("runs", (event) => {
    runs = JSON.parse(event.data).runs;
    if (!location.hash) return openFirst();
    view?.runs?.(runs);
  });
  mine.addEventListener("run", (event) => {
    const state = JSON.parse(event.data);
    if (state.run !== run || !view?.update) return;
    title(state.name);
    view.update(state);
  });
  mine.addEventListener("absent", () => view?.absent?.());
}

/** Without a wish of the user, show the run that goes on; else the list. */
function openFirst() {
  const running = runs.find((r) => r.status === "running");
  history.replaceState(null, "", running ? `#/run/${encodeURIComponent(running.run)}` : "#/runs");
  route();
}

function title(name) {
  here.textContent = name ? ` / ${name}` : "";
  document.title = name ? `${name} – sparkgap` : "sparkgap";
}

function route() {
  if (location.hash === "#main") return;
  const run = wanted();
  view?.end?.();
  title("");
  main.replaceChildren();
  view = run ? new RunView(main) : new RunList(main);
  if (runs) view.runs?.(runs);
  scrollTo(0, 0);
  listen(run);
}

addEventListener("hashchange", route);
addEventListener("pagehide", () => source?.close());
addEventListener("pageshow", (event) => event.persisted && route());
if (!location.hash) main.append(h("p", { class: "empty" }, "Looking for runs …"));
route();
