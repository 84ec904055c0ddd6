
"use strict";
// Everything that comes from outside becomes text, never markup: only textContent is ever set.
const $ = (id) => document.getElementById(id);
const history = new Map(); // projection -> {lag: [], rate: [], applied, at}
const SAMPLES = 120;
let token = sessionStorage.getItem("token") || "";
let stream = null;
let actions = false;
let pages = [null]; // behind which letter each page of dead letters begins, up to the one that is shown
let asked = 0; // the last request for a page of them
let shownLetters = ""; // what it has brought

function make(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  for (const child of children.flat()) element.append(child instanceof Node ? child : String(child));
  return element;
}
function fill(id, ...children) {
  const focused = document.activeElement && document.activeElement.dataset.key;
  $(id).replaceChildren(...children.flat());
  if (!focused) return;
  let again = document.querySelector(`[data-key="${CSS.escape(focused)}"]`);
  if (again && again.disabled) again = again.parentElement.querySelector("button:enabled");
  if (again) again.focus();
}
const number = (value) => Math.round(value).toLocaleString("en");
const short = (digest) => (digest || "-").slice(0, 12);
function time(seconds) {
  for (const [length, unit] of [[31536000, "y"], [86400, "d"], [3600, "h"], [60, "min"]]) if (seconds >= length) return (seconds / length).toFixed(1) + " " + unit;
  return seconds > 0 ? seconds.toFixed(1) + " s" : "0 s";
}
function notice(text) { $("notice").textContent = text; }

function chart(kind, title, samples, shown) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${SAMPLES - 1} 30`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${title}: ${shown}`);
  const most = Math.max(1, ...samples);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", samples.map((value, at) => `${SAMPLES - samples.length + at},${29 - 28 * value / most}`).join(" "));
  svg.append(line);
  return make("figure", { class: kind }, svg, make("figcaption", {}, title + " ", make("b", {}, shown)));
}

function note(report) {
  const now = performance.now();
  for (const projection of report.projections) {
    const lag = projection.partitions.reduce((sum, one) => Math.max(sum, one.lag_events), 0);
    const applied = projection.partitions.reduce((sum, one) => sum + one.events_applied, 0);
    const kept = history.get(projection.name) || { lag: [], rate: [], applied, at: now };
    const seconds = Math.max(0.001, (now - kept.at) / 1000);
    kept.rate.push(Math.max(0, (applied - kept.applied) / seconds));
    kept.lag.push(lag);
    Object.assign(kept, { applied, at: now, lag: kept.lag.slice(-SAMPLES), rate: kept.rate.slice(-SAMPLES) });
    history.set(projection.name, kept);
  }
}

// Slots in few words: 0–3, 7.
function ranges(numbers) {
  const found = [];
  for (const number of numbers) {
    const last = found.at(-1);
    if (last && last[1] === number - 1) last[1] = number; else found.push([number, number]);
  }
  return found.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(", ");
}

function replicaSet(one, owner) {
  const change = one.last_change;
  const rows = one.members.map((member) => {
    const life = !member.running ? "ended" : member.silent ? `no sign of life for ${time(member.silent_seconds)}` : "works";
    const slots = Object.entries(member.slots);
    return make("tr", { "data-member": member.name },
      make("td", {}, member.name, member.name.startsWith(owner + "#") ? make("span", { class: "soft" }, " (this process)") : []),
      make("td", { class: member.running && !member.silent ? "good" : "bad" }, life),
      make("td", {}, slots.length ? slots.map(([name, list]) => make("div", {}, `${name}: ${ranges(list)}`)) : "none yet"));
  });
  return make("article", { class: "card all", "data-set": one.name },
    make("header", {}, make("h3", {}, one.name)),
    make("p", {}, `${one.members.length} members, ${one.slots} slots of each projection, generation ${one.generation}`),
    change ? make("p", { class: "soft told" }, `${change.reason}; ${change.moved} slots moved, ${change.written_at}`) : [],
    make("div", { class: "wide" }, make("table", {}, make("thead", {}, make("tr", {}, ["member", "", "slots"].map((text) => make("th", {}, text)))), make("tbody", {}, rows))));
}

// What this process has to do with rebuilding a projection: a button, and what became of it.
function rebuilding(one, state) {
  const seen = state.rebuilds.find((rebuild) => rebuild.projection === one.name);
  const runs = seen && seen.stage === "running";
  const path = `/api/projections/${encodeURIComponent(one.name)}`;
  const button = !state.rebuildable.includes(one.name) ? [] : make("button", { "data-key": `rebuild ${one.name}`, disabled: !actions, onclick: () => {
    if (runs) act(`${path}/interrupt`);
    else if (confirm(`Build ${one.name} afresh from the first event on? The live one stays in use until the new one has caught up, and then the two are swapped.`)) act(`${path}/rebuild`);
  } }, runs ? "Interrupt the rebuild" : "Rebuild");
  const told = !seen || runs ? [] : make("p", { class: seen.stage === "done" ? "good told" : "bad told" }, `${seen.told} (${seen.at})`);
  return { button, told };
}

