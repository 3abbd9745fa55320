// Shows the state that /events sends: cumulative counts and whole sections, at most ten times a second. Frames
// may be missed; what is drawn follows from the last one and from the one before it that this page has seen.

const $ = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
let state = {}, lastId = "", paused = false, source = null, connected = false, logged = [];
/** Requests that are not drawn yet, by version; failures under "!". */
let pending = new Map(), drawn = null, rates = [];

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}
const setText = (id, text) => { const e = $(id); if (e.textContent !== text) e.textContent = text; };
const percent = (share) => `${(100 * share).toFixed(1)}%`;
const number = (n) => n.toLocaleString("en-US");
const duration = (s) => s < 0.9995 ? `${(1000 * s).toFixed(s < 0.01 ? 1 : 0)} ms` : `${s.toFixed(1)} s`;

// ---- connection

function connect() {
  source?.close();
  source = new EventSource(lastId ? `/events?since=${lastId}` : "/events");
  source.onopen = () => { connected = true; showStatus(); };
  source.onmessage = (message) => {
    connected = true;
    lastId = message.lastEventId;
    receive(JSON.parse(message.data));
  };
  source.onerror = () => {
    connected = false;
    showStatus();
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 1000);
  };
}

function receive(frame) {
  if (frame.first) {
    state = {}; logged = []; drawn = null; pending.clear(); rates = [];
    squares.clear();
  }
  const { log, ...sections } = frame;
  Object.assign(state, sections);
  if (log) logged = logged.concat(log).slice(-200);
  if (frame.totals) count(frame.totals);
  announce(frame);
  if (!paused) drawSoon(sections, log);
}

/** What has changed since the last drawing. A page in the background is not drawn, and must not collect frames. */
let undrawn = null;
function drawSoon(sections, log) {
  if (!undrawn) requestAnimationFrame(() => { const frame = undrawn; undrawn = null; draw(frame); });
  undrawn = { ...undrawn, ...sections, ...log && { log } };
}

function showStatus() {
  const ended = state.run?.ended, lost = state.connection?.lost;
  let text = "live";
  if (ended) {
    const codes = { 0: "every claim that could be checked holds", 1: "a claim fails", 3: "the environment failed", 130: "interrupted" };
    text = `ended after ${ended.seconds.toFixed(1)} s: ${codes[ended.exitCode] ?? ended.exitCode}`;
  }
  if (!connected) text = ended ? `${text}. This page waits for the next run.` : "not connected";
  else if (paused) text += ", paused";
  setText("status", text);
  let alarm = "";
  if (!connected && !ended) alarm = "No connection to the lab: it has ended, or was killed. What you see is the last known state; this page tries again every second.";
  else if (lost) alarm = `The cluster does not respond (${lost.reason}). What you see is its last known state; the lab tries again.`;
  else if (ended?.errors.length) alarm = ended.errors.join("; ");
  $("lost").hidden = !alarm;
  setSentence($("lost"), alarm);
  document.body.dataset.state = !connected ? "disconnected" : ended ? "ended" : "live";
}

// ---- versions: each has a color, a shape and its name

const versions = () => {
  const all = new Set(Object.keys(state.totals?.counts ?? {}));
  for (const pod of state.pods ?? []) if (pod.version) all.add(pod.version);
  all.delete("?");
  return [...all].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
};
function kind(version) {
  const index = versions().indexOf(version);
  return index < 0 || index > 3 ? "vx" : `v${index}`;
}
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// ---- requests as squares

function count(totals) {
  const before = drawn ?? { counts: {}, failures: 0 };
  let added = 0;
  const add = (key, n) => { if (n > 0) { pending.set(key, (pending.get(key) ?? 0) + n); added += n; } };
  if (drawn) {
    for (const [version, n] of Object.entries(totals.counts)) add(version, n - (before.counts[version] ?? 0));
    add("!", totals.failures - before.failures);
  } else {
    // The first frame may hold hours: only its proportions are shown.
    const all = Object.values(totals.counts).reduce((a, b) => a + b, totals.failures);
    const shrink = Math.min(1, 100 / Math.max(1, all));
    for (const [version, n] of Object.entries(totals.counts)) add(version, Math.round(n * shrink));
    add("!", Math.ceil(totals.failures * shrink));
    added = 0;
  }
  drawn = totals;
  const now = performance.now();
  rates.push([now, added]);
  rates = rates.filter(([at]) => now - at < 2000);
}

