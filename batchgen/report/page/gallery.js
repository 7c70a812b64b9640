// Everything that came from prompts or servers becomes text through textContent or an attribute, never markup.
const samples = facts.samples;
const PER_CHUNK = 100, GAP = 12, LINE = 38, TWO_LINES = 64, NARROW = 200;
const STATES = ["succeeded", "rejected", "refused", "failed", "uncertain", "blocked", "running", "submitted", "wanted", "superseded"];
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
const settingsOf = (sample) => facts.settings[sample.settings] || {};
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

// Filters
const look = { states: new Set(), model: "", tag: "", ruling: "", reason: "", reviewer: "", given: "", pick: "", search: "", sort: "order" };
const CHOICES = ["model", "tag", "ruling", "reason", "reviewer", "given", "pick"];
let shown = [], at = 0;
const byItem = new Map(); // samples of an item, by its id
function prepare(sample, order) {
  if (!byItem.get(sample.id)?.includes(sample)) byItem.set(sample.id, [...(byItem.get(sample.id) || []), sample]);
  Object.assign(sample, { order, tags: sample.tags || [], pictures: sample.pictures || [], attempts: sample.attempts || [] });
  weigh(sample);
  sample.words = `${sample.id} ${sample.prompt || ""} ${sample.tags.join(" ")}`.toLowerCase();
}
samples.forEach(prepare);
(facts.related || []).forEach(prepare); // of other pages, for what was made from their images
const SORTS = {
  order: (a, b) => a.order - b.order,
  newest: (a, b) => b.at - a.at || a.order - b.order,
  cost: (a, b) => (b.usd ?? -1) - (a.usd ?? -1) || a.order - b.order,
  time: (a, b) => (b.seconds ?? -1) - (a.seconds ?? -1) || a.order - b.order,
  stars: (a, b) => starred(b) - starred(a) || a.order - b.order,
};
function matches(sample) {
  return (look.states.size ? look.states.has(sample.state) : sample.state !== "superseded")
    && (!look.model || sample.model === look.model)
    && (!look.tag || sample.tags.includes(look.tag))
    && (!look.ruling || sample.ruling === look.ruling)
    && (!look.reason || sample.reasons.includes(look.reason))
    && (!look.reviewer || sample.reviewers.includes(look.reviewer))
    && (!look.given || starred(sample) >= Number(look.given))
    && (!look.pick || (look.pick === "stars" ? starsOf(sample) > 0 : (decision(sample) || "none") === look.pick))
    && look.search.split(/\s+/).every((word) => sample.words.includes(word));
}
function choose() {
  const current = shown[at];
  shown = samples.filter(matches).sort(SORTS[look.sort]);
  at = Math.max(0, shown.indexOf(current));
  $("nothing").hidden = shown.length > 0 || !samples.length;
  count();
  measure();
}
function filter() {
  choose();
  redraw(); // cards left where they were would keep the page as long as it was
}
// After some samples have changed: their cards are changed in place, and what is looked at stays where it is.
function update(changed) {
  steady(() => {
    choose();
    for (const [sample, card] of cards) if (changed.has(sample)) { morph(card, drawCard(sample)); card.spot = ""; }
    draw();
  });
}
function count() {
  const sums = { picked: 0, rejected: 0, "with stars": 0 };
  for (const sample of samples) {
    const pick = decision(sample), stars = starsOf(sample);
    if (pick) sums[pick === "pick" ? "picked" : "rejected"] += 1;
    if (stars) sums["with stars"] += 1;
  }
  const parts = Object.entries(sums).filter(([, number]) => number).map(([name, number]) => `${number.toLocaleString("en")} ${name}`).join(", ");
  $("count").textContent = `${shown.length.toLocaleString("en")} of ${samples.length.toLocaleString("en")}${onPage}${parts ? ` · ${parts}` : ""}`;
}
function counts(values) {
  const table = new Map();
  for (const value of values) if (value) table.set(value, (table.get(value) || 0) + 1);
  return [...table].sort((a, b) => b[1] - a[1]);
}
function choices(id, all, entries, label = (value) => value) {
  if ($(id) === document.activeElement && $(id).children.length) return; // it may be open
  $(id).replaceChildren(make("option", { value: "" }, all), ...entries.map(([value, number]) => make("option", { value }, `${label(value)} (${number.toLocaleString("en")})`)));
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
  const rulings = counts(samples.map((sample) => sample.ruling)), any = rulings.some(([ruling]) => ruling !== "none");
  choices("ruling", "Reviewed or not", any ? rulings : [], (ruling) => RULINGS[ruling]);
  choices("reason", "All reasons", counts(samples.flatMap((sample) => sample.reasons)));
  choices("reviewer", "All reviewers", counts(samples.flatMap((sample) => sample.reviewers)));
  const least = samples.some((sample) => sample.given) ? [5, 4, 3, 2, 1].map((stars) => [String(stars), samples.filter((sample) => starred(sample) >= stars).length]).filter(([, number]) => number) : [];
  choices("given", "All stars", least, (stars) => (stars === "5" ? "5 stars" : `${stars} or more stars`));
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
  for (const id of [...CHOICES, "sort"]) $(id).addEventListener("change", () => { look[id] = $(id).value; filter(); });
  $("search").addEventListener("input", () => { look.search = $("search").value.trim().toLowerCase(); filter(); });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("clear").addEventListener("click", clearFilters);
  $("more").addEventListener("click", () => $("more").setAttribute("aria-expanded", String($("filters").classList.toggle("open"))));
  $("size").addEventListener("input", () => resize(Number($("size").value)));
  $("insets").addEventListener("click", toggleReferences);
}
function clearFilters() {
  for (const id of [...CHOICES, "search"]) $(id).value = look[id] = "";
  look.states.clear();
  for (const button of $("states").children) button.setAttribute("aria-pressed", "false");
  filter();
}

