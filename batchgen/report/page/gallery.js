// Everything that came from prompts or servers becomes text through textContent or an attribute, never markup.
const samples = facts.samples;
const PER_CHUNK = 100, GAP = 12, LINE = 38;
const STATES = ["succeeded", "refused", "failed", "uncertain", "blocked", "running", "submitted", "wanted", "superseded"];
const SETTINGS_APART = ["model", "provider"];

// Figures
const keyOf = (sample) => (sample.n === 1 ? sample.id : `${sample.id}#${sample.n}`);
const PRICED = { usage: "from the tokens the vendor reported", vendor: "as the vendor said", estimate: "estimated from the price table", guess: "estimated: the price of its service tier is a guess", maybe: "estimated; may have been billed" };
const cost = (amount, source) => (facts.emulated ? "nothing (emulated)" : amount == null ? "unknown" : `${usd(amount)}${PRICED[source] ? `, ${PRICED[source]}` : ""}`);
const BRIEFLY = { estimate: " (estimated)", guess: " (estimated)", maybe: " (may have been billed)" };
const attemptCost = (amount, source, outcome) => (facts.emulated || (amount == null && source !== "maybe" && outcome !== "succeeded") ? "" : `${amount == null ? "price unknown" : usd(amount)}${(amount != null || source === "maybe") && BRIEFLY[source] || ""}`);
const percent = (path) => path.split("/").map(encodeURIComponent).join("/");
// A page that is served names its pictures by their numbers in the ledger, with what changes when they do.
const link = (picture) => (facts.live ? `pictures/${picture.thumbnail}` : facts.base + percent(picture.path));
const madeLink = (sample, [path, , , , sha]) => (facts.live ? `derivatives/${sha}?id=${encodeURIComponent(sample.id)}&n=${sample.n}` : facts.base + percent(path));
const face = (sample) => sample.pictures.find((picture) => picture.kind === "image");

// Thumbnails: base64 in script elements of a hundred; one is split when it is first looked at, and put aside when others are.
const chunks = new Map();
function thumbnail(number) {
  if (facts.live) return `thumbnails/${number}`;
  const at = Math.floor(number / PER_CHUNK);
  let lines = chunks.get(at);
  if (!lines) {
    const holder = $(`thumbnails-${at}`);
    if (!holder) return "";
    lines = holder.textContent.split("\n");
    if (document.readyState === "loading" && lines.length < PER_CHUNK) return ""; // half read
    if (chunks.size > 40) chunks.delete(chunks.keys().next().value);
    chunks.set(at, lines);
  }
  return lines[number % PER_CHUNK] ? `data:image/webp;base64,${lines[number % PER_CHUNK]}` : "";
}

// Picks belong to one picture: a new version of a sample is undecided again.
const STORE = `batchgen:picks:${facts.job}:${facts.key}`;
let kept = {};
try { kept = JSON.parse(localStorage.getItem(STORE)) || {}; } catch { kept = {}; }
const shaOf = (sample) => face(sample)?.sha ?? "";
function decision(sample) {
  const entry = Object.hasOwn(kept, keyOf(sample)) ? kept[keyOf(sample)] : null;
  return entry && entry.sha === shaOf(sample) ? entry.pick : "";
}
function decide(sample, pick) {
  if (decision(sample) === pick) delete kept[keyOf(sample)];
  else Object.defineProperty(kept, keyOf(sample), { value: { pick, sha: shaOf(sample) }, enumerable: true, configurable: true, writable: true });
  try { localStorage.setItem(STORE, JSON.stringify(kept)); } catch { /* private windows forget with the page */ }
  for (const [index, card] of cards) if (shown[index] === sample) mark(card, sample);
  if ($("viewer").open) markViewer();
  count();
}