const squares = {
  cells: [], next: 0, columns: 0, rows: 0,
  clear() { this.cells = []; this.next = 0; },
  draw() {
    const canvas = $("squares"), scale = devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight, size = 14;
    if (!width) return;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale); canvas.height = Math.round(height * scale);
      this.columns = Math.floor(width / size); this.rows = Math.floor(height / size);
      this.cells = this.cells.slice(-this.columns * this.rows); this.next = this.cells.length;
    }
    const room = this.columns * this.rows;
    const total = [...pending.values()].reduce((a, b) => a + b, 0);
    let each = 1;
    for (const step of [2, 5, 10, 20, 50, 100, 1000, 10000]) if (total / each > room / 8) each = step;
    if (calm.matches) this.waffle(room); else this.land(each, room);
    pending.clear();
    setText("scale", calm.matches ? "Motion is reduced: the squares show the shares so far." : each > 1 ? `One square is ${each} requests.` : "One square is one request.");
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const paint = {};
    for (let cell = 0; cell < room; cell++) {
      const key = this.cells[cell];
      if (key === undefined) continue;
      const name = key === "!" ? "fail" : kind(key) === "vx" ? "unknown" : kind(key);
      paint[name] ??= color(name);
      shape(context, name, paint[name], (cell % this.columns) * size + 1, Math.floor(cell / this.columns) * size + 1, size - 3);
    }
  },
  /** Adds the new requests of this frame, in random order: which of them came first is not known. */
  land(each, room) {
    const landed = [];
    for (const [key, n] of pending) {
      // Not one failure is lost by rounding.
      const cells = key === "!" ? Math.ceil(n / each) : Math.floor(n / each + Math.random());
      for (let i = 0; i < cells; i++) landed.push(key);
    }
    for (let i = landed.length - 1; i > 0; i--) {
      const other = Math.floor(Math.random() * (i + 1));
      [landed[i], landed[other]] = [landed[other], landed[i]];
    }
    for (const key of landed.slice(-room)) {
      this.next = this.next % room;
      this.cells[this.next++] = key;
    }
    // A gap shows where the newest end.
    for (let gap = 0; gap < Math.min(3, room); gap++) this.cells[(this.next + gap) % room] = undefined;
  },
  waffle(room) {
    const cells = Math.min(100, room), all = state.totals ?? { counts: {}, failures: 0 };
    const sum = Object.values(all.counts).reduce((a, b) => a + b, all.failures);
    this.cells = [];
    for (const [key, n] of [...Object.entries(all.counts), ["!", all.failures]])
      for (let i = 0; i < Math.round(cells * n / Math.max(1, sum)); i++) this.cells.push(key);
    this.next = this.cells.length;
  },
};

/** Draws a square for the first version, a disk for the second, a triangle for others, a cross for failures. */
function shape(context, name, paint, x, y, size) {
  context.fillStyle = context.strokeStyle = paint;
  context.beginPath();
  if (name === "fail") {
    context.lineWidth = 3;
    context.moveTo(x, y); context.lineTo(x + size, y + size);
    context.moveTo(x + size, y); context.lineTo(x, y + size);
    context.stroke();
  } else if (name === "v0") {
    context.fillRect(x, y, size, size);
  } else if (name === "v1") {
    context.arc(x + size / 2, y + size / 2, size / 2, 0, 7); context.fill();
  } else {
    context.moveTo(x + size / 2, y); context.lineTo(x + size, y + size); context.lineTo(x, y + size); context.fill();
  }
}

