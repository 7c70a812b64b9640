// A job of more samples than fit on one page has several files: which they are, and what is on each.
const pages = facts.pages;
const onPage = pages ? " on this page" : "";
function stateWords(states) {
  return STATES.filter((state) => states[state]).map((state) => `${states[state].toLocaleString("en")} ${state}`).join(", ");
}
function pageLink(number, sign, label) {
  const to = pages.links[number];
  return make(to ? "a" : "span", { class: "step", href: to && percent(to[0]), rel: label, "aria-label": `${label === "prev" ? "Previous" : "Next"} page` }, sign);
}
function setUpPages() {
  if (!pages) return;
  const { at: own, links } = pages;
  for (const place of document.querySelectorAll(".pages")) {
    const choose = make("select", { "aria-label": "Page" }, ...links.map(([file, first, last, states], number) =>
      make("option", { value: percent(file), selected: number === own }, `Page ${(number + 1).toLocaleString("en")} of ${links.length.toLocaleString("en")}: ${first} to ${last} · ${stateWords(states)}`)));
    choose.addEventListener("change", () => { location.href = choose.value; });
    place.replaceChildren(pageLink(own - 1, "‹", "prev"), choose, pageLink(own + 1, "›", "next"), make("small", {}, "Search, filters and sorting cover this page."));
    place.hidden = false;
  }
  $("search").placeholder = "Search prompts and ids of this page";
}