// Filters
const look = { states: new Set(), model: "", tag: "", reason: "", pick: "", search: "", sort: "order" };
let shown = [], at = 0;
function prepare(sample, order) {
  Object.assign(sample, { order, tags: sample.tags || [], pictures: sample.pictures || [], attempts: sample.attempts || [] });
  sample.words = `${sample.id} ${sample.prompt || ""} ${sample.tags.join(" ")}`.toLowerCase();
}
samples.forEach(prepare);
const SORTS = {
  order: (a, b) => a.order - b.order,
  newest: (a, b) => b.at - a.at || a.order - b.order,
  cost: (a, b) => (b.usd ?? -1) - (a.usd ?? -1) || a.order - b.order,
  time: (a, b) => (b.seconds ?? -1) - (a.seconds ?? -1) || a.order - b.order,
};
function matches(sample) {
  return (look.states.size ? look.states.has(sample.state) : sample.state !== "superseded")
    && (!look.model || sample.model === look.model)
    && (!look.tag || sample.tags.includes(look.tag))
    && (!look.reason || sample.reason === look.reason)
    && (!look.pick || (decision(sample) || "none") === look.pick)
    && look.search.split(/\s+/).every((word) => sample.words.includes(word));
}
function filter() {
  const current = shown[at];
  shown = samples.filter(matches).sort(SORTS[look.sort]);
  at = Math.max(0, shown.indexOf(current));
  $("nothing").hidden = shown.length > 0;
  count();
  redraw();
}
// After some samples have changed: only their cards are drawn anew, and the focus stays where it is.
function update(changed) {
  const current = shown[at], kept_ = document.activeElement?.closest(".card") ? current : null;
  shown = samples.filter(matches).sort(SORTS[look.sort]);
  at = Math.max(0, shown.indexOf(current));
  $("nothing").hidden = shown.length > 0 || !samples.length;
  count();
  measure();
  for (const [index, card] of cards) {
    if (shown[index] && card.dataset.key === keyOf(shown[index]) && !changed.has(shown[index])) continue;
    card.remove();
    cards.delete(index);
  }
  draw();
  if (kept_ && kept_ === shown[at] && !document.activeElement?.closest(".card")) cards.get(at)?.querySelector(".open").focus({ preventScroll: true });
}
function count() {
  const decided = samples.reduce((sums, sample) => { const pick = decision(sample); if (pick) sums[pick] += 1; return sums; }, { pick: 0, reject: 0 });
  const picks = [decided.pick && `${decided.pick} picked`, decided.reject && `${decided.reject} rejected`].filter(Boolean).join(", ");
  $("count").textContent = `${shown.length.toLocaleString("en")} of ${samples.length.toLocaleString("en")}${picks ? ` · ${picks}` : ""}`;
}
function counts(values) {
  const table = new Map();
  for (const value of values) if (value) table.set(value, (table.get(value) || 0) + 1);
  return [...table].sort((a, b) => b[1] - a[1]);
}
function choices(id, all, entries) {
  if ($(id) === document.activeElement && $(id).children.length) return; // it may be open
  $(id).replaceChildren(make("option", { value: "" }, all), ...entries.map(([value, number]) => make("option", { value }, `${value} (${number.toLocaleString("en")})`)));
  $(id).hidden = entries.length < (id === "model" ? 2 : 1);
  $(id).value = look[id];
}
function offerFilters() {
  const byState = new Map(counts(samples.map((sample) => sample.state)));
  morph($("states"), make("div", { id: "states", role: "group", "aria-label": "State" }, ...STATES.filter((name) => byState.has(name) || look.states.has(name)).map((state) =>
    make("button", { type: "button", class: state, "aria-pressed": String(look.states.has(state)), "data-state": state },
      make("span", { class: "dot" }), state, make("small", {}, (byState.get(state) || 0).toLocaleString("en"))))));
  choices("model", "All models", counts(samples.map((sample) => sample.model)));
  choices("tag", "All tags", counts(samples.flatMap((sample) => sample.tags)));
  choices("reason", "All reasons", counts(samples.map((sample) => sample.reason)));
}
function setUpFilters() {
  offerFilters();
  $("states").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const state = button.dataset.state, on = !look.states.has(state);
    button.setAttribute("aria-pressed", String(on));
    if (on) look.states.add(state); else look.states.delete(state);
    filter();
  });
  for (const id of ["model", "tag", "reason", "pick", "sort"]) $(id).addEventListener("change", () => { look[id] = $(id).value; filter(); });
  $("search").addEventListener("input", () => { look.search = $("search").value.trim().toLowerCase(); filter(); });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("clear").addEventListener("click", clearFilters);
}
function clearFilters() {
  Object.assign(look, { model: "", tag: "", reason: "", pick: "", search: "" });
  look.states.clear();
  for (const button of $("states").children) button.setAttribute("aria-pressed", "false");
  for (const id of ["model", "tag", "reason", "pick", "search"]) $(id).value = "";
  filter();
}