function svg(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function drawRequests() {
  const totals = state.totals;
  if (!totals) return;
  const sum = Object.values(totals.counts).reduce((a, b) => a + b, totals.failures);
  const span = rates.length > 1 ? (performance.now() - rates[0][0]) / 1000 : 0;
  const rate = span > 0.2 ? rates.slice(1).reduce((all, [, n]) => all + n, 0) / span : 0;
  setText("rate", `${number(sum)} in all, ${number(Math.round(rate))} a second`);
  const legend = $("legend"), rows = [];
  for (const version of [...versions(), ...("?" in totals.counts ? ["?"] : [])])
    rows.push([kind(version), version === "?" ? "unknown version" : version, totals.counts[version] ?? 0]);
  rows.push(["fail", "failed", totals.failures]);
  const text = rows.map(([, label, n]) => `${label}: ${number(n)}`);
  if (legend.dataset.text !== text.join("|")) {
    legend.dataset.text = text.join("|");
    legend.replaceChildren(...rows.map(([name], i) => {
      const item = make("li"), fill = `var(--${name === "vx" ? "unknown" : name})`;
      const icon = svg("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" });
      icon.append(name === "v0" ? svg("rect", { x: 1, y: 1, width: 10, height: 10 }) : name === "v1" ? svg("circle", { cx: 6, cy: 6, r: 5 })
        : name === "fail" ? svg("path", { d: "M1 1 11 11M11 1 1 11", "stroke-width": 3, stroke: fill }) : svg("path", { d: "M6 1 11 11H1Z" }));
      icon.setAttribute("fill", fill);
      item.append(icon, text[i]);
      return item;
    }));
  }
  $("squares").setAttribute("aria-label", sum ? `Requests so far: ${text.join(", ")}` : "No requests yet");
  squares.draw();
}

// ---- share and latency

const line = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

function drawShare() {
  const sample = state.sample;
  if (!sample) return;
  const { band, points } = sample;
  const total = points.at(-1)?.[0] ?? 0, hits = points.at(-1)?.[1] ?? 0;
  const version = band?.version ?? Object.keys(sample.counts).sort().at(-1) ?? "?";
  const share = total ? hits / total : 0;
  let text = `${sample.what}: ${number(total)}${sample.planned ? ` of ${number(sample.planned)}` : ""} requests`;
  if (total && (band || Object.keys(sample.counts).length > 1)) text += `; ${version} got ${percent(share)}`;
  if (band) text += `; ${percent(band.share)} accepts ${percent(band.low / sample.planned)} to ${percent(band.high / sample.planned)}`;
  setText("share-text", text);
  const chart = $("share"), left = 42, right = 408, top = 8, bottom = 160;
  chart.setAttribute("aria-label", text);
  const end = Math.max(sample.planned, total, 1), claimed = band?.share ?? share;
  const low = band ? Math.max(0, claimed - 0.25) : 0, high = band ? Math.min(1, claimed + 0.25) : 1;
  const x = (n) => left + (right - left) * n / end;
  const y = (s) => bottom - (bottom - top) * (Math.min(high, Math.max(low, s)) - low) / (high - low);
  const parts = [];
  if (band) {
    // The width that the test accepts at its end, for every smaller number of requests.
    const deviation = (n) => Math.sqrt(claimed * (1 - claimed) / n);
    const z = (band.high - band.low) / (2 * sample.planned * deviation(sample.planned));
    const upper = [], lower = [];
    for (let i = 0; i <= 80; i++) {
      const n = end * Math.max(i / 80, 0.002), half = z * deviation(n);
      upper.push([x(n), y(claimed + half)]); lower.push([x(n), y(claimed - half)]);
    }
    parts.push(svg("path", { class: "funnel", d: `${line([...upper, ...lower.reverse()])}Z` }));
    parts.push(svg("path", { class: "claimed", d: line([[left, y(claimed)], [right, y(claimed)]]) }));
    const [from, to] = [band.low / sample.planned, band.high / sample.planned];
    parts.push(svg("path", { class: "bracket", d: line([[right - 6, y(to)], [right, y(to)], [right, y(from)], [right - 6, y(from)]]) }));
  }
  parts.push(svg("path", { class: "axis", d: line([[left, top], [left, bottom], [right, bottom]]) }));
  for (const s of [low, (low + high) / 2, high]) parts.push(svg("text", { x: left - 5, y: y(s) + 4, "text-anchor": "end" }, `${Math.round(100 * s)}%`));
  parts.push(svg("text", { x: right, y: bottom + 18, "text-anchor": "end" }, `${number(end)} requests`), svg("text", { x: left, y: bottom + 18 }, "0"));
  const curve = points.filter(([n]) => n > 0).map(([n, k]) => [x(n), y(k / n)]);
  if (curve.length) {
    parts.push(svg("path", { class: "curve", d: line(curve) }));
    const [cx, cy] = curve.at(-1);
    parts.push(svg("circle", { cx, cy, r: 4, fill: "var(--v1)" }));
  }
  chart.replaceChildren(...parts);
}

