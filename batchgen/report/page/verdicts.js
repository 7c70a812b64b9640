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
