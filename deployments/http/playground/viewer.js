// One image as large as the window, with its neighbours a key away.

import { announce, element } from "./page.js";

const dialog = element("viewer");
const image = dialog.querySelector("img");
let shown; // a card
let neighbours = () => [];

/** Show a card's image; `cards` returns all cards in their order. */
export function showLarge(card, cards) {
  neighbours = () => cards().filter(({ state }) => state === "done");
  display(card);
  dialog.showModal();
}

function display(card) {
  shown = card;
  image.src = card.image.src;
  image.alt = card.settings.prompt;
  image.className = card.image.className;
  element("viewer-prompt").textContent = card.settings.prompt;
  element("previous").disabled = !neighbour(-1);
  element("next").disabled = !neighbour(1);
}

const neighbour = (step) => neighbours()[neighbours().indexOf(shown) + step];

function move(step) {
  const card = neighbour(step);
  if (!card) return;
  display(card);
  announce(card.settings.prompt);
}

element("previous").onclick = () => move(-1);
element("next").onclick = () => move(1);
dialog.onkeydown = ({ key }) => {
  if (key === "ArrowLeft") move(-1);
  if (key === "ArrowRight") move(1);
};
dialog.onclick = ({ target }) => { if (target === dialog) dialog.close(); }; // beside the image
dialog.onclose = () => {
  shown.part("open").focus();
  shown.root.scrollIntoView({ block: "nearest" });
};