function drawLatency() {
  const all = state.sample?.latencies;
  if (!all?.length) return;
  const [, p50, p99] = all.at(-1);
  const text = `median ${duration(p50)} (solid), 99% below ${duration(p99)} (dashed)`;
  setText("latency-text", text);
  const chart = $("latency"), left = 62, right = 408, top = 6, bottom = 82;
  chart.setAttribute("aria-label", `Latency of the last requests: ${text}`);
  const from = all[0][0], to = Math.max(all.at(-1)[0], from + 1), most = Math.max(...all.map(([, , p]) => p), 1e-4);
  const x = (at) => left + (right - left) * (at - from) / (to - from), y = (s) => bottom - (bottom - top) * s / most;
  chart.replaceChildren(
    svg("path", { class: "axis", d: line([[left, top], [left, bottom], [right, bottom]]) }),
    svg("text", { x: left - 5, y: top + 9, "text-anchor": "end" }, duration(most)),
    svg("text", { x: left - 5, y: bottom, "text-anchor": "end" }, "0"),
    svg("path", { class: "tail", d: line(all.map(([at, , p]) => [x(at), y(p)])) }),
    svg("path", { class: "median", d: line(all.map(([at, p]) => [x(at), y(p)])) }),
  );
}

// ---- cluster

const WORDS = { pending: "pending", running: "not ready", ready: "ready", terminating: "terminating", succeeded: "ended", failed: "failed" };

function drawCluster() {
  const nodes = state.nodes ?? {}, pods = state.pods ?? [], parent = $("nodes");
  const names = Object.keys(nodes).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  if (pods.some((pod) => !pod.node)) names.push("");
  for (const pod of pods) if (pod.node && !names.includes(pod.node)) names.push(pod.node);
  keyed(parent, names, (name) => name || "unscheduled", () => { const e = make("div", undefined, "node"); e.append(make("h3"), make("ul")); return e; }, (element, name) => {
    const down = nodes[name] === false;
    element.className = down ? "node down" : "node";
    const title = name ? (down ? `${name}, not ready` : name) : "not on a node yet";
    if (element.firstChild.textContent !== title) element.firstChild.textContent = title;
    const own = pods.filter((pod) => (pod.node ?? "") === name).sort((a, b) => a.pod < b.pod ? -1 : 1);
    keyed(element.lastChild, own, (pod) => pod.pod, newPod, (item, pod) => {
      item.className = `pod ${pod.state} ${kind(pod.version)}`;
      const [badge, label, detail] = item.children;
      badge.textContent = pod.version ?? "?";
      label.textContent = pod.pod.replace(/^kubeapp-/, "");
      label.title = pod.pod;
      let text = WORDS[pod.state] ?? pod.state;
      if (pod.reason) text += `: ${pod.reason}`;
      if (pod.restarts) text += `, ${pod.restarts} restarts`;
      if (pod.requests) text += `, ${number(pod.requests)} served`;
      detail.textContent = text;
    });
  });
}
function newPod() {
  const item = make("li");
  item.append(make("b"), make("span", "", "name"), make("span", "", "state"));
  return item;
}

/** Keeps one element per key, in order, so that nothing that stays is drawn again. */
function keyed(parent, items, key, create, update) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstChild;
  for (const item of items) {
    const name = key(item);
    let element = before.get(name);
    if (element) before.delete(name);
    else { element = create(item); element.dataset.key = name; }
    update(element, item);
    if (element === place) place = place.nextSibling;
    else parent.insertBefore(element, place);
  }
  for (const element of before.values()) element.remove();
}

// ---- run, claims, log

const MARKS = { holds: "✓", fails: "✗", skipped: "–" };

