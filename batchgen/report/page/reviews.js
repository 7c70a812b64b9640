// What people decide: kept in this browser where the page is a file, in the job where it is served and all decide together.
const shared = Boolean(facts.live?.csrf), visitor = facts.live?.client || "";
const STORE = `batchgen:picks:${facts.job}:${facts.key}`, REVIEWER = "batchgen:reviewer";
const recall = (name) => { try { return JSON.parse(localStorage.getItem(name)) || {}; } catch { return {}; } };
const remember = (name, value) => { try { localStorage.setItem(name, JSON.stringify(value)); } catch { /* private windows forget with the page */ } };
let kept = shared ? {} : recall(STORE);
let reviewer = visitor || recall(REVIEWER).name || "";
const PICKS = { accept: "pick", reject: "reject", none: "" }, RULINGS_OF = { pick: "accept", reject: "reject" };

// A word is of one image: a new version of a sample is undecided again.
const shaOf = (sample) => face(sample)?.sha ?? "";
const sent = new Map(); // what was said here and has not come back from the server yet, by sample
function people(sample) {
  const own = sent.get(keyOf(sample)), said = (face(sample)?.verdicts || []).filter(({ by }) => by === "person");
  return own?.sha === shaOf(sample) ? [...said.filter(({ name }) => name !== reviewer), own.verdict] : said;
}
const ruling = (sample) => people(sample).filter(({ ruling: each }) => each !== "none").at(-1); // the later word counts
function mine(sample) {
  if (shared) {
    const own = people(sample).find(({ name }) => name === reviewer);
    return own ? { pick: PICKS[own.ruling], stars: own.score || 0, comment: own.message || "" } : {};
  }
  const entry = Object.hasOwn(kept, keyOf(sample)) ? kept[keyOf(sample)] : null;
  return entry && entry.sha === shaOf(sample) ? entry : {};
}
const decision = (sample) => (shared ? PICKS[ruling(sample)?.ruling] : mine(sample).pick) || "";
const starsOf = (sample) => mine(sample).stars || 0;
// A pick is of an image, which one that has just succeeded may not show yet.
const isToCome = (sample) => !shaOf(sample) && (shared || ["wanted", "running", "submitted", "succeeded"].includes(sample.state));
const done = []; // what was undecided, decided otherwise or said before, for who takes it back
function judge(sample, change) {
  if (isToCome(sample)) return;
  if (shared && !reviewer) { askName(() => judge(sample, change)); return; }
  done.push({ key: keyOf(sample), sha: shaOf(sample), before: mine(sample) });
  put(sample, { ...mine(sample), ...change });
}
const decide = (sample, pick) => judge(sample, { pick: mine(sample).pick === pick ? "" : pick });
const rate = (sample, stars) => judge(sample, { stars: starsOf(sample) === stars ? 0 : stars });
function undo() {
  for (let last = done.pop(); last; last = done.pop()) {
    const sample = samples.find((each) => keyOf(each) === last.key);
    if (!sample || shaOf(sample) !== last.sha) continue; // it was made again since
    put(sample, last.before);
    if (!$("viewer").open && shown.includes(sample)) go(shown.indexOf(sample));
    return;
  }
  showUndo();
}
function put(sample, value) {
  if (shared) send(sample, value);
  else {
    if (value.pick || value.stars) Object.defineProperty(kept, keyOf(sample), { value: { ...value, sha: shaOf(sample) }, enumerable: true, configurable: true, writable: true });
    else delete kept[keyOf(sample)];
    remember(STORE, kept);
  }
  showDecision(sample);
}
function showDecision(sample) {
  if (cards.has(sample)) mark(cards.get(sample), sample);
  if ($("viewer").open) markViewer();
  if (box.sample === sample && document.activeElement !== box) box.value = mine(sample).comment || "";
  count();
  showUndo();
}
const showUndo = () => { $("undo").disabled = !done.length; };

// To the server one after the other, in the order in which they were said; shown at once.
let queue = Promise.resolve();
function send(sample, { pick = "", stars = 0, comment = "" }) {
  const key = keyOf(sample), verdict = { by: "person", name: reviewer, ruling: RULINGS_OF[pick] || "none", score: stars || null, message: comment, at: Date.now() / 1000 };
  const own = { sha: shaOf(sample), verdict };
  sent.set(key, own);
  queue = queue.then(() => post("reviews", { name: reviewer, id: sample.id, n: sample.n, sha: own.sha, ruling: verdict.ruling, stars, comment })).then(() => say(""), (error) => {
    if (sent.get(key) === own) sent.delete(key);
    say(`Not saved: ${error.message}`);
    showDecision(sample);
  });
}
// Of samples that have come from the server: what was sent is theirs now.
function received(changed) {
  for (const sample of changed) {
    const own = sent.get(keyOf(sample)), same = (face(sample)?.verdicts || []).find(({ by, name }) => by === "person" && name === reviewer);
    const empty = own && own.verdict.ruling === "none" && !own.verdict.score && !own.verdict.message;
    if (own && (own.sha !== shaOf(sample) || (same ? same.ruling === own.verdict.ruling && (same.score || null) === own.verdict.score && (same.message || "") === own.verdict.message : empty))) sent.delete(keyOf(sample));
  }
}
function say(text) {
  $("unsaved").textContent = text;
  $("unsaved").hidden = !text;
}

