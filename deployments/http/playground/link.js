// Links that carry settings. They are in the fragment of the address, which browsers keep from servers and their logs.

import { announce } from "./page.js";

const SHOWN_MS = 2000;

// By the names in links; a picture can't be in one, so a picture's strength isn't either.
const NAMES = {
  model: "model",
  prompt: "prompt",
  negative: "negative_prompt",
  size: "size",
  seed: "seed",
  steps: "num_inference_steps",
  guidance: "guidance_scale",
  format: "output_format",
  previews: "partial_images",
};

function linkTo(settings) {
  const given = Object.entries(NAMES).filter(([, field]) => settings[field] !== undefined);
  const parameters = new URLSearchParams(given.map(([name, field]) => [name, settings[field]]));
  return `${location.origin}${location.pathname}#${parameters}`;
}

/** Read the settings of an address's fragment, and name those that are unknown. */
export function settingsOf(fragment) {
  const settings = {};
  const unknown = [];
  for (const [name, value] of new URLSearchParams(fragment.replace(/^#/, ""))) {
    if (!Object.hasOwn(NAMES, name)) unknown.push(`${name}: no such setting`);
    else if (value) settings[NAMES[name]] = value.replace(/\r\n?/g, "\n");
  }
  return { settings, unknown };
}

/** Copy a link to these settings; where the browser refuses, the page's address becomes the link. */
export async function copyLink(settings, button) {
  const link = linkTo(settings);
  const isCopied = await copy(link);
  if (!isCopied) history.replaceState(null, "", link);
  button.dataset.label ??= button.textContent;
  button.textContent = isCopied ? "Link copied" : "Link is in the address bar";
  button.focus();
  announce(button.textContent);
  setTimeout(() => { button.textContent = button.dataset.label; }, SHOWN_MS);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text); // only of pages by HTTPS or from this machine
    return true;
  } catch {
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }
}