function projection(one, state) {
  const rebuild = rebuilding(one, state);
  const kept = history.get(one.name);
  const behind = Math.max(0, ...one.partitions.map((partition) => partition.lag_seconds));
  const action = one.paused ? "resume" : "pause";
  const button = make("button", { "data-key": `pause ${one.name}`, disabled: !actions, onclick: () => act(`/api/projections/${encodeURIComponent(one.name)}/${action}`) }, one.paused ? "Resume" : "Pause");
  const rows = one.partitions.map((partition) => make("tr", {},
    make("td", {}, `${partition.partition_key} of ${partition.total_partitions}`),
    make("td", { class: "number" }, number(partition.position)),
    make("td", { class: "number" }, number(partition.lag_events)),
    make("td", {}, partition.running ? partition.owner : partition.owner ? `(${partition.owner})` : "nobody yet"),
    make("td", {}, `v${partition.plugin_version} ${short(partition.plugin_digest).slice(0, 8)}`)));
  return make("article", { class: "card", "data-projection": one.name },
    make("header", {}, make("h3", {}, one.name), make("div", { class: "row" }, button, rebuild.button)),
    one.paused ? make("p", { class: "soft" }, `paused by ${one.paused.by} since ${one.paused.since}`) : [],
    make("div", { class: "charts" },
      chart("lag", "lag", kept.lag, `${number(kept.lag.at(-1))} events, ${time(behind)}`),
      chart("rate", "rate", kept.rate, `${number(kept.rate.at(-1))} events/s`)),
    one.parked_aggregates ? make("p", {}, `${one.parked_aggregates} aggregates parked, ${one.dead_letters} dead letters`) : [],
    rebuild.told,
    one.rebuild ? make("p", {}, `rebuild at ${number(one.rebuild.position)}, ${one.rebuild.percent} % `, make("progress", { max: 100, value: one.rebuild.percent, "aria-label": "rebuild" })) : [],
    make("div", { class: "wide" }, make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, "partition"), make("th", { class: "number" }, "position"), make("th", { class: "number" }, "lag"), make("th", {}, "owner"), make("th", {}, "plugin"))), make("tbody", {}, rows))));
}

function table(head, rows, empty) {
  if (!rows.length) return make("p", { class: "soft" }, empty);
  return make("table", {}, make("thead", {}, make("tr", {}, head.map((text) => make("th", {}, text)))), make("tbody", {}, rows.map((row) => make("tr", {}, row.map((cell) => make("td", {}, cell))))));
}

function show(state) {
  actions = state.actions && token !== "";
  $("owner").textContent = state.owner;
  $("status").textContent = state.health.status;
  $("status").dataset.status = state.health.status;
  $("login").hidden = !state.actions;
  fill("reasons", state.health.reasons.length
    ? state.health.reasons.map((reason) => make("li", {}, [reason.projection, reason.partition, reason.message].filter(Boolean).join(": ")))
    : make("li", { class: "soft" }, "all is well"));
  fill("workers", table(["projection", "partition", "state", "events", "a batch in the guest", "in SQL", "at the commit", "memory"], state.workers.map((worker) => {
    const each = (seconds) => worker.cost.batches ? (1000 * seconds / worker.cost.batches).toFixed(2) + " ms" : "-";
    return [worker.projection, worker.partition, [worker.state, worker.detail].filter(Boolean).join(": "), number(worker.events), each(worker.cost.guest_seconds), each(worker.cost.sql_seconds), each(worker.cost.commit_seconds), `${(worker.cost.memory / 1048576).toFixed(1)} MiB`];
  }), "none"));
  fill("reloads", table(["when", "projection", "from", "to", ""], state.reloads.map((one) => [one.at, one.projection, short(one.from), short(one.to), one.taken ? "taken" : `refused: ${one.reason}`]), "no component has been changed since this process started"));
  const report = state.report;
  if (!report) return;
  note(report);
  const horizon = report.horizon;
  $("horizon").textContent = horizon.position >= horizon.last_position ? `${number(horizon.position)}, the last event` : `${number(horizon.position)} of ${number(horizon.last_position)}: the first event above has waited ${time(horizon.age_seconds)}`;
  fill("blockers", horizon.blockers.map((one) => make("li", {}, `${one.pid ? "pid " + one.pid : "prepared"} (${one.application}), open for ${time(one.age_seconds)}: ${one.query}`)));
  fill("projections", report.projections.length ? report.projections.map((one) => projection(one, state)) : make("p", { class: "soft" }, "no projection has run yet"));
  $("sets-section").hidden = !report.replica_sets.length;
  fill("sets", report.replica_sets.map((one) => replicaSet(one, state.owner)));
  const parked = report.projections.some((one) => one.parked_aggregates > 0);
  if (!parked || !actions) { pages = [null]; shownLetters = ""; asked += 1; }
  if (!parked) fill("letters", make("p", { class: "soft" }, "nothing is parked"));
  else if (!actions) fill("letters", make("p", { class: "soft" }, state.actions ? "the token shows them" : "host dlq list shows them; here a token would (--http-token-file)"));
  else letters();
}

