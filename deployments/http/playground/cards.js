// The images of this page, newest first: those being made, and those kept from before.

import { requestImage, serverEvents } from "./api.js";
import { choose, field, fill, loadModels, modelOf, readPictures } from "./form.js";
import { drop, dropAll, keep, keptImages, MAX_BYTES, MAX_IMAGES } from "./kept_images.js";
import { copyLink } from "./link.js";
import { announce, element, megabytes } from "./page.js";
import { showLarge } from "./viewer.js";

const grid = element("images");
const cards = new Map(); // by their elements

export const cardOf = (node) => cards.get(node?.closest?.(".card"));
export const allCards = () => [...grid.children].map((root) => cards.get(root));

export class Card {
  constructor(settings, pictures) {
    this.settings = settings;
    this.pictures = pictures; // blobs
    this.root = element("card").content.firstElementChild.cloneNode(true);
    this.root.ariaLabel = settings.prompt;
    this.image = this.part("image");
    this.image.alt = settings.prompt;
    this.image.onload = () => {
      const { naturalWidth, naturalHeight } = this.image;
      this.image.classList.toggle("pixelated", Math.max(naturalWidth, naturalHeight) < 128);
    };
    this.part("prompt").textContent = settings.prompt;
    this.part("open").onclick = () => showLarge(this, allCards);
    this.part("cancel").onclick = () => this.cancel();
    this.part("reuse").onclick = async () => fill(this.settings, await readPictures(this.pictures));
    this.part("remove").onclick = () => this.remove();
    cards.set(this.root, this);
  }

  part(name) { return this.root.querySelector(`.${name}`); }

  get state() { return this.root.dataset.state; }

  shape(size) { this.part("picture").style.aspectRatio = size?.replace("x", " / ") ?? "1"; }

  /** Ask the endpoint for the image, and show what comes. */
  async generate() {
    this.abort = new AbortController();
    this.startMs = performance.now();
    this.shape(this.settings.size ?? modelOf(this.settings.model).default_size);
    grid.prepend(this.root);
    showCount();
    this.root.scrollIntoView({ block: "nearest" });
    this.say("waiting");
    announce(`${this.settings.prompt}: started`);
    const timer = setInterval(() => this.showTime(), 100);
    try {
      const response = await requestImage(this.settings, this.pictures, this.abort.signal);
      this.part("warning").textContent = response.headers.get("x-zimage-warning") ?? ""; // in time to cancel
      this.say("making the image");
      for await (const event of serverEvents(response)) {
        if (event.type.endsWith(".completed")) {
          clearInterval(timer);
          return await this.finish(event, response.headers);
        }
        this.preview(event);
      }
      throw new Error("The connection ended before the image was done.");
    } catch (error) {
      if (this.abort.signal.aborted) this.end("cancelled");
      else this.fail(error);
    } finally {
      clearInterval(timer);
    }
  }

  /** Stop making the image, unless it is there already. */
  cancel() { if (!this.kept) this.abort.abort(); }

  showTime() { this.part("time").textContent = `${((performance.now() - this.startMs) / 1000).toFixed(1)} s`; }

  say(progress) {
    this.showTime();
    this.part("progress").textContent = progress;
  }

  showState(state) {
    this.root.dataset.state = state;
    this.part("progress").textContent = state;
  }

  end(state) {
    this.showTime();
    this.showState(state);
    announce(`${this.settings.prompt}: ${state}`);
  }

  show(blob, size) {
    URL.revokeObjectURL(this.image.src);
    this.image.src = URL.createObjectURL(blob);
    this.image.hidden = false;
    this.shape(size);
  }

  preview(event) {
    this.show(blobOf(event), event.size);
    this.say(`preview ${event.partial_image_index + 1} of ${this.settings.partial_images}`);
  }

