// Puts the page together: what buttons, keys, files and links do.

import { useKey } from "./api.js";
import { allCards, Card, cardOf, clear, showKept } from "./cards.js";
import { addPictures, choose, chosenPictures, field, followLink, form, loadModels, readSettings } from "./form.js";
import { copyLink } from "./link.js";
import { element } from "./page.js";

form.onsubmit = (event) => {
  event.preventDefault();
  for (const control of field) control.removeAttribute("aria-invalid");
  element("left-out").hidden = true;
  new Card(readSettings(), chosenPictures().map(({ blob }) => blob)).generate();
};
for (const example of document.querySelectorAll("#empty button")) {
  example.onclick = () => {
    field.prompt.value = example.textContent;
    form.requestSubmit();
  };
}
element("copy-link").onclick = ({ target }) => copyLink(readSettings(), target);
element("clear").onclick = clear;
element("access").onsubmit = async (event) => {
  event.preventDefault();
  useKey(element("api-key").value);
  await start();
};

// Keys

const dialogs = document.querySelectorAll("dialog");
element("show-keys").onclick = () => element("keys").showModal();
for (const dialog of dialogs) {
  dialog.querySelector(".close").onclick = () => dialog.close();
}

function cancelImage(target) {
  const running = (card) => card?.state === "running";
  const focused = cardOf(target);
  (running(focused) ? focused : allCards().find(running))?.cancel();
}

function moveFocus(event, card) {
  if (event.altKey || event.ctrlKey || event.metaKey) return; // the browser's own, such as back
  const numColumns = getComputedStyle(element("images")).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -numColumns, ArrowDown: numColumns }[event.key];
  const next = allCards()[allCards().indexOf(card) + step];
  if (!next) return;
  event.preventDefault();
  next.root.focus();
}

document.onkeydown = (event) => {
  // A key that ends the writing of a Chinese character does nothing else.
  if (event.isComposing || [...dialogs].some(({ open }) => open)) return;
  const card = cardOf(event.target);
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  else if (event.key === "Enter" && event.target === card?.root && card.state === "done") {
    event.preventDefault(); // the same key would press the viewer's first button
    card.part("open").click();
  }
  // In a list of choices, it closes the list.
  else if (event.key === "Escape" && !event.target.matches?.("select, [list]")) cancelImage(event.target);
  else if (event.key.startsWith("Arrow") && card) moveFocus(event, card);
};

// Pictures: chosen, dropped or pasted

const imagesIn = ({ files }) => [...files].filter(({ type }) => type.startsWith("image/"));
element("chooser").onchange = ({ target }) => {
  addPictures([...target.files]);
  target.value = ""; // so that the same file may be chosen again
};
element("no-pictures").onclick = () => choose([]);
document.ondragover = (event) => { if (event.dataTransfer.types.includes("Files")) event.preventDefault(); };
document.ondrop = (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  addPictures([...event.dataTransfer.files]);
};
document.onpaste = ({ clipboardData }) => {
  // What spreadsheets copy is both a text and a picture of it.
  const images = clipboardData.types.includes("text/plain") ? [] : imagesIn(clipboardData);
  if (images.length) addPictures(images);
};

let started = false;

/** List the models and, the first time that they are known, follow the link that opened the page. */
async function start() {
  if (!await loadModels() || started) return;
  started = true;
  followLink();
}

addEventListener("hashchange", followLink);
showKept();
await start();
