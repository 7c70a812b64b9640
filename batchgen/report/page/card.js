// One job's card, on the overview and on its own page, and the two things it may do.
const TONES = { 0: "good", 3: "warn", 6: "warn", 7: "warn", 8: "warn", 9: "busy", 129: "soft", 130: "soft", 143: "soft" };
const MARKS = { good: "✓", warn: "!", bad: "✕", busy: "…", soft: "■" };
const toneOf = (run) => (run.state === "running" ? "busy" : run.state === "died" ? "bad" : run.state === "unknown" ? "warn" : TONES[run.exit_code] || "bad");
const BAR = [["succeeded", "good"], ["rejected", "warn"], ["running", "busy"], ["submitted", "busy"], ["refused", "bad"], ["failed", "bad"], ["uncertain", "warn"], ["blocked", "warn"]];
const SPANS = { run: "this run", day: "today, all jobs", month: "this month, all jobs" };
const AGAIN = { failed: "failed", refused: "refused (the same request is often refused again)", uncertain: "uncertain (sent and never answered; may be billed twice)", rejected: "rejected (another image is bought, with the old one in superseded/)" };
const latest = new Map(); // cards by the id of their job
let ahead = 0; // seconds by which the server's clock is ahead of this one
const nowS = () => Date.now() / 1000 + ahead;
const fromIso = (text) => Date.parse(text) / 1000;
const number = (value) => value.toLocaleString("en");
function ago(value) {
  const whole = Math.max(0, Math.round(value)), minutes = Math.round(whole / 60), hours = Math.floor(minutes / 60);
  return whole < 60 ? `${whole} s` : minutes < 60 ? `${minutes} min` : hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d`;
}

function standing(card) {
  const run = card.run;
  if (card.problem) return card.begun ? ["bad", "cannot be read"] : ["soft", "not begun"];
  if (!run) return ["soft", "not begun"];
  const words_ = { running: "running", died: "died", unknown: `on ${run.host}` }[run.state];
  if (run.exit_code === 0 && !words_ && card.totals.made !== card.totals.images) return ["warn", "partly made"];
  return [toneOf(run), words_ || card.nights.at(-1)?.end || "ended"];
}
function progress(card) {
  const made = card.totals.made, total = card.totals.images;
  const parts = BAR.filter(([state]) => card.samples[state]).map(([state, tone]) => {
    const part = make("span", { class: `part ${tone}`, title: `${number(card.samples[state])} ${state}` });
    part.style.width = `${(100 * card.samples[state]) / Math.max(1, total)}%`;
    return part;
  });
  const rest = BAR.slice(1).filter(([state]) => card.samples[state]).map(([state, tone]) => make("span", { class: `tone ${tone}` }, `${number(card.samples[state])} ${state}`));
  return [
    make("p", { class: "made" }, make("b", {}, number(made)), ` of ${plural(total, "image")}`, ...rest, ...untried(card)),
    make("div", { class: "progress", role: "img", "aria-label": `${made} of ${total} made` }, ...parts),
  ];
}
function untried({ totals }) {
  const words = { limit: `left out by --limit ${totals.limit ?? ""}`, only: "left out by --only", not_asked: "not asked for" };
  return Object.entries(totals.left_out).map(([why, images]) => make("span", { class: "tone soft" }, `${number(images)} ${words[why]}`));
}
const ticking = (at, before, past) => make("span", { class: "tick", "data-at": at, "data-before": before, "data-past": past });
function tick(element) {
  const at = Number(element.dataset.at), left = at - nowS();
  element.textContent = left > 0 ? `${element.dataset.before} until ${left > 72000 ? when.format(at * 1000) : exact.format(at * 1000)}, ${ago(left)}` : element.dataset.past;
}
const exact = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
setInterval(() => document.querySelectorAll(".tick").forEach(tick), 1000);
function laneLine(lane, lasts) {
  const made = (lane.samples.succeeded || 0) + (lane.samples.rejected || 0), state = lane.parked_until ? ticking(lane.parked_until, "parked", "open again") : lane.retry_at ? ticking(lane.retry_at, "down", "next try") : lane.cooling_until ? ticking(lane.cooling_until, "cooling", "open") : null;
  if (state) tick(state);
  return make("li", {}, make("span", { class: "model" }, lane.model), make("span", { class: "soft" }, `${number(made)} made`),
    lasts || lane.in_flight ? make("span", { class: "soft" }, lasts ? `${lane.in_flight} in flight` : `${lane.in_flight} without an end`) : null,
    state ? make("span", { class: "tone warn" }, state) : null, lane.message ? make("small", {}, lane.message) : null);
}
function batchLine(batch) {
  const since = `${batch.state}, ${number(batch.succeeded + batch.failed)} of ${plural(batch.requests, "request")} answered, for ${ago(nowS() - fromIso(batch.since))}`;
  return make("li", {}, make("span", { class: "model" }, batch.model), make("span", { class: "soft" }, since));
}
function money({ spent, estimated, requests_of_unknown_price: unknown, maybe_billed: maybe, maybe_billed_of_unknown_price: maybeUnknown }) {
  return bill({ spent, estimated, unknown, maybe, maybeUnknown });
}
function budget({ span, limit, spent, unpriced }, emulated) {
  const share = spent / limit, bar = make("span", { class: `part ${share >= 1 ? "bad" : share >= 0.8 ? "warn" : "busy"}` });
  bar.style.width = `${Math.min(100, 100 * share)}%`;
  return make("li", {}, make("span", {}, emulated ? SPANS[span].replace("all jobs", "emulated") : SPANS[span]), make("span", { class: "soft" }, `${spent == null ? "unknown" : inAll(spent, unpriced)} of ${usd(limit)}`), make("div", { class: "progress thin", role: "img", "aria-label": `${Math.round(100 * share)} % used` }, bar));
}
function timeOf(card) {
  const run = card.run, began = fromIso(run.started_at);
  const since = `${date(began)}, ${ago(nowS() - began)} ago`;
  if (run.state === "running") return `run ${run.id} since ${clock.format(began * 1000)}, ${ago(nowS() - began)}${card.left_s == null ? "" : `; about ${ago(card.left_s)} to go at this pace`}`;
  if (run.state === "died") return `run ${run.id} died without an end, begun ${since}; run it again: what was paid for is found again`;
  if (run.state === "unknown") return `run ${run.id} began ${since}, on ${run.host}; whether it lives cannot be seen here`;
  const last = card.nights.at(-1);
  return `run ${run.id} ended ${ago(nowS() - fromIso(run.ended_at))} ago${last ? `: ${last.why || last.end}` : ""}`;
}
function nightCell(night) {
  const tone = toneOf(night), words_ = { running: "goes on", died: "died", unknown: "goes on elsewhere" }[night.state] || night.why || night.end;
  const mark_ = { running: "▶", died: "†", unknown: "?" }[night.state] || MARKS[tone];
  const label = `Run ${night.run}, ${date(fromIso(night.began))}${night.seconds == null ? "" : `, ${ago(night.seconds)}`}: ${number(night.made)} made, ${money(night.usd)}, ${words_}`;
  return make("li", { class: `night ${tone}`, title: label, "aria-label": label }, mark_);
}
// The newest images, each leads to the job's page.
function newest(card) {
  return make("a", { class: "newest", href: `/jobs/${card.id}/`, "aria-label": `The newest images of ${card.job}` },
    ...card.newest.map(([name, small]) => make("img", { src: `/jobs/${card.id}/thumbnails/${small}`, alt: name, title: name, loading: "lazy", width: 88, height: 88 })));
}
function row(name, ...content) {
  return [make("dt", {}, name), make("dd", {}, ...content)];
}
function made(files) {
  return `${plural(files.made || 0, "file")} made of the images${files.failed ? ` · ${number(files.failed)} could not be made` : ""}`;
}
// folder: on a card beside others of the same name, what tells it apart.
function drawJob(card, { full = false, folder = "" } = {}) {
  latest.set(card.id, card);
  const [tone, words_] = standing(card), name = make("h2", {}, full ? "Status" : make("a", { href: `/jobs/${card.id}/`, dir: "auto" }, card.job));
  const head = make("div", { class: "head" }, name, card.emulated && !full ? make("span", { class: "chip emu" }, "EMULATED") : null, make("span", { class: `chip ${tone}` }, words_));
  const article = make("article", { class: `job ${tone}`, "data-job": card.id, "aria-label": card.job }, head, folder ? make("p", { class: "folder" }, folder) : null);
  if (card.problem) {
    article.append(make("p", { class: card.begun ? "problem" : "soft" }, card.problem), make("p", { class: "soft folder" }, card.folder));
    return article;
  }
  const lasts = ["running", "unknown"].includes(card.run?.state);
  article.append(...progress(card));
  if (!full && card.newest.length) article.append(newest(card));
  const list = make("dl", { class: "facts" });
  if (card.lanes.length) list.append(...row("Models", make("ul", { class: "lanes" }, ...card.lanes.map((lane) => laneLine(lane, lasts)))));
  if (card.files.made || card.files.failed) list.append(...row("Files", made(card.files)));
  list.append(...row("Money", make("span", {}, card.emulated ? "nothing billed (emulated)" : money(card.usd))));
  if (card.budgets.length) list.append(...row("Budgets", make("ul", { class: "lanes" }, ...card.budgets.map((each) => budget(each, card.emulated)))));
  if (card.batches?.length) list.append(...row("Batches", make("ul", { class: "lanes" }, ...card.batches.map(batchLine))));
  if (card.run) list.append(...row("Time", timeOf(card)));
  if (card.accepted_words) list.append(...row("Accepted", card.accepted_words));
  if (card.samples.uncertain) list.append(...row("Uncertain", `${plural(card.samples.uncertain, "request")} sent and never answered, maybe billed${full ? `: ${card.uncertain.map((entry) => entry.id).join(", ")}` : ""}`));
  if (card.unread?.answers) list.append(...row("Kept", `${plural(card.unread.answers, "answer")} paid for and not readable yet; every run reads them again before it buys anything`));
  if (card.trouble) list.append(...row("Last error", make("div", { class: "trouble" }, `${card.trouble.id}, ${card.trouble.reason || card.trouble.outcome}${card.trouble.status ? ` (HTTP ${card.trouble.status})` : ""}: `, make("q", {}, card.trouble.message || "no words"))));
  if (full && card.in_flight.length) list.append(...row("In flight", make("ul", { class: "lanes" }, ...card.in_flight.map((entry) => make("li", {}, entry.id, make("span", { class: "soft" }, `${ago(nowS() - fromIso(entry.since))}${entry.to_fetch ? ", answered, to be fetched" : ""}`))))));
  if (full) list.append(...row("Folder", make("span", { class: "folder" }, card.folder)));
  if (card.nights.length) list.append(...row("Runs", make("ol", { class: "nights", "aria-label": "Last runs, the newest last" }, ...card.nights.map(nightCell))));
  // On a phone the images come first: what else is known of the job is a touch away.
  article.append(full ? make("details", { class: "more", open: innerWidth > 760 }, make("summary", {}, "Details"), list) : list);
  if (card.action) article.append(actionLog(card.action, full));
  if (facts.live.csrf) (full ? head : article).append(...buttons(card));
  return article;
}
function actionLog(action, full) {
  const words_ = action.exit_code == null ? `Retrying ${action.states.join(", ")}: process ${action.pid}` : `Retried ${action.states.join(", ")}: ${action.end}`;
  return make("details", { class: "log", open: full && action.exit_code !== 0 }, make("summary", {}, words_), make("pre", { tabindex: 0 }, action.log || "It has said nothing yet."));
}
const againOf = (card) => Object.keys(AGAIN).filter((state) => card.samples[state]);
function buttons(card) {
  const running = card.run?.state === "running", again = againOf(card);
  const all = [
    running ? make("button", { type: "button", "data-do": "stop", "aria-haspopup": "dialog", onclick: () => askStop(latest.get(card.id)) }, "Stop…") : null,
    !running && card.run?.state !== "unknown" && again.length && !(card.action && card.action.exit_code == null) ? make("button", { type: "button", "data-do": "retry", "aria-haspopup": "dialog", onclick: () => askRetry(latest.get(card.id)) }, "Retry…") : null,
  ].filter(Boolean);
  return all.length ? [make("div", { class: "bar" }, ...all)] : [];
}
// A card drawn anew is worked into the old one; a log that was read to its end is followed.
function renew(old, fresh) {
  const log = old.querySelector(".log pre"), atEnd = log && log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
  morph(old, fresh);
  if (atEnd) log.scrollTop = log.scrollHeight;
}

// Actions: asked for in a dialog that says what they do and cost
let confirmed = null;
async function post(address, body) {
  const answer = await fetch(address, { method: "POST", headers: { "Content-Type": "application/json", "X-Batchgen-Token": facts.live.csrf }, body: JSON.stringify(body) });
  const told_ = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told_.error || `HTTP ${answer.status}`);
  return told_;
}
function ask(title, text, yes, act, choices_ = []) {
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = yes;
  $("confirm-yes").disabled = false;
  $("confirm-prospect").textContent = "";
  $("confirm-error").hidden = true;
  $("confirm-choices").replaceChildren(...choices_);
  confirmed = act;
  $("confirm").showModal();
}
function askStop(card) {
  const flying = card.lanes.reduce((sum, lane) => sum + lane.in_flight, 0);
  ask(`Stop run ${card.run.id} of ${card.job}?`, `Process ${card.run.pid} starts no further request. ${flying ? `${plural(flying, "request")} in flight will be finished and paid for. ` : ""}Nothing is lost: running it again goes on where it was.`, "Stop the run", () => post(`/jobs/${card.id}/stop`, { run: card.run.id }));
}
function askRetry(card) {
  const states = againOf(card);
  const boxes = states.map((state) => make("label", { class: "choice" }, make("input", { type: "checkbox", value: state, checked: state === "failed" || states.length === 1, onchange: () => forecast(card) }), ` ${number(card.samples[state])} ${AGAIN[state]}`));
  ask(`Retry ${card.job}?`, "Each image that is asked for again is paid for again. The run goes on when this page or the dashboard is closed; its budgets hold.", "Retry", () => post(`/jobs/${card.id}/retry`, { states: chosenStates() }), boxes);
  forecast(card);
}
const chosenStates = () => [...$("confirm-choices").querySelectorAll("input:checked")].map((box) => box.value);
let asked_ = 0;
async function forecast(card) {
  const states = chosenStates(), mine = (asked_ += 1), line = $("confirm-prospect");
  $("confirm-yes").disabled = !states.length;
  line.textContent = states.length ? "Estimating what it costs…" : "Choose what to retry.";
  if (!states.length) return;
  try {
    const answer = await fetch(`/jobs/${card.id}/prospect?states=${states.join(",")}`), told_ = await answer.json();
    if (mine !== asked_) return;
    if (!answer.ok) throw new Error(told_.error);
    const price = told_.emulated ? "nothing billed (emulated)" : `estimated ${inAll(told_.known_usd, told_.unpriced)}`;
    line.textContent = told_.images ? `${plural(told_.images, "image")}, ${price}.` : "The manifest asks for none of these any more: run it instead.";
    $("confirm-yes").disabled = !told_.images;
  } catch (error) {
    if (mine === asked_) line.textContent = `What it costs is not known: ${error.message}`;
  }
}
$("confirm-no").addEventListener("click", () => $("confirm").close());
$("confirm-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("confirm-yes").disabled = true;
  $("confirm-error").hidden = true;
  try {
    await confirmed();
    $("confirm").close();
  } catch (error) {
    $("confirm-error").textContent = error.message;
    $("confirm-error").hidden = false;
    $("confirm-yes").disabled = false;
  }
});

// What changes while a button is pressed waits for its release, so that no click is lost to something that moved.
let pressed = false;
const waiting = [];
function release() {
  pressed = false;
  setTimeout(() => { while (!pressed && waiting.length) waiting.shift()(); }); // after the click
}
addEventListener("pointerdown", () => { pressed = true; }, true);
for (const name of ["pointerup", "pointercancel"]) addEventListener(name, release, true);
addEventListener("blur", release); // of the window
addEventListener("pointermove", (event) => { if (pressed && !event.buttons) release(); }, true);

// What the server tells: only while the page is to be seen, and again by itself after a fault
function listen(address, handlers) {
  let source = null, again = 0;
  const told_ = (text, tone) => { $("link").textContent = text; $("link").className = `link ${tone}`; };
  function open() {
    clearTimeout(again);
    source = new EventSource(address());
    source.onopen = () => told_("live", "good");
    source.onerror = () => {
      told_("not connected, trying again", "bad");
      if (source?.readyState === EventSource.CLOSED) again = setTimeout(open, 3000);
    };
    for (const [name, handle] of Object.entries(handlers)) source.addEventListener(name, (event) => {
      waiting.push(() => handle(JSON.parse(event.data), event.lastEventId));
      if (!pressed) release();
    });
  }
  function close() {
    clearTimeout(again);
    source?.close();
    source = null;
  }
  document.addEventListener("visibilitychange", () => { close(); if (!document.hidden) open(); });
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => { if (event.persisted) { close(); open(); } });
  if (!document.hidden) open();
}