function drawRun() {
  const { run, steps } = state;
  if (run) {
    setText("title", run.lab ? `${run.lab}: ${run.title}` : "Canary Labs");
    setText("where", `on ${run.provider}`);
    document.title = run.lab ? `${run.lab}, Canary Labs` : "Canary Labs";
  }
  if (steps) {
    const at = guide().findIndex((step) => step.id === current()), step = guide()[at];
    const next = step ? `step ${at + 1} of ${guide().length}: ${step.title}` : "…";
    const done = guide().length && !step ? "every claim holds" : "";
    setSentence($("step"), steps.steps.at(-1) ?? (run?.ended ? "the run has ended" : done || next));
    setSentence($("progress"), steps.progress);
  }
  const diagnosis = state.diagnosis;
  $("diagnosis").hidden = !diagnosis;
  if (diagnosis) {
    setSentence($("fault"), `At fault: ${diagnosis.layer ? `${diagnosis.layer}: ` : ""}${diagnosis.reason}`);
    if ($("command").dataset.text !== (diagnosis.command ?? "")) {
      $("command").dataset.text = diagnosis.command ?? "";
      $("command").replaceChildren(...diagnosis.command ? [typed(diagnosis.command)] : []);
    }
  }
}

/** The steps of the current lab. */
const guide = () => state.guide?.steps ?? [];
const isDone = (step, i) => {
  const holds = (id) => claimsOf(state.guide.lab).some((claim) => claim.id === id && claim.outcome === "holds");
  // A step that proves nothing is done once a later one has proved something.
  return step.proves.length ? step.proves.every(holds) : guide().slice(i + 1).some((later) => later.proves.some(holds));
};
const claimsOf = (lab) => (state.claims ?? []).filter((claim) => claim.lab === lab);
/** The id of the step in progress; of the first that is not done where a person works by hand. */
function current() {
  if (state.run?.ended) return "";
  return state.steps?.id || guide().find((step, i) => !isDone(step, i))?.id;
}

