(() => {
  "use strict";
  const gallery = document.getElementById("gallery");
  if (!gallery) return;
  const find = (id) => document.getElementById(id);
  const controls = find("controls");
  const count = find("count");
  const collator = new Intl.Collator("en", { numeric: true });
  const cards = Array.from(gallery.querySelectorAll(".card"), (node, place) => ({
    node,
    place,
    score: node.dataset.score === "" ? null : Number(node.dataset.score),
    name: node.dataset.name,
    text: [node.dataset.name, node.dataset.label, node.dataset.reason].filter(Boolean).join("\n").toLowerCase(),
  }));

  // Images without a score come last whichever way scores are sorted; ties keep the file's order.
  const byScore = (sign) => (a, b) =>
    (a.score === null) - (b.score === null) || (a.score === b.score ? 0 : sign * (a.score < b.score ? -1 : 1)) || a.place - b.place;
  const orders = {
    "score-down": byScore(-1),
    "score-up": byScore(1),
    name: (a, b) => collator.compare(a.name, b.name) || a.place - b.place,
  };
  const chosen = (id) => find(id)?.value ?? "";

  const sort = () => gallery.append(...cards.sort(orders[chosen("sort")]).map((card) => card.node));
  const filter = () => {
    const text = chosen("text").trim().toLowerCase();
    const label = chosen("label");
    const flag = chosen("flag");
    const state = chosen("state");
    let shown = 0;
    for (const card of cards) {
      const data = card.node.dataset;
      const fits =
        card.text.includes(text) &&
        (label === "" || label === (data.label === undefined ? "none" : "=" + data.label)) &&
        (flag === "" || flag === data.flagged) &&
        (state === "" || state === data.error);
      card.node.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${cards.length} ${cards.length === 1 ? "image" : "images"}`;
    find("none").hidden = shown > 0;
  };
  const dim = () => gallery.style.setProperty("--strength", chosen("strength"));
  const everything = () => { sort(); filter(); dim(); };

  controls.addEventListener("input", (event) => {
    if (event.target.id === "sort") sort();
    else if (event.target.id === "strength") dim();
    else filter();
  });
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("reset", () => setTimeout(everything));

  gallery.addEventListener("toggle", (event) => {
    if (event.target.open) event.target.scrollIntoView({ block: "nearest" });
  }, true);
  // Left and right go from image to image, Escape closes the one that has the focus.
  gallery.addEventListener("keydown", (event) => {
    const card = event.target.closest(".card");
    if (!card || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape" && card.open) {
      card.open = false;
      card.firstElementChild.focus();
    } else if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      const visible = cards.filter((other) => !other.node.hidden);
      const here = visible.findIndex((other) => other.node === card);
      const next = visible[here + (event.key === "ArrowRight" ? 1 : -1)];
      if (next) {
        next.node.firstElementChild.focus();
        event.preventDefault();
      }
    }
  });

  controls.hidden = false;
  everything();
})();
