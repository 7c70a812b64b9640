// The gallery of a job, live: what has changed comes by itself.
let mark_ = facts.live.at, card_ = facts.card;
const byKey = new Map(samples.map((sample) => [keyOf(sample), sample]));
const late = new Set();
const panel = make("section", { id: "live", "aria-label": "Status" });
document.querySelector("header").after(panel);
if (card_) panel.append(drawJob(card_, { full: true })); // a client has none
matchMedia("(min-width: 761px)").addEventListener("change", ({ matches }) => panel.querySelector(".more")?.toggleAttribute("open", matches));
ahead = facts.at - Date.now() / 1000;

function inOrder() {
  samples.sort((a, b) => a.place - b.place || a.order - b.order || a.n - b.n);
  samples.forEach((sample, order) => { sample.order = order; });
}
function settle(changed) {
  inOrder();
  offerFilters();
  showReferences();
  update(changed);
}
function take(told, mark) {
  const { samples: fresh, ...rest } = told, epoch = mark_.split("-")[0], changed = new Set();
  if (mark.split("-")[0] !== epoch) { samples.length = 0; byKey.clear(); byItem.clear(); } // another start of the server, or another ledger
  mark_ = mark;
  Object.assign(facts, rest);
  for (const entry of fresh) {
    const known = byKey.get(keyOf(entry)), order = known ? known.order : samples.length;
    if (known) for (const name of Object.keys(known)) delete known[name];
    else samples.push(entry);
    const sample = Object.assign(known || entry, entry);
    prepare(sample, order);
    byKey.set(keyOf(sample), sample);
    changed.add(sample);
  }
  received(changed);
  head();
  if (!$("nights").hidden) loadNights();
  if (!$("viewer").open) { settle(changed); return; }
  for (const sample of changed) late.add(sample); // the grid waits until the viewer is closed
  if (changed.has(shown[at])) { const details = $("details").scrollTop; view(); $("details").scrollTop = details; }
}
$("viewer").addEventListener("close", () => { if (late.size) { settle(new Set(late)); late.clear(); } });

let loading = false, wanted_ = false;
async function loadNights() {
  if (loading) { wanted_ = true; return; }
  loading = true;
  try {
    const answer = await fetch("nights");
    if (answer.ok) Object.assign(facts, await answer.json());
    if (!$("nights").hidden) drawNights();
  } finally {
    await new Promise((done) => setTimeout(done, 3000)); // plots need no more
    loading = false;
    if (wanted_) { wanted_ = false; if (!$("nights").hidden) loadNights(); }
  }
}
$("show-nights").addEventListener("click", loadNights);

inOrder();
filter();
listen(() => `events?at=${mark_}`, {
  card: (told) => {
    card_ = told;
    ahead = told.at - Date.now() / 1000;
    renew(panel.firstElementChild, drawJob(card_, { full: true }));
    document.title = `${card_.run?.state === "running" ? `${card_.totals.made}/${card_.totals.images} · ` : ""}${card_.job} · batchgen`;
  },
  samples: take,
});