/** A command, and a button that copies it. */
function typed(text) {
  const row = make("div", undefined, "typed"), command = make("pre", text), button = make("button", "Copy");
  command.tabIndex = 0;
  button.type = "button";
  button.setAttribute("aria-label", `Copy ${text}`);
  button.addEventListener("click", async () => {
    let said = "Copied";
    try { await navigator.clipboard.writeText(text); } catch { getSelection().selectAllChildren(command); said = "Press Ctrl-C"; }
    button.textContent = said;
    setText("live", said);
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  row.append(command, button);
  return row;
}

function prose(text) {
  const paragraph = make("p");
  paragraph.append(...sentence(text));
  return paragraph;
}

function about({ shows, commands, look, hints }) {
  const about = make("div", undefined, "about");
  about.append(prose(shows), ...commands.map(typed), prose(`Look at: ${look}`));
  hints.forEach((hint, i) => {
    const details = make("details");
    details.append(make("summary", `Hint ${i + 1}`), prose(hint));
    about.append(details);
  });
  return about;
}

/** Steps with the claims that they prove; other labs of the run, and claims without a step, as one group each. */
function groups() {
  const own = state.guide?.lab, steps = guide(), at = steps.findIndex((step) => step.id === current());
  const ended = Boolean(state.run?.ended);
  const all = [...new Set((state.claims ?? []).map((claim) => claim.lab))].filter((lab) => lab !== own).map((lab) => {
    const claims = claimsOf(lab), held = claims.filter((claim) => claim.outcome === "holds").length;
    return { key: lab, title: `${lab} (${held} of ${claims.length} hold)`, claims, word: held === claims.length ? "done" : "open", folded: true };
  });
  const listed = new Set(steps.flatMap((step) => step.proves));
  steps.forEach((step, i) => {
    const claims = claimsOf(own).filter((claim) => step.proves.includes(claim.id));
    const past = state.steps?.id ? ended || i < at : isDone(step, i);
    all.push({ key: `${own}/${step.id}`, title: `${i + 1}. ${step.title}`, step, claims, word: i === at ? "current" : past ? "done" : "open" });
  });
  const rest = claimsOf(own).filter((claim) => !listed.has(claim.id));
  if (rest.length) all.push({ key: "rest", title: "other claims", claims: rest, word: "open" });
  return all;
}

const STEP_MARKS = { done: ["✓", "done"], current: ["●", "now"], open: ["○", "to do"] };

function newGroup({ step, folded }) {
  const item = make("li", undefined, "group"), details = make("details"), summary = make("summary"), claims = make("ul");
  summary.append(make("span", "", "mark"), make("span"));
  details.append(summary);
  if (step) details.append(about(step));
  if (folded) details.append(claims);
  item.append(details);
  if (!folded) item.append(claims);
  return item;
}

function drawClaims() {
  const parent = $("claims"), all = groups();
  if (!all.length) return;
  keyed(parent, all, (group) => group.key, newGroup, (item, { title, claims, word }) => {
    const details = item.firstChild, [mark, name] = details.firstChild.children;
    setMark(mark, ...STEP_MARKS[word]);
    setSentence(name, title);
    keyed(item.querySelector("ul"), claims, (claim) => claim.id, newClaim, updateClaim);
    if (item.dataset.word === word) return;
    const before = item.dataset.word;
    item.dataset.word = word;
    item.className = `group ${word}`;
    if (word === "current") {
      reveal(parent, item);
      // Steps that pass in a moment are not unfolded.
      setTimeout(() => { if (item.dataset.word === "current") { details.open = true; reveal(parent, item); } }, 700);
    } else if (before === "current") details.open = false;
  });
  const claims = state.claims ?? [], holds = claims.filter((claim) => claim.outcome === "holds");
  setText("claims-name", guide().length ? "Steps and claims" : "Claims");
  setText("score", claims.length ? `(${holds.length} of ${claims.length} hold)` : "");
}

function newClaim() {
  const item = make("li", undefined, "claim");
  item.append(make("span", "", "mark"), make("span", "", "what"), make("span", "", "evidence"));
  return item;
}
function updateClaim(item, claim) {
  const [mark, what, evidence] = item.children, word = claim.outcome ?? "open";
  item.className = `claim ${word}`;
  setMark(mark, MARKS[word] ?? "○", word === "open" ? "not judged yet" : word);
  setSentence(what, claim.sentence || claim.id);
  setSentence(evidence, claim.evidence);
}
function setMark(mark, sign, label) {
  if (mark.textContent === sign) return;
  mark.textContent = sign;
  mark.setAttribute("role", "img");
  mark.setAttribute("aria-label", label);
}
/** Scrolls the list, and not the page, so that the item is in view. */
function reveal(parent, item) {
  const top = item.offsetTop - parent.offsetTop, bottom = top + item.offsetHeight;
  if (top < parent.scrollTop || item.offsetHeight > parent.clientHeight) parent.scrollTop = top;
  else if (bottom > parent.scrollTop + parent.clientHeight) parent.scrollTop = bottom - parent.clientHeight;
}

function drawLog() {
  const parent = $("log"), follows = parent.scrollTop + parent.clientHeight >= parent.scrollHeight - 20;
  parent.replaceChildren(...logged.map(({ at, kind, text }) => {
    const item = make("li");
    const what = make("span", undefined, kind);
    what.append(...sentence(text));
    item.append(make("span", `${at.toFixed(1)} s`, "time"), what);
    return item;
  }));
  if (follows) parent.scrollTop = parent.scrollHeight;
}

function draw(frame) {
  drawRun();
  if (frame.claims || frame.guide || frame.steps || frame.run) drawClaims();
  if (frame.nodes || frame.pods || frame.totals) drawCluster();
  drawRequests();
  if (frame.sample) { drawShare(); drawLatency(); }
  if (frame.log) drawLog();
  showStatus();
}
const drawAll = () => draw({ claims: 1, nodes: 1, sample: 1, log: 1 });

// ---- what a screen reader hears: what matters, at most every five seconds

let unsaid = [], speaking = null;
function announce(frame) {
  for (const { kind, text } of frame.log ?? []) if (kind !== "event") unsaid.push(kind in MARKS ? `${kind}: ${text}` : text);
  if (!unsaid.length || speaking) return;
  const speak = () => {
    speaking = null;
    if (!unsaid.length) return;
    const rest = unsaid.length > 3 ? `${unsaid.length - 3} more messages, among them: ` : "";
    setText("live", rest + unsaid.slice(-3).join(". "));
    unsaid = [];
    speaking = setTimeout(speak, 5000);
  };
  speaking = setTimeout(speak, 200);
}

// ---- buttons and keys

function togglePause() {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  if (paused) showStatus(); else drawAll();
}
function setTheme(dark) {
  document.documentElement.classList.toggle("dark", dark);
  drawAll();
}
$("pause").addEventListener("click", togglePause);
$("theme").addEventListener("click", () => setTheme(!document.documentElement.classList.contains("dark")));
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "p") togglePause();
  if (event.key === "t") $("theme").click();
});
const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", () => setTheme(dark.matches));
addEventListener("resize", () => squares.draw());
setTheme(dark.matches);
connect();