// Who decides
let afterName = null;
function askName(then) {
  afterName = then;
  $("name").value = reviewer;
  $("namer").showModal();
}
function showReviewer() {
  $("reviewer-name").hidden = !shared;
  $("reviewer-name").disabled = Boolean(visitor);
  $("reviewer-name").textContent = reviewer ? `Reviewing as ${reviewer}` : "Your name…";
  $("invite").hidden = !facts.live?.invites;
  $("forget").hidden = shared;
  $("kept").textContent = shared ? "Picks, stars and comments are kept in the job, for everybody who looks at it." : "Picks and stars stay in this browser until you export or forget them.";
  document.body.classList.toggle("visitor", Boolean(visitor));
}
function setUpReviews() {
  showReviewer();
  showUndo();
  $("undo").addEventListener("click", undo);
  $("reviewer-name").addEventListener("click", () => askName(null));
  $("namer-form").addEventListener("submit", () => {
    const name = $("name").value.trim();
    if (!name) return;
    reviewer = name;
    done.length = 0; // what another one has said is not taken back
    remember(REVIEWER, { name });
    showReviewer();
    for (const [sample, card] of cards) mark(card, sample);
    showUndo();
    afterName?.();
  });
  $("invite").addEventListener("click", () => { $("invited").hidden = true; $("invite-error").hidden = true; $("inviter").showModal(); });
  $("inviter-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    $("invite-error").hidden = true;
    try {
      const { address } = await post("clients", { name: $("client").value.trim(), days: Number($("days").value) });
      $("address").value = address;
      $("invited").hidden = false;
      $("address").select();
    } catch (error) {
      $("invite-error").textContent = error.message;
      $("invite-error").hidden = false;
    }
  });
}

