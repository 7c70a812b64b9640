// What is exported
const decided = (pick) => samples.filter((sample) => decision(sample) === pick);
function picksJson() {
  const votes = samples.flatMap((sample) => (shared ? people(sample).map(({ name, ruling: each, score, message }) => ({ name, pick: PICKS[each], stars: score || 0, comment: message })) : [mine(sample)]).map((vote) => ({ sample, ...vote })));
  const entries = (pick_) => votes.filter(({ pick = "", stars, comment }) => pick === pick_ && (pick || stars || comment)).map(({ sample, name, stars = 0, comment }) => (
    { id: sample.id, n: sample.n, file: face(sample)?.path ?? null, sha256_begins: shaOf(sample), prompt: sample.prompt ?? "", stars, ...(comment ? { comment } : {}), ...(name ? { name } : {}) }));
  const told_ = (pick_) => [...entries(pick_), ...elsewhere(pick_)];
  return `${JSON.stringify({ job: facts.job, emulated: facts.emulated, at: new Date().toISOString(), picked: told_("pick"), rejected: told_("reject"), undecided: told_("") }, null, 1)}\n`;
}
// What was said on other pages of this job, of which this one knows no more than that.
function elsewhere(pick_) {
  if (!pages || shared) return [];
  const here = new Set(samples.map(keyOf));
  return Object.entries(kept).filter(([key, { pick = "" }]) => pick === pick_ && !here.has(key)).map(([key, { sha, stars = 0 }]) => {
    const [id, n = "1"] = key.split("#");
    return { id, n: Number(n), file: null, sha256_begins: sha, prompt: "", stars };
  });
}
// A JSON string is a YAML string once what YAML does not print is escaped. Source: YAML 1.1, section 5.1.
const yaml = (value) => JSON.stringify(value).replace(/[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]/g, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);
// Prompts in a manifest are templates: what would open one is written as the text it stands for.
const literal = (value) => (typeof value === "string" ? value.replace(/\{[{%#]/g, (sign) => `{{ "${sign}" }}`)
  : Array.isArray(value) ? value.map(literal) : value && typeof value === "object" ? Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, literal(inner)])) : value);
const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const oneLine = (text) => JSON.stringify(text).slice(1, -1).replace(/[\x7f-\x9f\u2028\u2029\ufeff]/g, "?");
// A conversation is asked for as a whole. What no fingerprint holds (names of references) is known while the manifest is.
const talkOf = (sample) => (settingsOf(sample).turn ? sample.id.slice(0, -`-t${settingsOf(sample).turn}`.length) : "");
const entryOf = (sample) => talkOf(sample) || sample.id;
const NOT_IN_A_MANIFEST = ["references", "mask", "turn", "history", "earlier_turn", "model", "provider"];
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
    const [id, number] = name.slice(1).split("#"), parent = byItem.get(id)?.find((other) => other.n === Number(number || 1));
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
    const model = settings.model || sample.model, mask = settings.mask ? references.splice(-1) : [];
    if (Object.hasOwn(facts.providers, model)) models.set(model, settings.provider);
    const fields = Object.entries(settings).filter(([field]) => !NOT_IN_A_MANIFEST.includes(field));
    const more = ["service_tier", "fallback", "fallback_on"].filter((field) => asks[field]).map((field) => [field, asks[field]]);
    if (Object.hasOwn(asks, "post")) more.push(["post", asks.post]);
    alone.push([["id", id], ...(talkOf(sample) ? [["turns", literal(turnsOf(id))]] : [["prompt", literal(sample.prompt || "")]]), ["model", literal(model)],
      ...(numbers.length > 1 ? [["count", numbers.length]] : []), ...(mask.length ? [["mask", literal(mask[0])]] : []), ...(references.length ? [["references", literal(references)]] : []),
      ...[...fields, ...more].map(([field, value]) => [field, literal(value)]), ...(sample.tags.length ? [["tags", literal(sample.tags)]] : [])]);
  }
  const ids = (names) => names.map((id) => (talkOf(rejected.get(id)[0]) ? `${id}-t*` : id));
  const only = (names) => `batchgen run ${shell(facts.manifest || "MANIFEST")}${emulate} --fresh ${ids(names).map((id) => `--only ${shell(id)}`).join(" ")}`;
  const lines = [`# The rejected images of ${oneLine(facts.job)}, to be made again. Each is paid for again.`];
  if (alone.length) lines.push(`# Run it with:  batchgen run ${name}.yaml${emulate}`, `# The new images go to a folder of their own, ${name}${emulate && ".emulated"}/; the ones you have stay where they are.`);
  if (alone.some((fields) => fields.some(([field]) => field === "references"))) lines.push(`# Save it beside ${oneLine(facts.manifest)}: reference images are named by their place from there.`);
  if (alone.some((fields) => fields.some(([field]) => field === "turns"))) lines.push("# A conversation is made again from its first turn on.");
  if (rejected.size) lines.push("# Or make them again in place; the old ones move to superseded/, and all samples of an item are made:", `#   ${oneLine(only([...rejected.keys()]))}`);
  if (apart.length) lines.push("# Not below, for their reference images are not there or the first manifest does not name them any more:", `#   ${oneLine(only(apart))}`);
  if (!rejected.size) lines.push("# Nothing is rejected yet: press x on an image.");
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
  $("exporter-counts").textContent = `${decided("pick").length} picked, ${decided("reject").length} rejected, ${samples.filter(starsOf).length} with stars, of ${samples.length}${onPage}.${pages ? " The JSON has the picks of the other pages too, as far as this browser keeps them; the manifest is of this page." : ""}`;
  $("manifest-text").value = manifest();
  $("save-manifest").disabled = !decided("reject").length;
}
const fileName = (ending) => `${facts.job.replace(/[^\w.-]/g, "-").replace(/^\W/, "_")}${ending}`;
$("export").addEventListener("click", () => { refreshExport(); $("exporter").showModal(); });
$("save-json").addEventListener("click", () => save(fileName("-picks.json"), picksJson(), "application/json"));
$("save-manifest").addEventListener("click", () => save(fileName("-again.yaml"), manifest(), "application/yaml"));
$("forget").addEventListener("click", () => {
  kept = {};
  done.length = 0;
  showUndo();
  try { localStorage.removeItem(STORE); } catch { /* as above */ }
  refreshExport();
  for (const [sample, card] of cards) mark(card, sample);
  filter();
});
$("help").addEventListener("click", () => $("keys").showModal());