// How the grid looks, in this browser: width of a thumbnail in pixels, and whether references are shown.
const LOOK = "batchgen:look", SIZE_STEP = 40;
const taste = { size: innerWidth < 760 ? 160 : 208, references: true, boxes: true, ...recall(LOOK) };
function resize(size_) {
  taste.size = Math.max(Number($("size").min), Math.min(Number($("size").max), size_));
  $("size").value = taste.size;
  remember(LOOK, taste);
  steady(() => { measure(); draw(); });
}
function toggleReferences() {
  taste.references = !taste.references;
  remember(LOOK, taste);
  showReferences();
}
function showReferences() {
  $("grid").classList.toggle("bare", !taste.references);
  $("insets").hidden = !samples.some((sample) => inputs(sample).length);
  $("insets").setAttribute("aria-pressed", String(taste.references));
}

// The grid draws only the rows in sight: ten thousand images are as smooth as ten.
const cards = new Map(); // by their samples
let columns = 1, width = 200, rowHeight = 250;
function measure() {
  const room = $("grid").clientWidth;
  columns = Math.max(1, Math.floor((room + GAP) / (taste.size + GAP)));
  width = Math.floor((room - GAP * (columns - 1)) / columns);
  rowHeight = width + (width < NARROW ? TWO_LINES : LINE) + GAP;
  $("grid").classList.toggle("narrow", width < NARROW);
  $("grid").style.height = `${Math.ceil(shown.length / columns) * rowHeight}px`;
}
const topOf = (index) => $("grid").getBoundingClientRect().top + Math.floor(index / columns) * rowHeight;
const headHeight = () => (getComputedStyle($("filters")).position === "sticky" ? $("filters").offsetHeight : 0);
// The focused card, or the first in sight, is where it was after cards came, went or changed their size.
function steady(change) {
  const focused = document.activeElement?.closest(".card")?.sample;
  const hidden = Math.max(0, Math.ceil((headHeight() - topOf(0)) / rowHeight)) * columns;
  const fixed = focused || (hidden ? shown[hidden] : null), before = topOf(shown.indexOf(fixed));
  change();
  const index = fixed ? shown.indexOf(fixed) : -1;
  if (index >= 0) scrollBy(0, topOf(index) - before);
  draw();
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
  const wanted = new Map(shown.slice(first, last).map((sample, number) => [sample, first + number]));
  const focused = document.activeElement?.closest(".card")?.sample;
  if (focused && shown.includes(focused)) wanted.set(focused, shown.indexOf(focused));
  for (const [sample, card] of cards) if (!wanted.has(sample)) { card.remove(); cards.delete(sample); }
  const fresh = [];
  for (const [sample, index] of wanted) {
    if (!cards.has(sample)) { cards.set(sample, drawCard(sample)); fresh.push(cards.get(sample)); }
    place(cards.get(sample), index);
  }
  $("grid").append(...fresh);
}
function place(card, index) {
  const spot = [index, columns, width, shown.length, index === at].join();
  if (card.spot === spot) return;
  card.spot = spot;
  card.style.width = `${width}px`;
  card.style.height = `${rowHeight - GAP}px`;
  card.style.transform = `translate(${(index % columns) * (width + GAP)}px, ${Math.floor(index / columns) * rowHeight}px)`;
  card.setAttribute("aria-posinset", index + 1);
  card.setAttribute("aria-setsize", shown.length);
  for (const button of card.querySelectorAll("button")) button.tabIndex = index === at ? 0 : -1;
}
function words(sample) {
  const plain = ["wanted", "running", "submitted"].includes(sample.state) ? " plain" : "";
  const said = sample.message || { wanted: "Not asked for yet.", running: "Asked for; no answer recorded yet.", submitted: "In the vendor's batch; it answers in its own time." }[sample.state] || "The vendor gave no words.";
  return [make("b", { class: plain }, sample.reason ? `${sample.state}: ${sample.reason}` : sample.state), said];
}
const noPreview = (name) => make("span", { class: "words" }, make("b", { class: "plain", dir: "auto" }, name), "No preview: open it to see the image.");
const noReference = () => make("span", { class: "missing" }, "reference: no preview");
function inset(sample) {
  const sent = inputs(sample);
  if (!sent.length) return null;
  const image = sent[0].small ? make("img", { src: sent[0].small, alt: "", draggable: "false" }) : noReference();
  return make("span", { class: "inset", title: `Made from ${sent.map(({ name }) => name).join(", ")}` }, image, sent.length > 1 ? make("b", {}, `+${sent.length - 1}`) : null);
}
// Names differ at their ends: what is too long loses its middle.
function nameTag(name) {
  const signs = [...name], end = signs.length > 14 ? 6 : 0;
  return make("bdi", { class: "name", title: name }, make("span", {}, signs.slice(0, signs.length - end).join("")), end ? make("span", {}, signs.slice(-end).join("")) : null);
}
function drawCard(sample) {
  const name = keyOf(sample), picture = face(sample);
  const source = picture ? thumbnail(picture.thumbnail) : "";
  const open = make("button", { type: "button", class: "open", "aria-label": `${name}, ${sample.state}. ${sample.prompt || ""}`.slice(0, 400) });
  if (source) open.append(make("img", { src: source, alt: sample.prompt || name, decoding: "async", draggable: "false" }));
  else open.append(picture ? noPreview(name) : make("span", { class: "words", dir: "auto" }, ...words(sample)));
  const flags = picture?.flags.length ? picture.flags.map((flag) => `other ${flag}`).join(", ") : "";
  const said = [...(flags ? [make("span", { class: "flag" }, flags)] : []), ...chips(sample)];
  if (said.length) open.append(make("span", { class: "flags" }, ...said));
  const reference = inset(sample);
  if (reference) open.append(reference);
  open.append(make("span", { class: "who", hidden: true }));
  const picks = [["pick", "✓", "Pick"], ["reject", "✕", "Reject"]].map(([pick, sign, label]) =>
    make("button", { type: "button", class: pick, "aria-label": `${label} ${name}`, title: label, "data-pick": pick, disabled: isToCome(sample) }, sign));
  const card = make("div", { class: `card ${sample.state === "rejected" ? "unaccepted" : sample.state}`, role: "listitem", "data-key": name },
    open, make("div", { class: "line" }, make("span", { class: `dot ${sample.state}`, title: sample.state }), nameTag(name), make("span", { class: "stars" }), ...picks));
  card.sample = sample;
  mark(card, sample);
  return card;
}
function mark(card, sample) {
  const pick = decision(sample), own = mine(sample).pick || "", stars = starred(sample), who_ = whoDecided(sample);
  card.classList.toggle("picked", pick === "pick");
  card.classList.toggle("rejected", pick === "reject");
  for (const name of ["pick", "reject"]) card.querySelector(`.${name}`).setAttribute("aria-pressed", String(own === name));
  card.querySelector(".who").textContent = who_.text;
  card.querySelector(".who").hidden = !who_.text;
  card.querySelector(".who").classList.toggle("differ", who_.differ);
  card.querySelector(".stars").textContent = stars ? `★${stars}` : "";
  card.querySelector(".stars").title = stars ? plural(stars, "star") : "";
}
// One listener for all cards: a card that changes between the press and the release of a button keeps its click.
$("grid").addEventListener("click", (event) => {
  const sample = event.target.closest(".card")?.sample, button = event.target.closest("button");
  if (!sample || !button) return;
  if (button.dataset.pick) decide(sample, button.dataset.pick);
  else { roam(shown.indexOf(sample)); view(); }
});
$("grid").addEventListener("focusin", (event) => { const index = shown.indexOf(event.target.closest(".card")?.sample); if (index >= 0) roam(index); });
$("grid").addEventListener("error", ({ target }) => target.replaceWith(target.closest(".inset") ? noReference() : noPreview(keyOf(target.closest(".card").sample))), true);
function roam(index) {
  const before = at;
  at = index;
  for (const each of [before, at]) if (cards.has(shown[each])) place(cards.get(shown[each]), each);
}
function go(index) {
  if (!shown.length) return;
  roam(Math.max(0, Math.min(shown.length - 1, index)));
  const top = topOf(at), head = headHeight();
  if (top < head) scrollBy(0, top - head - GAP);
  else if (top + rowHeight > innerHeight) scrollBy(0, top + rowHeight - innerHeight);
  draw();
  cards.get(shown[at])?.querySelector(".open").focus({ preventScroll: true });
}
// A job of more samples than fit on one page has several files: which they are, and what is on each.
const pages = facts.pages;
const onPage = pages ? " on this page" : "";
function stateWords(states) {
  return STATES.filter((state) => states[state]).map((state) => `${states[state].toLocaleString("en")} ${state}`).join(", ");
}
function pageLink(number, sign, label) {
  const to = pages.links[number];
  return make(to ? "a" : "span", { class: "step", href: to && percent(to[0]), rel: label, "aria-label": `${label === "prev" ? "Previous" : "Next"} page` }, sign);
}
function setUpPages() {
  if (!pages) return;
  const { at: own, links } = pages;
  for (const place of document.querySelectorAll(".pages")) {
    const choose = make("select", { "aria-label": "Page" }, ...links.map(([file, first, last, states], number) =>
      make("option", { value: percent(file), selected: number === own }, `Page ${(number + 1).toLocaleString("en")} of ${links.length.toLocaleString("en")}: ${first} to ${last} · ${stateWords(states)}`)));
    choose.addEventListener("change", () => { location.href = choose.value; });
    place.replaceChildren(pageLink(own - 1, "‹", "prev"), choose, pageLink(own + 1, "›", "next"), make("small", {}, "Search, filters and sorting cover this page."));
    place.hidden = false;
  }
  $("search").placeholder = "Search prompts and ids of this page";
}