  async finish(event, headers) {
    const { b64_json, ...answer } = event;
    const seed = this.settings.seed ?? String(event.seed);
    this.settings = { ...this.settings, seed };
    this.showTime();
    const finished = {
      settings: this.settings,
      pictures: this.pictures,
      image: blobOf(event),
      answer,
      coldStartS: headers.get("x-zimage-cold-start-s"),
      time: this.part("time").textContent,
    };
    this.showFinished(finished);
    this.kept = keep(finished).catch(showUnkept);
    await this.kept; // from "done" on, a reload loses nothing
    this.end("done");
    if (!modelOf(event.model).default_size) loadModels(); // it has started, so its limits are known now
  }

  /** Show a finished image, of now or of before. */
  showFinished({ image, answer, coldStartS }) {
    const { seed } = this.settings;
    this.show(image, answer.size);
    this.part("used").textContent = [
      answer.model,
      answer.size,
      `${answer.num_inference_steps} steps`,
      `guidance ${answer.guidance_scale}`,
      this.settings.strength && `strength ${this.settings.strength}`,
      `${answer.output_format}, ${(image.size / 1000).toFixed(0)} kB`,
      coldStartS && `waited ${coldStartS} s for the model to start`,
    ].filter(Boolean).join(" · ");
    this.part("warning").textContent = answer.warning ?? "";
    this.part("pin").textContent = `Pin seed ${seed}`;
    this.part("pin").onclick = () => {
      field.seed.value = seed;
      field.seed.focus();
    };
    this.part("edit").onclick = async () => {
      choose(await readPictures([image]));
      field.prompt.focus();
    };
    this.part("edit").hidden = answer.output_format === "avif"; // the server cannot read it
    this.part("link").onclick = ({ target }) => copyLink(this.settings, target);
    this.part("download").href = this.image.src;
    this.part("download").download = `${answer.model}-${seed}.${answer.output_format}`;
  }

  fail(error) {
    this.part("message").textContent = error.message;
    this.part("notes").textContent = error.notes ?? "";
    field[error.param]?.setAttribute("aria-invalid", "true");
    this.end("failed");
    announce(`${this.settings.prompt}: ${error.message}`);
  }

  async remove() {
    if (this.isGoing) return;
    this.isGoing = true;
    // The card goes last, so that a reload does not bring it back.
    await this.kept?.then((id) => id && drop(id)).catch(showUnkept);
    const next = this.root.nextElementSibling ?? this.root.previousElementSibling;
    const isElsewhere = document.activeElement !== document.body && !this.root.contains(document.activeElement);
    this.discard();
    if (!isElsewhere) (next ?? field.prompt).focus();
  }

  discard() {
    this.root.remove();
    cards.delete(this.root);
    URL.revokeObjectURL(this.image.src);
    showCount();
  }
}

function blobOf({ b64_json: text, output_format: format }) {
  const bytes = Uint8Array.from(atob(text), (byte) => byte.charCodeAt(0));
  return new Blob([bytes], { type: `image/${format}` });
}

// What is kept

function showCount() {
  const number = grid.childElementCount;
  element("empty").hidden = element("heading").hidden = true;
  element(number ? "heading" : "empty").hidden = false;
  element("count").textContent = `${number} image${number === 1 ? "" : "s"}`;
}

function showUnkept(error) {
  element("keeping").textContent = `Not kept: a reload loses them (${error.message ?? error})`;
}

/** Show the images that this browser has kept, below any that are new. */
export async function showKept() {
  element("keeping").textContent = `The newest ${MAX_IMAGES}, up to ${megabytes(MAX_BYTES)}, stay in this browser`;
  try {
    for (const image of (await keptImages()).reverse()) {
      const card = new Card(image.settings, image.pictures);
      card.showFinished(image);
      card.showState("done");
      card.part("time").textContent = image.time;
      card.kept = Promise.resolve(image.id);
      grid.append(card.root);
    }
  } catch (error) {
    showUnkept(error);
  }
  showCount();
}

/** Remove all images but those being made, here and from what is kept. */
export async function clear() {
  if (!confirm("Remove all images from this browser?")) return;
  const finished = allCards().filter(({ state, kept }) => kept || state !== "running");
  await dropAll().catch(() => {}); // where nothing can be kept, nothing is left
  for (const card of finished) card.discard();
  field.prompt.focus();
}