// The grid draws only the rows in sight: ten thousand pictures are as smooth as ten.
const cards = new Map();
let columns = 1, width = 200, rowHeight = 250;
function measure() {
  const room = $("grid").clientWidth;
  columns = Math.max(2, Math.floor((room + GAP) / (innerWidth < 760 ? 160 + GAP : 208 + GAP)));
  width = Math.floor((room - GAP * (columns - 1)) / columns);
  rowHeight = width + LINE + GAP;
  $("grid").style.height = `${Math.ceil(shown.length / columns) * rowHeight}px`;
}
function redraw() {
  for (const card of cards.values()) card.remove();
  cards.clear();
  measure();
  draw();
}
function draw() {
  if ($("pictures").hidden) return;
  const top = -$("grid").getBoundingClientRect().top;
  const first = Math.max(0, Math.floor(top / rowHeight) - 2) * columns;
  const last = Math.min(shown.length, (Math.ceil((top + innerHeight) / rowHeight) + 2) * columns);
  for (const [index, card] of cards) {
    if ((index < first || index >= last) && !card.contains(document.activeElement)) { card.remove(); cards.delete(index); }
  }
  const fresh = [];
  for (let index = first; index < last; index += 1) {
    if (cards.has(index)) continue;
    const card = drawCard(shown[index], index);
    cards.set(index, card);
    fresh.push(card);
  }
  $("grid").append(...fresh);
}
function words(sample) {
  const plain = ["wanted", "running", "submitted"].includes(sample.state) ? " plain" : "";
  const said = sample.message || { wanted: "Not asked for yet.", running: "Asked for; no answer recorded yet.", submitted: "In the vendor's batch; it answers in its own time." }[sample.state] || "The vendor gave no words.";
  return [make("b", { class: plain }, sample.reason ? `${sample.state}: ${sample.reason}` : sample.state), said];
}
function drawCard(sample, index) {
  const name = keyOf(sample), picture = face(sample);
  const source = picture ? thumbnail(picture.thumbnail) : "";
  const open = make("button", { type: "button", class: "open", tabindex: index === at ? 0 : -1, "aria-label": `${name}, ${sample.state}. ${sample.prompt || ""}`.slice(0, 400) });
  const noPreview = () => make("span", { class: "words" }, make("b", { class: "plain" }, name), "No preview: open it to see the picture.");
  if (source) {
    const image = make("img", { src: source, alt: sample.prompt || name, decoding: "async", draggable: "false" });
    image.addEventListener("error", () => image.replaceWith(noPreview()));
    open.append(image);
  } else if (picture) open.append(noPreview());
  else open.append(make("span", { class: "words" }, ...words(sample)));
  const flags = picture?.flags.length ? picture.flags.map((flag) => `other ${flag}`).join(", ") : "";
  if (flags) open.append(make("span", { class: "flag" }, flags));
  open.addEventListener("click", () => { at = index; view(); });
  open.addEventListener("focus", () => { if (at !== index) roam(index); });
  const picks = [["pick", "✓", "Pick"], ["reject", "✕", "Reject"]].map(([pick, sign, label]) =>
    make("button", { type: "button", class: pick, tabindex: index === at ? 0 : -1, "aria-label": `${label} ${name}`, title: label, onclick: () => decide(sample, pick) }, sign));
  const card = make("div", { class: `card ${sample.state}`, role: "listitem", "aria-posinset": index + 1, "aria-setsize": shown.length, "data-key": name },
    open, make("div", { class: "line" }, make("span", { class: `dot ${sample.state}`, title: sample.state }), make("span", { class: "name", title: name }, name), ...picks));
  card.style.width = `${width}px`;
  card.style.height = `${rowHeight - GAP}px`;
  card.style.transform = `translate(${(index % columns) * (width + GAP)}px, ${Math.floor(index / columns) * rowHeight}px)`;
  mark(card, sample);
  return card;
}
function mark(card, sample) {
  const pick = decision(sample);
  card.classList.toggle("picked", pick === "pick");
  card.classList.toggle("rejected", pick === "reject");
  for (const name of ["pick", "reject"]) card.querySelector(`.${name}`).setAttribute("aria-pressed", String(pick === name));
}
function roam(index) {
  for (const [number, tabindex] of [[at, -1], [index, 0]]) cards.get(number)?.querySelectorAll("button").forEach((button) => { button.tabIndex = tabindex; });
  at = index;
}
function go(index) {
  if (!shown.length) return;
  roam(Math.max(0, Math.min(shown.length - 1, index)));
  const box = $("grid").getBoundingClientRect();
  const top = box.top + Math.floor(at / columns) * rowHeight;
  const head = getComputedStyle($("filters")).position === "sticky" ? $("filters").offsetHeight : 0;
  if (top < head) scrollBy(0, top - head - GAP);
  else if (top + rowHeight > innerHeight) scrollBy(0, top + rowHeight - innerHeight);
  draw();
  cards.get(at)?.querySelector(".open").focus({ preventScroll: true });
}

