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
// A narrow page gets narrow plots, so that their words keep their size.
const plotWidth = () => (innerWidth < 760 ? Math.max(260, innerWidth - 76) : 560);
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
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
  const y = (value) => H - bottom - ((H - bottom - top) * value) / most;
  for (const part of [0, 0.5, 1]) {
    svg.append(draw_("line", { class: "grid", x1: left, x2: W - 4, y1: y(most * part), y2: y(most * part) }));
    svg.append(draw_("text", { x: left - 6, y: y(most * part) + 4, "text-anchor": "end" }, short.format(most * part)));
  }
  const span = night.step_s * points, after = (part) => night.step_s * (points - 1) * part;
  const times = [0, 0.5, 1].map((part) => (span < 180 ? `${Math.round(after(part))} s` : clock.format((night.start + after(part)) * 1000)));
  times.forEach((time, index) => { // a short run has the same time more than once
    if (time !== times[index - 1]) svg.append(draw_("text", { x: left + ((W - left - 4) * index) / 2, y: H - 5, "text-anchor": ["start", "middle", "end"][index] }, time));
  });
  for (const line of lines) {
    const values = line.dashed ? Array(Math.max(2, points)).fill(line.values[0]) : line.values.length > 1 ? line.values : [line.values[0], line.values[0]];
    const spread = (index) => left + ((W - left - 4) * index) / (values.length - 1);
    svg.append(draw_("path", { class: `stroke ${line.colour}`, "stroke-width": line.dashed ? 1.2 : 2, "stroke-dasharray": line.dashed ? "5 4" : "none", "stroke-linejoin": "round",
      d: values.map((value, index) => `${index ? "L" : "M"}${spread(index).toFixed(1)} ${y(value).toFixed(1)}`).join("") }));
  }
  return svg;
}
// A name and its figures stand beside each other where there is room, else one above the other; what is drawn comes below them.
function row_(name, text, ...shapes) {
  const svg = draw_("svg", { viewBox: "0 0 1000 18", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(draw_("line", { class: "grid", x1: 0, x2: 1000, y1: 9, y2: 9 }), ...shapes);
  return make("div", { class: "row" }, make("b", {}, name), make("span", {}, text), svg);
}
const bar_ = (tone, x, y, width_, height, more = {}) => draw_("rect", { class: `fill ${tone}`, x, y, width: width_, height, ...more });
// bars: [{name, parts: [{value, colour}], text}]
function barPlot(bars) {
  const most = Math.max(1e-9, ...bars.map((bar) => bar.parts.reduce((sum, part) => sum + part.value, 0)));
  return make("div", {}, ...bars.map((bar) => {
    let x = 0;
    return row_(bar.name, bar.text, ...bar.parts.filter((part) => part.value > 0).map((part) => {
      const wide = Math.max(4, (1000 * part.value) / most);
      x += wide;
      return bar_(part.colour, x - wide, 4, wide, 10);
    }));
  }));
}
function latencyPlot(night, models) {
  const known = models.filter((model) => night.latency[model]);
  const most = Math.max(0.001, ...known.map((model) => night.latency[model].max)), x = (value) => 4 + (992 * value) / most;
  return make("div", {}, ...known.map((model) => {
    const { p10, p50, p90, max } = night.latency[model], tone = colour(models.indexOf(model));
    return row_(model, `median ${seconds(p50)} · nine in ten below ${seconds(p90)} · longest ${seconds(max)}`,
      bar_(tone, x(p10), 4, Math.max(4, x(p90) - x(p10)), 10, { opacity: 0.45 }), bar_(tone, x(p50) - 3, 1, 6, 16), bar_(tone, x(max) - 4, 5, 8, 8));
  }), known.length ? null : "No answer yet.");
}
const LIMITED = { quota: "Limited by the quota: ", latency: "Limited by latency: ", faults: "Limited by faults: ", nothing: "Nothing held it back for long: " };
const OUTCOME_COLOUR = { succeeded: "cg", failed: "cb", refused: "cb", uncertain: "cw", open: "c4" };
const ENDED = (night) => (night.ended == null ? "no recorded end" : night.end);
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
      plot("Latency by model", "Latency by model", latencyPlot(night, models), make("p", { class: "note" }, "From sent to answered, of requests that succeeded. Bar: the middle eight in ten; dark line: the median; square: the longest.")),
      plot(facts.emulated ? "Money by model (emulated: none was billed)" : "Money by model", "Money by model",
        barPlot(models.map((model) => ({ name: model, text: billed(model), parts: [{ value: money(model).charged, colour: "cg" }, { value: money(model).estimated, colour: "c0" }, { value: money(model).maybe, colour: "cw" }] }))),
        legend([["cg", "by usage or the vendor's word"], ["c0", "estimated"], ["cw", "may have been billed"]])),
      plot(`Outcomes of ${plural(requests, "request")}`, "Outcomes", barPlot(night.outcomes.slice(0, 12).map(([outcome, reason, number]) => ({ name: reason ? `${outcome}: ${reason}` : outcome, text: `${number.toLocaleString("en")} (${Math.round((100 * number) / requests)} %)`, parts: [{ value: number, colour: OUTCOME_COLOUR[outcome] || "c4" }] })))),
    ),
  ];
}
// The share that is accepted of each model and tag of the whole job: a square, on the line of its 95 % interval.
function drawCompared() {
  if (!facts.compared?.length) return [];
  const plots = facts.compared.map(({ by, bars, conclusion }) => plot(`Accepted by ${by}, in all runs`, `Accepted by ${by}`, make("div", {}, ...bars.map(([name, text, share, low, high]) =>
    row_(name, text, bar_("c0", 1000 * low, 8, Math.max(4, 1000 * (high - low)), 2), bar_("cg", Math.max(0, 1000 * share - 8), 3, 16, 12)))), make("p", { class: "note" }, conclusion ? `${conclusion[0].toUpperCase()}${conclusion.slice(1)}.` : "")));
  return [make("section", { id: "compared" }, make("h2", {}, "Accepted images"), make("div", { class: "plots" }, ...plots))];
}
function drawNights() {
  if (!facts.nights) { $("nights").replaceChildren(make("p", {}, "Loading…")); return; }
  const nights = [...facts.nights].reverse();
  if (!nights.length) { $("nights").replaceChildren(make("p", {}, "No run has sent anything yet.")); return; }
  const body = make("div"), before = Math.max(0, nights.findIndex((night) => String(night.id) === $("night")?.selectedOptions[0]?.dataset.run));
  const choose = make("select", { id: "night", "aria-label": "Run" }, ...nights.map((night, index) => make("option", { value: index, "data-run": night.id }, `Run ${night.id}, ${date(night.start)}, ${ENDED(night)}`)));
  choose.addEventListener("change", () => body.replaceChildren(...drawNight(nights[choose.value])));
  choose.selectedIndex = before;
  body.append(...drawNight(nights[before]));
  $("nights").replaceChildren(choose, body, ...drawCompared());
}
function show(name) {
  for (const each of ["pictures", "nights"]) {
    $(each).hidden = each !== name;
    $(`show-${each}`).setAttribute("aria-pressed", String(each === name));
  }
  if (name === "nights") drawNights(); else redraw();
}
for (const name of ["pictures", "nights"]) $(`show-${name}`).addEventListener("click", () => show(name));
