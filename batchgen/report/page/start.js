// Begin
function total() {
  if (pages) return totalOf({ ...pages, unknown: pages.unpriced });
  const current = samples.filter((sample) => sample.state !== "superseded");
  const made = current.filter((sample) => ["succeeded", "rejected"].includes(sample.state));
  const sums = made.reduce((sum, sample) => {
    if (sample.usd == null) sum.unknown += 1;
    else { sum.usd += sample.usd; if (["estimate", "guess"].includes(sample.usd_source)) sum.estimated += sample.usd; }
    return sum;
  }, { usd: 0, estimated: 0, unknown: 0 });
  return totalOf({ ...sums, made: made.length, wanted: current.length });
}
function totalOf({ made, wanted, ...sums }) {
  const price = facts.emulated ? "nothing billed" : `${inAll(sums.usd, sums.unknown, "image")} for these images${sums.estimated ? ` (${usd(sums.estimated)} of it estimated)` : ""}`;
  return `${made.toLocaleString("en")} of ${plural(Math.max(wanted, facts.wanted), "image")} made · ${price} · as of ${date(facts.at)}`;
}
function head() {
  $("job").textContent = facts.job;
  $("totals").textContent = visitor ? plural(samples.filter(face).length, "image") : total();
  $("accepted").textContent = `Accepted: ${facts.accepted}`;
  $("accepted").classList.toggle("reviewed", samples.some(({ ruling }) => ruling && ruling !== "none"));
  $("accepted").hidden = !facts.accepted || Boolean(facts.live); // a live page has a card that says it
  $("emulated").hidden = !facts.emulated;
  document.body.classList.toggle("emulating", facts.emulated);
}
head();
$("size").value = taste.size;
setUpPages();
setUpFilters();
setUpReviews();
showReferences();
filter();
let asked = false;
const soon = () => { if (!asked) { asked = true; requestAnimationFrame(() => { asked = false; draw(); }); } };
addEventListener("scroll", soon, { passive: true });
let wide = innerWidth;
addEventListener("resize", () => {
  if (wide === innerWidth) { soon(); return; } // a phone's address bar comes and goes
  wide = innerWidth;
  if ($("pictures").hidden) drawNights(); else redraw();
});
document.addEventListener("DOMContentLoaded", redraw); // by now all thumbnails are there