// The viewer
let comparing = false, chosen = null, viewed = 0;
const SORT_OF = { image: "", draft: "draft", thought: "thought", earlier: "earlier version" };
function variants(sample) {
  const family = samples.filter((other) => other.id === sample.id);
  return family.flatMap((other) => other.pictures.map((picture) => ({ sample: other, picture, name: [family.length > 1 || other.n > 1 ? `#${other.n}` : "", SORT_OF[picture.kind]].filter(Boolean).join(" ") || "now" })));
}
function view() {
  const sample = shown[at];
  if (!sample) return;
  viewed = at;
  const all = variants(sample);
  chosen = all.find((variant) => variant.sample === sample && variant.picture === face(sample)) || null;
  if (all.length < 2) comparing = false;
  $("viewer-title").textContent = keyOf(sample);
  drawStage(all);
  drawDetails(sample, all);
  markViewer();
  if (!$("viewer").open) $("viewer").showModal();
}
function markViewer() {
  const sample = shown[at], pick = decision(sample);
  for (const name of ["pick", "reject"]) $("viewer").querySelector(`[data-do="${name}"]`).setAttribute("aria-pressed", String(pick === name));
  const compare = $("viewer").querySelector('[data-do="compare"]');
  compare.setAttribute("aria-pressed", String(comparing));
  compare.disabled = variants(sample).length < 2;
}
function figure({ sample, picture, name }) {
  const image = make("img", { src: link(picture), alt: sample.prompt || keyOf(sample) });
  const anchor = make("a", { href: link(picture), target: "_blank", rel: "noopener", title: "Open the file" }, image);
  const small = thumbnail(picture.thumbnail);
  if (small) anchor.style.backgroundImage = `url("${small}")`; // until the full picture has come
  image.addEventListener("load", () => { anchor.style.backgroundImage = "none"; });
  image.addEventListener("error", () => { image.remove(); anchor.title = "The file is not beside this page"; });
  const facts_ = [make("b", {}, name), `${picture.width} × ${picture.height}`, size(picture.bytes), date(picture.at)];
  return make("figure", { "data-kind": picture.kind }, anchor, make("figcaption", {}, ...facts_.map((fact) => (typeof fact === "string" ? make("span", {}, fact) : fact))));
}
function drawStage(all) {
  const stage = $("stage"), sample = shown[at];
  stage.classList.toggle("many", comparing);
  if (comparing) stage.replaceChildren(...all.map(figure));
  else if (chosen) stage.replaceChildren(figure(chosen));
  else stage.replaceChildren(make("p", { class: "words" }, ...words(sample)));
}
function rows(pairs) {
  return make("dl", {}, ...pairs.filter(([, value]) => value != null && value !== "").flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}
// The tier that served, and the one that was asked for when it is another.
function tierOf({ tier, asks }) {
  const asked = asks?.service_tier;
  return asked && tier && asked !== tier ? `${tier} (asked for: ${asked})` : tier || (asked && `asked for: ${asked}`);
}
const told = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));
function drawDetails(sample, all) {
  const parts = [];
  const section = (title, ...content) => parts.push(make("h3", {}, title), ...content);
  if (all.length > 1) {
    section("Samples and versions", make("div", { class: "strip" }, ...all.map((variant) => {
      const small = thumbnail(variant.picture.thumbnail);
      return make("button", { type: "button", "aria-label": `Show ${variant.name}`, "aria-current": String(variant === chosen), onclick: (event) => {
        chosen = variant;
        comparing = false;
        for (const button of event.currentTarget.parentElement.children) button.setAttribute("aria-current", String(button === event.currentTarget));
        drawStage(all);
        markViewer();
      } }, small ? make("img", { src: small, alt: "" }) : null, make("span", {}, variant.name));
    })));
  }
  if (!["succeeded", "wanted", "running", "submitted", "superseded"].includes(sample.state)) section(sample.state === "blocked" ? "Why it was not asked for" : "What the vendor said", make("p", { class: "words" }, sample.message || sample.reason || "nothing"));
  section("Prompt", make("p", { class: "prompt" }, sample.prompt || "(none recorded)"));
  const settings = facts.settings[sample.settings] || {};
  section("Settings", rows([["state", sample.reason ? `${sample.state} (${sample.reason})` : sample.state], ["model", settings.model || sample.model], ["served by", sample.served_by], ["provider", settings.provider],
    ["service tier", tierOf(sample)], ["fallback", sample.asks?.fallback?.join(", ")],
    ...Object.entries(settings).filter(([name]) => !SETTINGS_APART.includes(name)).map(([name, value]) => [name.replaceAll("_", " "), told(name === "references" ? sample.asks?.references || value : value)]),
    ["tags", sample.tags.join(", ")]]));
  const picture = face(sample);
  section("Cost and time", rows([["cost", cost(sample.usd, sample.usd_source)], ["time", seconds(sample.seconds)], ["last change", date(sample.at)],
    ["file", picture ? picture.path : null], ["beside it", sample.files?.join(", ")], ["picture", picture ? `${picture.width} × ${picture.height}, ${size(picture.bytes)}` : null],
    ["flagged", picture?.flags.length ? `other ${picture.flags.join(" and ")} than asked for` : null]]));
  if (sample.derivatives) section(plural(sample.derivatives.length, "file") + " made of it", make("ul", {}, ...sample.derivatives.map((made) => {
    const [path, width, height, bytes] = made, served = width > 0 || !facts.live; // the dashboard serves pictures only
    return make("li", {}, served ? make("a", { href: madeLink(sample, made), target: "_blank", rel: "noopener" }, path) : path, " ", make("small", {}, [width ? `${width} × ${height}` : "", size(bytes)].filter(Boolean).join(", ")));
  })));
  if (sample.text) section("What the model wrote", make("p", { class: "text" }, sample.text));
  if (sample.thoughts) section("What the model thought", make("details", {}, make("summary", {}, plural(sample.thoughts.split(/\s+/).length, "word")), make("p", { class: "text" }, sample.thoughts)));
  if (sample.sources) section("Sources", make("ul", {}, ...sample.sources.sources.map((source) => {
    const title = source.title || source.domain || source.uri || "(no title)";
    const web = /^https?:\/\//i.test(source.uri || "");
    return make("li", {}, web ? make("a", { href: source.uri, target: "_blank", rel: "noopener noreferrer" }, title) : title);
  }), ...sample.sources.queries.map((query) => make("li", {}, make("small", {}, `searched for: ${query}`)))));
  if (sample.attempts.length) section(plural(sample.attempts.length, "attempt"), make("ol", {}, ...sample.attempts.map(([began, took, model, outcome, reason, message, status, amount, source, , otherwise]) => {
    const facts_ = [date(began), took == null ? "" : seconds(took), model === sample.model ? "" : model, status ? `HTTP ${status}` : "", attemptCost(amount, source, outcome)];
    return make("li", {}, `${outcome}${reason ? `: ${reason}` : ""} `, make("small", {}, facts_.filter(Boolean).join(" · ")), ...[otherwise && `sent as: ${otherwise}`, message].filter(Boolean).map((text) => make("div", {}, make("small", {}, text))));
  })));
  $("details").replaceChildren(...parts);
  $("details").scrollTop = 0;
}
const ACTIONS = {
  previous: () => { at = Math.max(0, at - 1); view(); },
  next: () => { at = Math.min(shown.length - 1, at + 1); view(); },
  pick: () => decide(shown[at], "pick"),
  reject: () => decide(shown[at], "reject"),
  compare: () => { if (variants(shown[at]).length > 1) { comparing = !comparing; view(); } },
  close: () => $("viewer").close(),
};
$("viewer").addEventListener("click", (event) => ACTIONS[event.target.closest?.("[data-do]")?.dataset.do]?.());
$("viewer").addEventListener("close", () => { $("stage").replaceChildren(); go(viewed); }); // the browser has put the focus back to where it was
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => { if (event.target === dialog || event.target.closest?.("[data-close]")) dialog.close(); });
}