const authorized = () => (token ? { Authorization: `Bearer ${token}` } : {});

async function letters() {
  const mine = (asked += 1);
  const after = pages.at(-1);
  const query = after ? `?after_projection=${encodeURIComponent(after.projection)}&after_position=${after.position}` : "";
  const response = await fetch(`/api/dead-letters${query}`, { headers: authorized() });
  if (!response.ok) return refused(response);
  const text = await response.text();
  // A later request, or nothing new: whoever reads or marks something is left alone.
  if (mine !== asked || text === shownLetters) return;
  const { parked, next } = JSON.parse(text);
  if (!parked.length && pages.length > 1) { pages.pop(); return letters(); }
  shownLetters = text;
  const turn = (key, label, enabled, to) => make("button", { "data-key": key, disabled: !enabled, onclick: () => { to(); letters(); } }, label);
  const paged = pages.length > 1 || next;
  fill("letters", parked.map(letter), !paged ? [] : make("div", { class: "row all" },
    turn("letters back", "Previous", pages.length > 1, () => pages.pop()),
    make("span", { id: "letters-page" }, `page ${pages.length}`),
    turn("letters on", "Next", next, () => next && pages.push(next))));
}

function letter(one) {
  const key = `${one.projection} ${one.bounded_context}/${one.aggregate_type}/${one.aggregate_id}`;
  const meant = { projection: one.projection, bounded_context: one.bounded_context, aggregate_type: one.aggregate_type, aggregate_id: one.aggregate_id };
  return make("article", { class: "card", "data-letter": one.aggregate_id },
    make("h3", {}, key),
    make("p", {}, `event ${one.position}, ${one.event_type}; ${one.letters} wait, tried ${one.attempts} times, since ${one.since}`),
    make("pre", {}, one.error),
    make("pre", {}, one.payload == null ? "(not in the log any more)" : one.payload),
    one.asked ? make("p", { class: "soft" }, `asked: ${one.asked}`) : [],
    make("div", { class: "row" },
      make("button", { "data-key": `retry ${key}`, onclick: () => act("/api/dead-letters", meant) }, "Retry"),
      make("button", { "data-key": `skip ${key}`, onclick: () => confirm(`Give up on event ${one.position} for good?`) && act("/api/dead-letters", { ...meant, position: one.position }) }, "Skip")));
}

async function refused(response) {
  if (response.status === 401) { notice("That token is refused."); return; }
  const text = await response.text();
  try { notice(JSON.parse(text).error || text); } catch { notice(text); }
}

async function act(path, body) {
  notice("");
  const response = await fetch(path, { method: "POST", headers: { ...authorized(), "Content-Type": "application/json" }, body: JSON.stringify(body || {}) });
  if (!response.ok) await refused(response);
}

// Server-sent events, read by hand: EventSource cannot bear a token.
async function follow() {
  const mine = (stream = new AbortController());
  while (stream === mine) {
    try {
      const response = await fetch("/api/events", { headers: authorized(), signal: mine.signal });
      if (response.status === 401) { $("login").hidden = false; $("status").textContent = "this needs the token"; if (token) notice("That token is refused."); return; }
      // As many pages follow this host as it has room for.
      if (!response.ok) { $("status").textContent = (await response.text()).trim(); $("status").dataset.status = "away"; await new Promise((resolve) => setTimeout(resolve, 5000)); continue; }
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        const events = text.split("\n\n");
        text = events.pop();
        for (const event of events) {
          const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
          if (data && stream === mine) show(JSON.parse(data));
        }
      }
    } catch (error) { if (stream !== mine) return; }
    $("status").textContent = "no answer: trying again";
    $("status").dataset.status = "away";
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  sessionStorage.setItem("token", token);
  $("token").value = "";
  notice("");
  if (stream) stream.abort();
  follow();
});
follow();
