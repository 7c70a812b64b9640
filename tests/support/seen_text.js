// Text that is seen: each with its colour, what lies behind it (null where that is an image) and the boxes that are left of it
// after all that clips it. What lies over an image on purpose, and what a dialog hides, is left out.
() => {
  const root = document.querySelector("dialog[open]") || document.body, found = [];
  // `rgb(…)` has bytes, `color(srgb …)` of a mixed colour has shares.
  const rgb = (text) => text.match(/[\d.]+/g).map((part, index) => (text.startsWith("color") && index < 3 ? 255 : 1) * Number(part));
  const backdrop = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const style = getComputedStyle(each), colour = rgb(style.backgroundColor);
      if (style.backgroundImage !== "none" || each.matches(".flag, .strip span, .inset b")) return null;
      if (colour.length === 3 || colour[3] === 1) return colour.slice(0, 3);
      if (colour[3] > 0) return null;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement, style = getComputedStyle(element);
    if (!node.data.trim() || element.closest("option, script, style, noscript, .inset, .flag, .strip") || style.visibility !== "visible") continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    let boxes = [...range.getClientRects()].map(({ left, right, top, bottom }) => ({ left, right, top, bottom }));
    for (let each = element; each && each !== document.body; each = each.parentElement) {
      const { overflowX, overflowY, display } = getComputedStyle(each), limits = each.getBoundingClientRect();
      if (display === "none") boxes = [];
      if (overflowX !== "visible" || overflowY !== "visible") boxes = boxes.map((box) => ({ left: Math.max(box.left, limits.left), right: Math.min(box.right, limits.right), top: Math.max(box.top, limits.top), bottom: Math.min(box.bottom, limits.bottom) }));
    }
    boxes = boxes.filter((box) => box.right - box.left > 1 && box.bottom - box.top > 1);
    if (boxes.length) found.push({ text: node.data.trim().slice(0, 40), disabled: Boolean(element.closest(":disabled, .rejected")), colour: rgb(style.color), backdrop: backdrop(element), boxes });
  }
  return found;
}