// Keyboard
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inField = event.target.closest?.("input, select, textarea");
  if ($("viewer").open) return viewerKey(event);
  if (document.querySelector("dialog[open]") || $("pictures").hidden) return;
  if (event.key === "Escape") { clearFilters(); go(at); return; }
  if (inField) {
    if (event.target === $("search") && (event.key === "Enter" || event.key === "ArrowDown")) { event.preventDefault(); go(0); }
    return;
  }
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -Infinity, End: Infinity, PageUp: -columns * 3, PageDown: columns * 3 };
  const control = event.target.closest?.("button:not(.open)");
  if (event.key in steps) {
    const none = !document.activeElement?.closest(".card");
    const target = none ? at : at + steps[event.key];
    event.preventDefault();
    if (Math.abs(steps[event.key]) <= 1 || none || (target >= 0 && target < shown.length)) go(target);
    else go(steps[event.key] < 0 ? (Number.isFinite(target) ? at : 0) : shown.length - 1);
  } else if (event.key === " " && !control) { event.preventDefault(); if (shown[at]) decide(shown[at], "pick"); }
  else if (event.key === "x" && shown[at]) decide(shown[at], "reject");
  else if (event.key === "c" && shown[at]) { comparing = true; view(); }
  else if (event.key === "/") { event.preventDefault(); $("search").focus(); $("search").select(); }
  else if (event.key === "?") $("keys").showModal();
});
function viewerKey(event) {
  const control = event.target.closest?.("button, a");
  const keys = { ArrowLeft: "previous", ArrowRight: "next", x: "reject", c: "compare" };
  if (event.key === " " && !control?.matches("[data-do=compare], [data-do=close], .strip button")) { event.preventDefault(); ACTIONS.pick(); }
  else if (keys[event.key]) { event.preventDefault(); ACTIONS[keys[event.key]](); }
}

