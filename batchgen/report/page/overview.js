// All jobs, a card each.
let order = facts.jobs.map((card) => card.id);
function drawJobs(changed) { // cards
  const cards = new Map([...$("jobs").querySelectorAll(".job")].map((element) => [element.dataset.job, element]));
  for (const card of changed) {
    const id = card.id, fresh = drawJob(card);
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
