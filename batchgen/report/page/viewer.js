// The viewer
let comparing = false, chosen = null, viewed = 0;
const SORT_OF = { image: "", draft: "draft", thought: "thought", earlier: "earlier version" };
function variants(sample) {
  const family = [...byItem.get(sample.id)].sort((a, b) => a.n - b.n);
  return family.flatMap((other) => other.pictures.map((picture) => ({ sample: other, picture, name: [family.length > 1 || other.n > 1 ? `#${other.n}` : "", SORT_OF[picture.kind]].filter(Boolean).join(" ") || "now" })));
}
function view() {
  const sample = shown[at];
  if (!sample) return;
  viewed = at;
  const all = variants(sample);
  chosen = all.find((variant) => variant.sample === sample && variant.picture === face(sample)) || null;
  if (!canCompare(sample)) comparing = false;
  $("viewer-title").replaceChildren(make("bdi", {}, keyOf(sample)));
  drawStage(all);
  drawDetails(sample, all);
  markViewer();
  if (!$("viewer").open) $("viewer").showModal();
}
// What an image was made from: another item's image as it was then, a file beside the manifest, or what is not shown here.
function inputs(sample) {
  const named = sample.asks?.references || [], hashes = settingsOf(sample).references || [];
  const preview = (hash) => (facts.live ? thumbnail(hash) : hash in facts.references ? thumbnail(facts.references[hash]) : "");
  return (named.length ? named : hashes.map((_, index) => `${index + 1}`)).map((name, index) => {
    const hash = !named.length || named.length === hashes.length ? hashes[index] : "";
    if (name.startsWith("@")) {
      const [id, n] = name.slice(1).split("#");
      const picture = byItem.get(id)?.filter((other) => other.n === Number(n || 1)).flatMap((other) => other.pictures).find(({ sha }) => hash?.startsWith(sha));
      return picture ? { name, small: thumbnail(picture.thumbnail), href: link(picture) } : { name, why: "It has not been made, or was made again since." };
    }
    if (name.slice(0, 8).includes("://")) return { name, why: "It lies elsewhere, and this page loads nothing from there." };
    if (!hash) return { name, why: "It was not sent." };
    if (!named.length) return { name, small: preview(hash), why: "The manifest is gone or cannot be read, so the file is not known." };
    return { name, small: preview(hash), href: facts.live ? `references/${hash}` : (facts.manifest_base || "") + percent(name) };
  });
}
const canCompare = (sample) => variants(sample).length + inputs(sample).length + twins(sample).length > 1;
function markViewer() {
  const sample = shown[at], pick = mine(sample).pick || "", button = (name) => $("viewer").querySelector(`[data-do="${name}"]`);
  for (const name of ["pick", "reject"]) button(name).setAttribute("aria-pressed", String(pick === name));
  for (const star of $("stars").children) {
    const given = Number(star.dataset.star) <= starsOf(sample);
    star.setAttribute("aria-pressed", String(given));
    star.textContent = given ? "★" : "☆";
  }
  button("compare").setAttribute("aria-pressed", String(comparing));
  button("compare").disabled = !canCompare(sample);
  button("boxes").setAttribute("aria-pressed", String(taste.boxes));
  button("boxes").hidden = !$("stage").querySelector(".boxes");
  $("stage").classList.toggle("plain", !taste.boxes);
  button("references").setAttribute("aria-pressed", String(taste.references));
  button("references").hidden = !inputs(sample).length;
}
// A figure shows the thumbnail until the file has come, and says when there is none.
function figure({ kind, name, small, href, alt, why, boxes, told: facts_ = [] }) {
  const caption = make("figcaption", {}, make("b", { dir: "auto" }, name), ...facts_.map((fact) => make("span", {}, fact)));
  const image = make("img", { src: href || small, alt });
  if (!href) {
    caption.append(make("span", { class: "missing" }, why));
    image.addEventListener("error", () => image.remove());
    return make("figure", { "data-kind": kind }, make("span", { class: "file" }, small ? image : null), caption);
  }
  const anchor = make("a", { class: "file", href, target: "_blank", rel: "noopener", title: "Open the file" }, image, boxes);
  if (small) anchor.style.backgroundImage = `url("${small}")`;
  image.addEventListener("load", () => { anchor.style.backgroundImage = "none"; });
  image.addEventListener("error", () => {
    image.remove();
    caption.append(make("span", { class: "missing" }, small ? "Only the preview: the file is not there" : "The file is not there, or has changed since"));
  });
  return make("figure", { "data-kind": kind }, anchor, caption);
}
function pictureFigure({ sample, picture, name }) {
  const judged = (picture.verdicts || []).filter(({ by, score: value }) => by === "judge" && value != null).map((said) => `judge ${points(said.score)}`);
  const told_ = [...judged, `${picture.width} × ${picture.height}`, size(picture.bytes), date(picture.at)];
  return figure({ boxes: drawBoxes(picture), kind: picture.kind, name, small: thumbnail(picture.thumbnail), href: link(picture), alt: sample.prompt || keyOf(sample), told: told_ });
}
function drawStage(all) {
  const stage = $("stage"), sample = shown[at], sent = comparing || taste.references ? inputs(sample) : [];
  const made = comparing ? [...all.filter((each) => each === chosen), ...twins(sample), ...all.filter((each) => each !== chosen)] : [chosen].filter(Boolean);
  stage.className = comparing ? "many" : sent.length ? "beside" : "";
  stage.style.setProperty("--sent", sent.length);
  stage.replaceChildren(...(made.length ? made.map(pictureFigure) : [make("figure", { "data-kind": "none" }, make("p", { class: "words", dir: "auto" }, ...words(sample)))]),
    ...sent.map((each, index) => {
      const name = `${settingsOf(sample).mask && index === sent.length - 1 ? "mask" : "reference"} ${each.name}`;
      return figure({ ...each, kind: "reference", name, alt: name });
    }));
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
  parts.push(...drawComments(sample));
  if (visitor) { showDetails(parts.concat(sample.prompt ? [make("h3", {}, "Prompt"), make("p", { class: "prompt", dir: "auto" }, sample.prompt)] : [])); return; }
  if (all.length > 1) {
    section("Samples and versions", make("div", { class: "strip" }, ...all.map((variant) => {
      const small = thumbnail(variant.picture.thumbnail);
      return make("button", { type: "button", "aria-label": `Show ${variant.name}`, "aria-current": String(variant === chosen), onclick: (event) => {
        chosen = variant;
        comparing = false;
        for (const button of event.currentTarget.parentElement.children) button.setAttribute("aria-current", String(button === event.currentTarget));
        drawStage(all);
        $("said").replaceChildren(...drawSaid(chosen.picture));
        markViewer();
      } }, small ? make("img", { src: small, alt: "" }) : null, make("span", {}, variant.name));
    })));
  }
  parts.push(make("div", { id: "said" }, ...drawSaid(chosen?.picture)));
  if (!["succeeded", "rejected", "wanted", "running", "submitted", "superseded"].includes(sample.state)) section(sample.state === "blocked" ? "Why it was not asked for" : "What the vendor said", make("p", { class: "words", dir: "auto" }, sample.message || sample.reason || "nothing"));
  section("Prompt", make("p", { class: "prompt", dir: "auto" }, sample.prompt || "(none recorded)"));
  const settings = facts.settings[sample.settings] || {};
  section("Settings", rows([["state", sample.reason ? `${sample.state} (${sample.reason})` : sample.state], ["model", settings.model || sample.model], ["served by", sample.served_by], ["provider", settings.provider],
    ["service tier", tierOf(sample)], ["fallback", sample.asks?.fallback?.join(", ")],
    ...Object.entries(settings).filter(([name]) => !SETTINGS_APART.includes(name)).map(([name, value]) => [name.replaceAll("_", " "), told(name === "references" ? sample.asks?.references || value : value)]),
    ["tags", sample.tags.join(", ")]]));
  const picture = face(sample);
  section("Cost and time", rows([["cost", cost(sample.usd, sample.usd_source)], ["time", seconds(sample.seconds)], ["last change", date(sample.at)],
    ["file", picture ? picture.path : null], ["beside it", sample.files?.join(", ")], ["image", picture ? `${picture.width} × ${picture.height}, ${size(picture.bytes)}` : null],
    ["flagged", picture?.flags.length ? `other ${picture.flags.join(" and ")} than asked for` : null]]));
  if (sample.derivatives) section(plural(sample.derivatives.length, "file") + " made of it", make("ul", {}, ...sample.derivatives.map((made) => {
    const [path, width, height, bytes] = made, served = width > 0 || !facts.live; // the dashboard serves pictures only
    return make("li", {}, served ? make("a", { href: madeLink(sample, made), target: "_blank", rel: "noopener" }, path) : path, " ", make("small", {}, [width ? `${width} × ${height}` : "", size(bytes)].filter(Boolean).join(", ")));
  })));
  if (sample.text) section("What the model wrote", make("p", { class: "text", dir: "auto" }, sample.text));
  if (sample.thoughts) section("What the model thought", make("details", {}, make("summary", {}, plural(sample.thoughts.split(/\s+/).length, "word")), make("p", { class: "text", dir: "auto" }, sample.thoughts)));
  if (sample.sources) section("Sources", make("ul", {}, ...sample.sources.sources.map((source) => {
    const title = source.title || source.domain || source.uri || "(no title)";
    const web = /^https?:\/\//i.test(source.uri || "");
    return make("li", {}, web ? make("a", { href: source.uri, target: "_blank", rel: "noopener noreferrer" }, title) : title);
  }), ...sample.sources.queries.map((query) => make("li", {}, make("small", {}, `searched for: ${query}`)))));
  if (sample.attempts.length) section(plural(sample.attempts.length, "attempt"), make("ol", {}, ...sample.attempts.map(([began, took, model, outcome, reason, message, status, amount, source, , otherwise]) => {
    const facts_ = [date(began), took == null ? "" : seconds(took), model === sample.model ? "" : model, status ? `HTTP ${status}` : "", attemptCost(amount, source, outcome)];
    return make("li", {}, `${outcome}${reason ? `: ${reason}` : ""} `, make("small", {}, facts_.filter(Boolean).join(" · ")), ...[otherwise && `sent as: ${otherwise}`, message].filter(Boolean).map((text) => make("div", {}, make("small", {}, text))));
  })));
  showDetails(parts);
}
function showDetails(parts) {
  const typing = document.activeElement === box;
  redrawn = typing; // a box that is taken out and put back was not left
  $("details").replaceChildren(...parts);
  $("details").scrollTop = 0;
  if (typing && box.isConnected) box.focus({ preventScroll: true });
  redrawn = false;
}
const ACTIONS = {
  previous: () => { at = Math.max(0, at - 1); view(); },
  next: () => { at = Math.min(shown.length - 1, at + 1); view(); },
  pick: () => decide(shown[at], "pick"),
  reject: () => decide(shown[at], "reject"),
  compare: () => { if (canCompare(shown[at])) { comparing = !comparing; view(); } },
  references: () => { toggleReferences(); view(); },
  boxes: () => { taste.boxes = !taste.boxes; remember(LOOK, taste); markViewer(); },
  close: () => $("viewer").close(),
};
$("stars").append(...[1, 2, 3, 4, 5].map((number) => make("button", { type: "button", "data-star": number, "aria-label": plural(number, "star"), title: `${plural(number, "star")} (${number})`, onclick: () => rate(shown[at], number) })));
$("viewer").addEventListener("click", (event) => ACTIONS[event.target.closest?.("[data-do]")?.dataset.do]?.());
$("viewer").addEventListener("close", () => { $("stage").replaceChildren(); go(viewed); }); // the browser has put the focus back to where it was
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => { if (event.target === dialog || event.target.closest?.("[data-close]")) dialog.close(); });
}

// Keyboard
const STARS = /^[0-5]$/;
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
  else if (event.key === "r") toggleReferences();
  else if (event.key === "u") undo();
  else if (STARS.test(event.key) && shown[at]) rate(shown[at], Number(event.key));
  else if (["+", "=", "-"].includes(event.key)) resize(taste.size + (event.key === "-" ? -SIZE_STEP : SIZE_STEP));
  else if (event.key === "/") { event.preventDefault(); $("search").focus(); $("search").select(); }
  else if (event.key === "?") $("keys").showModal();
});
function viewerKey(event) {
  if (event.target === box) return;
  const control = event.target.closest?.("button, a");
  const keys = { ArrowLeft: "previous", ArrowRight: "next", x: "reject", c: "compare", r: "references", b: "boxes" };
  if (event.key === " " && !control?.matches("[data-do=compare], [data-do=close], [data-do=references], [data-do=boxes], .twin, .strip button, [data-star]")) { event.preventDefault(); ACTIONS.pick(); }
  else if (STARS.test(event.key)) rate(shown[at], Number(event.key));
  else if (event.key === "u") undo();
  else if (keys[event.key]) { event.preventDefault(); ACTIONS[keys[event.key]](); }
}