// What is exported
const decided = (pick) => samples.filter((sample) => decision(sample) === pick);
function picksJson() {
  const entry = (sample) => ({ id: sample.id, n: sample.n, file: face(sample)?.path ?? null, sha256_begins: shaOf(sample), prompt: sample.prompt ?? "" });
  return `${JSON.stringify({ job: facts.job, emulated: facts.emulated, at: new Date().toISOString(), picked: decided("pick").map(entry), rejected: decided("reject").map(entry) }, null, 1)}\n`;
}
// A JSON string is a YAML string once what YAML does not print is escaped. Source: YAML 1.1, section 5.1.
const yaml = (value) => JSON.stringify(value).replace(/[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]/g, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);
// Prompts in a manifest are templates: what would open one is written as the text it stands for.
const literal = (value) => (typeof value === "string" ? value.replace(/\{[{%#]/g, (sign) => `{{ "${sign}" }}`)
  : Array.isArray(value) ? value.map(literal) : value && typeof value === "object" ? Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, literal(inner)])) : value);
const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const oneLine = (text) => JSON.stringify(text).slice(1, -1).replace(/[\x7f-\x9f\u2028\u2029\ufeff]/g, "?");
// A conversation is asked for as a whole. What no fingerprint holds (names of references) is known while the manifest is.
const settingsOf = (sample) => facts.settings[sample.settings] || {};
const talkOf = (sample) => (settingsOf(sample).turn ? sample.id.slice(0, -`-t${settingsOf(sample).turn}`.length) : "");
const entryOf = (sample) => talkOf(sample) || sample.id;
const NOT_IN_A_MANIFEST = ["references", "turn", "history", "earlier_turn", "model", "provider"];
function turnsOf(name) {
  const turns = samples.filter((sample) => talkOf(sample) === name && sample.state !== "superseded").sort((a, b) => settingsOf(b).turn - settingsOf(a).turn);
  const known = turns.length ? [...settingsOf(turns[0]).history, turns[0].prompt || ""] : [], all = facts.conversations[name] || [];
  return known.every((prompt, index) => prompt === all[index]) && all.length > known.length ? all : known;
}
// What an entry of the new manifest refers to, or null when that cannot be named any more. entries: id -> numbers of its rejected samples.
function referencesOf(sample, entries) {
  const names = sample.asks?.references || [];
  // What was blocked was never put together: its references stand in the manifest only.
  if (sample.state === "blocked" && !settingsOf(sample).turn ? !names.length : names.length !== (settingsOf(sample).references || []).length) return null;
  const found = names.map((name) => {
    if (!name.startsWith("@")) return name;
    const [id, number] = name.slice(1).split("#"), parent = samples.find((other) => other.id === id && other.n === Number(number || 1));
    if (!parent) return null;
    const again = (entries.get(entryOf(parent)) || []).indexOf(parent.n) + 1;
    if (again) return again === 1 ? `@${id}` : `@${id}#${again}`;
    return face(parent) && facts.beside != null ? facts.beside + face(parent).path : null;
  });
  return found.includes(null) ? null : found;
}
function manifest() {
  const rejected = new Map(), entries = new Map();
  for (const sample of decided("reject")) rejected.set(entryOf(sample), [...(rejected.get(entryOf(sample)) || []), sample]);
  for (const [id, group] of rejected) entries.set(id, [...new Set(group.map((sample) => sample.n))].sort((a, b) => a - b));
  const name = `${facts.job.replace(/[^\w.-]/g, "-")}-again`.replace(/^\W/, "_").slice(-100), emulate = facts.emulated ? " --emulate" : "";
  const alone = [], apart = [], models = new Map();
  // Those that cannot be named leave first: what refers to them then takes their pictures.
  for (let before = -1; before !== apart.length;) {
    before = apart.length;
    for (const [id] of entries) if (!referencesOf(rejected.get(id)[0], entries) || (talkOf(rejected.get(id)[0]) && !turnsOf(id).length)) { apart.push(id); entries.delete(id); }
  }
  for (const [id, numbers] of entries) {
    const [sample] = rejected.get(id), settings = settingsOf(sample), references = referencesOf(sample, entries), asks = sample.asks || {};
    const model = settings.model || sample.model;
    if (Object.hasOwn(facts.providers, model)) models.set(model, settings.provider);
    const fields = Object.entries(settings).filter(([field]) => !NOT_IN_A_MANIFEST.includes(field));
    const more = ["service_tier", "fallback", "fallback_on"].filter((field) => asks[field]).map((field) => [field, asks[field]]);
    if (Object.hasOwn(asks, "post")) more.push(["post", asks.post]);
    alone.push([["id", id], ...(talkOf(sample) ? [["turns", literal(turnsOf(id))]] : [["prompt", literal(sample.prompt || "")]]), ["model", literal(model)],
      ...(numbers.length > 1 ? [["count", numbers.length]] : []), ...(references.length ? [["references", literal(references)]] : []),
      ...[...fields, ...more].map(([field, value]) => [field, literal(value)]), ...(sample.tags.length ? [["tags", literal(sample.tags)]] : [])]);
  }
  const ids = (names) => names.map((id) => (talkOf(rejected.get(id)[0]) ? `${id}-t*` : id));
  const only = (names) => `batchgen run ${shell(facts.manifest || "MANIFEST")}${emulate} --fresh ${ids(names).map((id) => `--only ${shell(id)}`).join(" ")}`;
  const lines = [`# The rejected pictures of ${oneLine(facts.job)}, to be made again. Each is paid for again.`];
  if (alone.length) lines.push(`# Run it with:  batchgen run ${name}.yaml${emulate}`, `# The new pictures go to a folder of their own, ${name}${emulate && ".emulated"}/; the ones you have stay where they are.`);
  if (alone.some((fields) => fields.some(([field]) => field === "references"))) lines.push(`# Save it beside ${oneLine(facts.manifest)}: reference pictures are named by their place from there.`);
  if (alone.some((fields) => fields.some(([field]) => field === "turns"))) lines.push("# A conversation is made again from its first turn on.");
  if (rejected.size) lines.push("# Or make them anew in place; the old ones move to superseded/, and all samples of an item are made:", `#   ${oneLine(only([...rejected.keys()]))}`);
  if (apart.length) lines.push("# Not below, for their reference pictures are not there or the first manifest does not name them any more:", `#   ${oneLine(only(apart))}`);
  if (!rejected.size) lines.push("# Nothing is rejected yet: press x on a picture.");
  if (!alone.length) return `${lines.join("\n")}\n`;
  lines.push("version: 1", `name: ${yaml(name)}`);
  if (facts.post) lines.push(`post: ${yaml(facts.post)}`);
  if (models.size) lines.push("models:", ...[...models].map(([model, provider]) => `  ${yaml(model)}: {provider: ${yaml(provider)}}`));
  lines.push("items:", ...alone.map((fields) => fields.map(([field, value], index) => `${index ? "    " : "  - "}${field}: ${yaml(value)}`).join("\n")));
  return `${lines.join("\n")}\n`;
}
function save(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
function refreshExport() {
  $("exporter-counts").textContent = `${decided("pick").length} picked, ${decided("reject").length} rejected, of ${samples.length}.`;
  $("manifest-text").value = manifest();
  $("save-manifest").disabled = !decided("reject").length;
}
const fileName = (ending) => `${facts.job.replace(/[^\w.-]/g, "-").replace(/^\W/, "_")}${ending}`;
$("export").addEventListener("click", () => { refreshExport(); $("exporter").showModal(); });
$("save-json").addEventListener("click", () => save(fileName("-picks.json"), picksJson(), "application/json"));
$("save-manifest").addEventListener("click", () => save(fileName("-again.yaml"), manifest(), "application/yaml"));
$("forget").addEventListener("click", () => {
  kept = {};
  try { localStorage.removeItem(STORE); } catch { /* as above */ }
  refreshExport();
  filter();
});
$("help").addEventListener("click", () => $("keys").showModal());

// Runs: plots drawn here, from sums made when the page was written
const SVG = "http://www.w3.org/2000/svg";
function draw_(tag, attributes = {}, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text != null) element.textContent = text;
  return element;
}
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value || 1));
  return ([1, 2, 2.5, 5, 10].find((step) => step * power >= value) || 10) * power;
}
// A narrow page gets narrow plots, so that their words keep their size; names and figures then stand one above the other.
const narrow = () => innerWidth < 760;
const plotWidth = () => (narrow() ? Math.max(260, innerWidth - 76) : 560);
const colour = (index) => `c${Math.min(index, 4)}`;
function plot(title, label, ...content) {
  return make("section", { class: "plot", "aria-label": label }, make("h3", {}, title), ...content);
}
function legend(entries) {
  return make("div", { class: "legend" }, ...entries.map(([colour_, text]) => make("span", { class: colour_ }, make("i", {}), text)));
}
// lines: [{values, colour, dashed}]; a dashed one is a limit: one value for all times.
function timePlot(night, lines, points) {
  const W = plotWidth(), H = 210, left = 38, bottom = 22, top = 8;
  const most = nice(Math.max(1, ...lines.flatMap((line) => line.values)));
  const svg = draw_("svg", { viewBox: `0 0 ${W} ${H}`, "aria-hidden": "true" });
  const x = (index) => left + ((W - left - 4) * index) / Math.max(1, points - 1);
  const y = (value) => H - bottom - ((H - bottom - top) * value) / most;
  for (const part of [0, 0.5, 1]) {
    svg.append(draw_("line", { class: "grid", x1: left, x2: W - 4, y1: y(most * part), y2: y(most * part) }));
    svg.append(draw_("text", { x: left - 6, y: y(most * part) + 4, "text-anchor": "end" }, String(Math.round(most * part * 10) / 10)));
  }
  for (const part of [0, 0.5, 1]) {
    const time = (night.start + night.step_s * (points - 1) * part) * 1000, span = night.step_s * points;
    const anchor = ["start", "middle", "end"][part * 2];
    svg.append(draw_("text", { x: x((points - 1) * part), y: H - 5, "text-anchor": anchor }, span < 180 ? `${Math.round(night.step_s * (points - 1) * part)} s` : clock.format(time)));
  }
  for (const line of lines) {
    const values = line.dashed ? Array(Math.max(2, points)).fill(line.values[0]) : line.values.length > 1 ? line.values : [line.values[0], line.values[0]];
    const spread = (index) => left + ((W - left - 4) * index) / (values.length - 1);
    svg.append(draw_("path", { class: `stroke ${line.colour}`, "stroke-width": line.dashed ? 1.2 : 2, "stroke-dasharray": line.dashed ? "5 4" : "none", "stroke-linejoin": "round",
      d: values.map((value, index) => `${index ? "L" : "M"}${spread(index).toFixed(1)} ${y(value).toFixed(1)}`).join("") }));
  }
  return svg;
}
const figures = (W, y) => (narrow() ? { x: 0, y: y + 29 } : { x: W, y: y + 13, "text-anchor": "end" });
// bars: [{name, parts: [{value, colour}], text}]
function barPlot(bars) {
  const W = plotWidth(), H = narrow() ? 56 : 40, most = Math.max(1e-9, ...bars.map((bar) => bar.parts.reduce((sum, part) => sum + part.value, 0)));
  const svg = draw_("svg", { viewBox: `0 0 ${W} ${Math.max(1, bars.length) * H}`, role: "img", "aria-label": bars.map((bar) => `${bar.name}: ${bar.text}`).join("; ") });
  bars.forEach((bar, index) => {
    let x = 0;
    svg.append(draw_("text", { class: "strong", x: 0, y: index * H + 13 }, bar.name.length > 44 ? `${bar.name.slice(0, 43)}…` : bar.name));
    svg.append(draw_("text", figures(W, index * H), bar.text));
    svg.append(draw_("line", { class: "grid", x1: 0, x2: W, y1: index * H + H - 16, y2: index * H + H - 16 }));
    for (const part of bar.parts.filter((each) => each.value > 0)) {
      const wide = Math.max(2, (W * part.value) / most);
      svg.append(draw_("rect", { class: `fill ${part.colour}`, x, y: index * H + H - 21, width: wide, height: 10, rx: 2 }));
      x += wide;
    }
  });
  return svg;
}
function latencyPlot(night, models) {
  const rows_ = models.filter((model) => night.latency[model]), W = plotWidth(), H = narrow() ? 56 : 40;
  const most = Math.max(0.001, ...rows_.map((model) => night.latency[model].max));
  const label = rows_.map((model) => `${model}: median ${seconds(night.latency[model].p50)}`).join("; ");
  const svg = draw_("svg", { viewBox: `0 0 ${W} ${Math.max(1, rows_.length) * H}`, role: "img", "aria-label": label || "no answer yet" });
  rows_.forEach((model, index) => {
    const { p10, p50, p90, max } = night.latency[model], x = (value) => 4 + ((W - 8) * value) / most, y = index * H + H - 16, tone = colour(models.indexOf(model));
    svg.append(draw_("text", { class: "strong", x: 0, y: index * H + 13 }, model));
    svg.append(draw_("text", figures(W, index * H), `median ${seconds(p50)} · nine in ten below ${seconds(p90)} · longest ${seconds(max)}`));
    svg.append(draw_("line", { class: "grid", x1: 0, x2: W, y1: y, y2: y }));
    svg.append(draw_("rect", { class: `fill ${tone}`, x: x(p10), y: y - 5, width: Math.max(2, x(p90) - x(p10)), height: 10, rx: 2, opacity: 0.45 }));
    svg.append(draw_("rect", { class: `fill ${tone}`, x: x(p50) - 1.5, y: y - 8, width: 3, height: 16, rx: 1 }));
    svg.append(draw_("circle", { class: `fill ${tone}`, cx: x(max), cy: y, r: 3 }));
  });
  return svg;
}
const LIMITED = { quota: "Limited by the quota: ", latency: "Limited by latency: ", faults: "Limited by faults: ", nothing: "Nothing held it back for long: " };
const OUTCOME_COLOUR = { succeeded: "cg", failed: "cb", refused: "cb", uncertain: "cw", open: "c4" };
const STOPPED = (night) => (night.ended == null ? "has no recorded end" : `ended with exit code ${night.exit_code}${night.stopped_by ? `, stopped by ${night.stopped_by}` : ""}`);
function drawNight(night) {
  const models = Object.keys(night.sent).sort((a, b) => Math.max(...night.sent[b]) - Math.max(...night.sent[a])), points = night.in_flight.length;
  const limits = models.filter((model) => night.rpm[model]);
  const requests = night.outcomes.reduce((sum, [, , number]) => sum + number, 0);
  const sent = [...models.map((model, index) => ({ values: night.sent[model], colour: colour(index) })), ...limits.map((model) => ({ values: [night.rpm[model]], colour: colour(models.indexOf(model)), dashed: true }))];
  const flight = [{ values: night.in_flight, colour: "c0" }, ...(night.cap ? [{ values: [night.cap], colour: "cw", dashed: true }] : [])];
  const money = (model) => night.money[model];
  const billed = (model) => bill({ ...money(model), spent: money(model).charged, maybeUnknown: money(model).maybe_unknown });
  return [
    make("p", { class: "verdict" }, make("b", {}, LIMITED[night.verdict.by]), `${night.verdict.why}.`),
    make("div", { class: "plots" },
      plot("Requests sent in a minute, and the quota", `Requests sent in a minute. ${night.verdict.why}`, timePlot(night, sent, points),
        legend([...models.map((model, index) => [colour(index), night.rpm[model] ? `${model} (quota ${night.rpm[model]}, dashed)` : `${model} (no quota known)`])])),
      plot("Requests under way", "Requests under way at once", timePlot(night, flight, points), legend([["c0", "under way"], ...(night.cap ? [["cw", `at most ${night.cap} (limits: concurrency)`]] : [])])),
      plot("Latency by model", "Latency by model", latencyPlot(night, models), make("p", { class: "note" }, "From sent to answered, of requests that succeeded. Bar: the middle eight in ten; dot: the longest.")),
      plot(facts.emulated ? "Money by model (emulated: none was billed)" : "Money by model", "Money by model",
        barPlot(models.map((model) => ({ name: model, text: billed(model), parts: [{ value: money(model).charged, colour: "cg" }, { value: money(model).estimated, colour: "c0" }, { value: money(model).maybe, colour: "cw" }] }))),
        legend([["cg", "by usage or the vendor's word"], ["c0", "estimated"], ["cw", "may have been billed"]])),
      plot(`Outcomes of ${plural(requests, "request")}`, "Outcomes", barPlot(night.outcomes.slice(0, 12).map(([outcome, reason, number]) => ({ name: reason ? `${outcome}: ${reason}` : outcome, text: `${number.toLocaleString("en")} (${Math.round((100 * number) / requests)} %)`, parts: [{ value: number, colour: OUTCOME_COLOUR[outcome] || "c4" }] })))),
    ),
  ];
}
function drawNights() {
  if (!facts.nights) { $("nights").replaceChildren(make("p", {}, "Loading…")); return; }
  const nights = [...facts.nights].reverse();
  if (!nights.length) { $("nights").replaceChildren(make("p", {}, "No run has sent anything yet.")); return; }
  const body = make("div"), before = Math.max(0, nights.findIndex((night) => String(night.id) === $("night")?.selectedOptions[0]?.dataset.run));
  const choose = make("select", { id: "night", "aria-label": "Run" }, ...nights.map((night, index) => make("option", { value: index, "data-run": night.id }, `Run ${night.id}, ${date(night.start)}, ${STOPPED(night)}`)));
  choose.addEventListener("change", () => body.replaceChildren(...drawNight(nights[choose.value])));
  choose.selectedIndex = before;
  body.append(...drawNight(nights[before]));
  $("nights").replaceChildren(choose, body);
}
function show(name) {
  for (const each of ["pictures", "nights"]) {
    $(each).hidden = each !== name;
    $(`show-${each}`).setAttribute("aria-pressed", String(each === name));
  }
  if (name === "nights") drawNights(); else redraw();
}
for (const name of ["pictures", "nights"]) $(`show-${name}`).addEventListener("click", () => show(name));

