"use strict";
// What every page of ours is built with. Text from prompts or servers goes through textContent or an attribute, never markup.
const $ = (id) => document.getElementById(id);
const facts = JSON.parse($("facts").textContent);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

// What is shown becomes what is fresh, element by element: a click in progress, the focus and what was opened stay.
function morph(old, fresh) {
  if (old.nodeName !== fresh.nodeName || old.dataset?.do !== fresh.dataset?.do) { old.replaceWith(fresh); return; }
  if (old.nodeType === Node.TEXT_NODE) { if (old.data !== fresh.data) old.data = fresh.data; return; }
  for (const { name, value } of fresh.attributes) if (name !== "style" && name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) if (name !== "style" && name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  old.style.width = fresh.style.width;
  const before = [...old.childNodes], now = [...fresh.childNodes];
  now.forEach((child, index) => { if (before[index]) morph(before[index], child); else old.append(child); });
  before.slice(now.length).forEach((child) => child.remove());
}

// Figures
function usd(amount) {
  if (amount == null) return "unknown";
  const size = Math.abs(amount), digits = [2, 3, 4, 5, 6, 7].find((each) => Math.abs(size.toFixed(each) - size) <= size / 100) || 8;
  return `${amount < 0 ? "-" : ""}$${size.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })}`;
}
const when = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false });
const date = (seconds) => (seconds ? when.format(seconds * 1000) : "");
const seconds = (value) => (value == null ? "" : value < 10 ? `${value.toFixed(1)} s` : value < 120 ? `${Math.round(value)} s` : `${Math.round(value / 60)} min`);
const size = (bytes) => (bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
const plural = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
// A sum of which some parts have no price: when nothing is known it is unknown, never 0.
const inAll = (amount, unpriced, noun = "request") => (!unpriced ? usd(amount) : amount ? `${usd(amount)} + ${plural(unpriced, noun)} of unknown price` : `unknown (${plural(unpriced, noun)} of unknown price)`);
function bill({ spent, estimated, unknown, maybe, maybeUnknown }) {
  const lost = maybe || maybeUnknown, charged = spent + estimated || unknown || !lost;
  return [charged ? inAll(spent + estimated, unknown) : "", estimated ? `${usd(estimated)} of it estimated` : "", lost ? `maybe ${inAll(maybe, maybeUnknown)}${charged ? " more" : ""}` : ""].filter(Boolean).join(" · ");
}
