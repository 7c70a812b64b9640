// All jobs, a card each: running ones first, then those that need a look.
const RANK = { busy: 0, bad: 1, warn: 2 };
const rank = (card) => RANK[standing(card)[0]] ?? 3;
let order = facts.jobs.map((card) => card.id);
// Of jobs that share a name: their folders, without what all of these begin with.
function foldersApart() {
  const groups = Map.groupBy([...latest.values()].filter((card) => order.includes(card.id)), (card) => card.job);
  const apart = new Map();
  for (const group of groups.values()) {
    if (group.length < 2) continue;
    const parts = group.map((card) => card.folder.split("/"));
    let same = 0;
    while (parts.every((each) => same < each.length - 1 && each[same] === parts[0][same])) same += 1;
    group.forEach((card, index) => apart.set(card.id, parts[index].slice(same).join("/")));
  }
  return apart;
}
let apart = new Map();
function drawJobs(changed) { // cards
  for (const card of changed) latest.set(card.id, card);
  order = order.filter((id) => latest.has(id)).sort((a, b) => rank(latest.get(a)) - rank(latest.get(b))); // stable: the server's order within
  const before = apart, fresh_ = new Set(changed.map((card) => card.id));
  apart = foldersApart();
  const cards = new Map([...$("jobs").querySelectorAll(".job")].map((element) => [element.dataset.job, element]));
  for (const id of order) {
    if (!fresh_.has(id) && apart.get(id) === before.get(id)) continue;
    const fresh = drawJob(latest.get(id), { folder: apart.get(id) });
    if (cards.has(id)) renew(cards.get(id), fresh);
    else { $("jobs").append(fresh); cards.set(id, fresh); }
  }
  for (const [id, element] of cards) if (!order.includes(id)) element.remove();
  order.forEach((id, index) => { const element = cards.get(id); if (element && $("jobs").children[index] !== element) $("jobs").insertBefore(element, $("jobs").children[index] || null); });
  if (!order.length) $("jobs").replaceChildren(make("p", { class: "soft none" }, "No job here has run yet. One appears by itself when its run begins."));
  else $("jobs").querySelector(".none")?.remove();
  const running = order.filter((id) => latest.get(id)?.run?.state === "running").length;
  $("totals").textContent = `${plural(order.length, "job")}, ${running} running`;
  document.title = `${running ? "▶ " : ""}Jobs · batchgen`;
}
ahead = facts.at - Date.now() / 1000;
drawJobs(facts.jobs);
listen(() => "/events", {
  jobs: (told) => {
    ahead = told.at - Date.now() / 1000;
    order = told.order;
    drawJobs(told.jobs);
  },
});