// Begin
function total() {
  const current = samples.filter((sample) => sample.state !== "superseded");
  const made = current.filter((sample) => sample.state === "succeeded");
  const sums = made.reduce((sum, sample) => {
    if (sample.usd == null) sum.unknown += 1;
    else { sum.usd += sample.usd; if (["estimate", "guess"].includes(sample.usd_source)) sum.estimated += sample.usd; }
    return sum;
  }, { usd: 0, estimated: 0, unknown: 0 });
  const price = facts.emulated ? "nothing billed" : `${inAll(sums.usd, sums.unknown, "picture")} for these pictures${sums.estimated ? ` (${usd(sums.estimated)} of it estimated)` : ""}`;
  return `${made.length.toLocaleString("en")} of ${plural(Math.max(current.length, facts.wanted), "picture")} made · ${price} · as of ${date(facts.at)}`;
}
function head() {
  $("job").textContent = facts.job;
  $("totals").textContent = total();
  $("emulated").hidden = !facts.emulated;
  document.body.classList.toggle("emulating", facts.emulated);
}
head();
setUpFilters();
filter();
let asked = false;
const soon = () => { if (!asked) { asked = true; requestAnimationFrame(() => { asked = false; draw(); }); } };
addEventListener("scroll", soon, { passive: true });
let wide = innerWidth;
addEventListener("resize", () => {
  if (wide === innerWidth) { soon(); return; } // a phone's address bar comes and goes
  wide = innerWidth;
  if ($("pictures").hidden) drawNights(); else redraw();
});
document.addEventListener("DOMContentLoaded", redraw); // by now all thumbnails are there