// On a card: who has decided, where it was somebody else, and where two differ.
function whoDecided(sample) {
  const ruled = people(sample).filter(({ ruling: each }) => each !== "none"), differ = new Set(ruled.map(({ ruling: each }) => each)).size > 1;
  const named = differ ? ruled : ruled.filter(({ name, ruling: each }) => name !== reviewer && each === "accept"); // who rejects, a chip says
  return { differ, text: shared ? named.map(({ name, ruling: each }) => `${each === "accept" ? "✓" : "✕"} ${name}`).join(" · ") : "" };
}
// In the viewer: a box for one's own words. What is being typed stays while the page changes.
const box = make("textarea", { id: "comment", rows: 3, maxlength: 1000, placeholder: "What should change?", "aria-label": "Your comment" });
let boxOf = "", redrawn = false;
function drawComments(sample) {
  if (!shared || !shaOf(sample)) return [];
  const place = `${keyOf(sample)} ${shaOf(sample)}`;
  if (boxOf !== place) { boxOf = place; box.value = mine(sample).comment || ""; }
  else if (document.activeElement !== box) box.value = mine(sample).comment || "";
  box.sample = sample;
  return [make("h3", {}, "Your comment"), box, make("p", { class: "note" }, "Kept when you leave the box, or by Ctrl+Enter.")];
}
function saveComment() {
  const sample = box.sample;
  if (redrawn || !sample || boxOf !== `${keyOf(sample)} ${shaOf(sample)}`) return;
  if (box.value.trim() !== (mine(sample).comment || "")) judge(sample, { comment: box.value.trim() });
}
box.addEventListener("blur", saveComment);
box.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) saveComment(); });
// What checks, judge and people said of images
const RULINGS = { accepted: "Accepted by judge or person", warned: "Warned of", rejected: "Rejected", none: "Not reviewed" };
const SAID = { accept: "accepts it", warn: "warns", reject: "rejects it", none: "says" };
const saidOf = (sample) => face(sample)?.verdicts || [];
const points = (value) => (Number.isInteger(value) ? String(value) : value.toFixed(1));
// What is said of a sample's image, once for all that filters and cards ask: a person outranks the judge and the checks.
function weigh(sample) {
  const all = saidOf(sample), against = all.filter(({ ruling }) => ruling === "warn" || ruling === "reject");
  const by = (kind) => all.filter((said) => said.by === kind), accepts = (kind) => by(kind).some(({ ruling }) => ruling === "accept");
  sample.ruling = !face(sample) ? "" : sample.state === "rejected" ? "rejected" : accepts("person") ? "accepted" : against.length ? "warned" : accepts("judge") ? "accepted" : "none";
  sample.reasons = [...new Set([sample.reason, ...against.map((said) => said.reason || said.by)])].filter(Boolean);
  sample.reviewers = [...new Set(all.filter((said) => said.by !== "check").map((said) => said.name))];
  sample.given = Math.max(0, ...by("person").map((said) => said.score || 0)); // stars, of people in the ledger
}
const starred = (sample) => Math.max(starsOf(sample), sample.given);
// On a card: why it is rejected, or what is to be looked at, and the judge's points.
function chips(sample) {
  const against = saidOf(sample).filter(({ ruling }) => ruling === "reject" || ruling === "warn");
  const people = against.filter(({ by, ruling }) => by === "person" && ruling === "reject").map(({ name }) => name).join(", ");
  const why = sample.state === "rejected" ? [["bad", people ? `rejected by ${people}` : `rejected${sample.reason ? `: ${sample.reason}` : ""}`]] : sample.ruling === "warned" ? [...new Set(against.map((said) => said.reason || said.by))].map((reason) => ["warn", reason]) : [];
  const judged = saidOf(sample).filter(({ by, score }) => by === "judge" && score != null).map(({ score }) => ["", `judge ${points(score)}`]);
  return [...why, ...judged].map(([tone, text]) => make("span", { class: `flag ${tone}` }, text));
}
function who({ by, name }) {
  return by === "person" ? name : by === "judge" ? `judge ${name}` : `check ${name}`;
}
function score({ by, score: value }) {
  return value == null ? "" : by === "person" ? plural(value, "star") : by === "judge" ? `${points(value)} of 10` : `measured ${Number(value.toPrecision(3))}`;
}
// Of a picture in the viewer: who says what, in their words.
function drawSaid(picture) {
  const said = picture?.verdicts || [];
  if (!said.length) return [];
  return [make("h3", {}, plural(said.length, "verdict")), make("ul", { class: "said" }, ...said.map((each) => {
    const facts_ = [each.reason && each.reason !== each.by ? each.reason : "", score(each), date(each.at)], twin = each.twin && pictureNamed(each.twin);
    return make("li", { class: each.ruling }, make("b", { dir: "auto" }, who(each)), ` ${SAID[each.ruling] || each.ruling} `, make("small", {}, facts_.filter(Boolean).join(" · ")),
      each.message ? make("p", { class: "text", dir: "auto" }, each.message) : null,
      each.twin ? make("p", {}, "Like ", twin && shown.includes(twin.sample) ? make("button", { type: "button", class: "twin", onclick: () => { at = shown.indexOf(twin.sample); view(); } }, keyOf(twin.sample)) : make("b", { dir: "auto" }, twin ? keyOf(twin.sample) : each.twin)) : null);
  }))];
}
// The image that a twin names, by its path or its sample; a reference or another job's has none here.
function pictureNamed(name) {
  for (const sample of samples) {
    const picture = sample.pictures.find(({ path }) => path === name) || (keyOf(sample) === name ? face(sample) : null);
    if (picture) return { sample, picture, name: keyOf(sample) };
  }
  return null;
}
// Those that a sample's image is like, and those that are like it.
function twins(sample) {
  const own = face(sample), found = saidOf(sample).filter(({ twin }) => twin).map(({ twin }) => pictureNamed(twin));
  if (own) for (const other of samples) if (saidOf(other).some(({ twin }) => twin && (twin === own.path || twin === keyOf(sample)))) found.push({ sample: other, picture: face(other), name: keyOf(other) });
  const distinct = new Map(found.filter((each) => each && each.sample.id !== sample.id).map((each) => [each.picture, each])); // those of its item are shown anyway
  return [...distinct.values()].map((each) => ({ ...each, name: `twin ${each.name}` }));
}
// Boxes lie over an image that is fitted into its room as they are: an SVG of the image's own size, fitted in the same way.
function drawBoxes({ width: wide, height: high, verdicts = [] }) {
  const boxes = verdicts.flatMap((said) => said.boxes || []);
  if (!boxes.length) return null;
  const svg = draw_("svg", { class: "boxes", viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": `Read in the image: ${boxes.map((box) => box[4]).filter(Boolean).join(", ")}` }), line = Math.max(wide, high) / 320;
  for (const [x, y, w, h, text] of boxes) {
    for (const [kind, stroke] of [["under", 2.4], ["over", 1]]) svg.append(draw_("rect", { class: kind, x: x * wide, y: y * high, width: w * wide, height: h * high, "stroke-width": stroke * line, fill: "none" }));
    if (!text) continue;
    const label = draw_("text", { x: x * wide, y: Math.max(9 * line, y * high - 2.5 * line), "stroke-width": 2 * line }, text);
    label.style.fontSize = `${8 * line}px`; // in pixels of the image
    svg.append(label);
  }
  return svg;
}
