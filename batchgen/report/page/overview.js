// All jobs, a card each.
const known = new Map(facts.jobs.map((card) => [card.id, card]));
let order = facts.jobs.map((card) => card.id);
function drawJobs(changed) {
  const cards = new Map([...$("jobs").querySelectorAll(".job")].map((element) => [element.dataset.job, element]));
  for (const id of changed) {
    const fresh = drawJob(known.get(id));
    if (cards.has(id)) renew(cards.get(id), fresh);
    else $("jobs").append(fresh);
    cards.set(id, fresh);
  }
  for (const [id, element] of cards) if (!order.includes(id)) element.remove();
  order.forEach((id, index) => { const element = cards.get(id); if (element && $("jobs").children[index] !== element) $("jobs").insertBefore(element, $("jobs").children[index] || null); });
  if (!order.length) $("jobs").replaceChildren(make("p", { class: "soft none" }, "No job here has run yet. One appears by itself when its run begins."));
  else $("jobs").querySelector(".none")?.remove();
  const running = order.filter((id) => known.get(id)?.run?.state === "running").length;
  $("totals").textContent = `${plural(order.length, "job")}, ${running} running`;
  document.title = `${running ? "▶ " : ""}Jobs · batchgen`;
}
ahead = facts.at - Date.now() / 1000;
drawJobs(order);
listen(() => "/events", {
  jobs: (told) => {
    ahead = told.at - Date.now() / 1000;
    order = told.order;
    for (const card of told.jobs) known.set(card.id, card);
    drawJobs(told.jobs.map((card) => card.id));
  },
});
