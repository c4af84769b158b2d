// The form: the models and what each offers, the settings, and the pictures to start from.

import { hasKey, listModels } from "./api.js";
import { settingsOf } from "./link.js";
import { announce, element, millions } from "./page.js";
import { brokenRule, maxPictures, readPicture } from "./pictures.js";

export const form = element("settings");
export const field = form.elements;
const MAX_SEED = 2 ** 32 - 1;
let models = []; // as GET /v1/models describes them
let aliases = {}; // the model that each other name means
let pictures = []; // for the next image, each { blob, name, width, height }

export const modelOf = (id) => models.find((model) => model.id === id) ?? {};
export const chosenPictures = () => pictures;
const line = (textContent) => Object.assign(document.createElement("li"), { textContent });
export const readSettings = () => Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));

/** Ask the endpoint which models there are; return whether it told. */
export async function loadModels() {
  const notice = element("notice");
  try {
    const listed = await listModels();
    models = listed.filter((model) => !model.alias_of);
    aliases = Object.fromEntries(listed.map((model) => [model.id, model.alias_of ?? model.id]));
    const chosen = field.model.value;
    field.model.replaceChildren(...models.map(({ id }) => new Option(id, id, false, id === chosen)));
    element("access").hidden = notice.hidden = true;
    showModel();
    return true;
  } catch (error) {
    notice.textContent = `The models can't be listed: ${error.message}`;
    notice.hidden = error.status === 401 && !hasKey(); // the form for a key says enough
    if (error.status === 401) element("api-key").focus();
    return false;
  }
}

function offer(control, isOffered) {
  control.disabled = !isOffered;
  control.closest("label").hidden = !isOffered;
}

function showModel() {
  const model = modelOf(field.model.value);
  const edits = model.capabilities?.includes("edits") ?? false;
  offer(field.negative_prompt, model.capabilities?.includes("negative_prompt") ?? true);
  offer(field.guidance_scale, model.max_guidance_scale !== 0);
  field.guidance_scale.max = model.max_guidance_scale ?? "";
  field.guidance_scale.placeholder = model.default_guidance_scale ?? "default";
  field.num_inference_steps.placeholder = model.default_num_inference_steps ?? "default";
  field.prompt.placeholder = edits && pictures.length ? "What should change?" : "What should the image show?";
  field.strength.disabled = edits || !pictures.length;
  field.strength.closest("div").hidden = field.strength.disabled;
  field.size.placeholder = pictures.length ? (edits ? "like the last picture" : "like the picture") : (model.default_size ?? "default");
  element("sizes").replaceChildren(...sizes(model));
  element("limits").textContent = limits(model);
  if (model.image_types) element("chooser").accept = model.image_types;
  showRule(model);
}

function sizes({ default_size: size, size_multiple: multiple, recommended_sizes: recommended }) {
  if (!size) return [];
  const [width, height] = size.split("x");
  const side = (ratio) => Math.round(Math.sqrt(width * height * ratio) / multiple) * multiple;
  const shapes = [1, 4 / 3, 3 / 4, 16 / 9, 9 / 16].map((ratio) => `${side(ratio)}x${side(1 / ratio)}`);
  const others = shapes.filter((shape) => !recommended?.includes(shape));
  return [
    ...(recommended ?? []).map((best) => new Option(best)),
    ...others.map((other) => new Option(recommended ? "not a size it was trained on" : other, other)),
  ];
}

function limits(model) {
  if (!model.default_size) return "Not running now. The first image waits for it to start.";
  const number = maxPictures(model);
  return [
    model.recommended_sizes && `Best at ${model.recommended_sizes.slice(0, 3).join(", ")}.`,
    `Sides up to ${model.max_side} px in multiples of ${model.size_multiple}, ${millions(model.max_pixels)} megapixels in total.`,
    `Prompts up to ${model.max_prompt_tokens} tokens.`,
    model.capabilities.includes("edits") && `Follows instructions on up to ${number} pictures.`,
    model.capabilities.includes("image_to_image") && "Can start from one picture.",
  ].filter(Boolean).join(" ");
}

function showRule(model) {
  const problem = brokenRule(pictures, model, models);
  element("broken-rule").textContent = problem;
  element("chooser").setCustomValidity(problem); // so that nothing is sent
}

// Pictures

export function choose(chosen) {
  pictures = chosen;
  for (const image of element("chosen").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  element("chosen").replaceChildren(...pictures.map(thumbnail));
  element("no-pictures").hidden = pictures.length < 2;
  showModel();
}

function thumbnail(picture, index) {
  const root = element("thumbnail").content.firstElementChild.cloneNode(true);
  const [image, remove] = root.children;
  image.src = URL.createObjectURL(picture.blob);
  image.alt = `Picture ${index + 1} to edit`;
  remove.ariaLabel = `Remove picture ${index + 1}`;
  remove.onclick = () => {
    choose(pictures.filter((other) => other !== picture));
    (element("chosen").querySelectorAll("button")[Math.min(index, pictures.length - 1)] ?? element("chooser")).focus();
  };
  return root;
}

/** Read picture files; those that can't be used are named beside the others. */
export async function readPictures(files) {
  const model = modelOf(field.model.value);
  const read = await Promise.allSettled([...files].map((file) => readPicture(file, model)));
  const problems = read.filter(({ reason }) => reason).map(({ reason }) => reason.message);
  element("refused-files").replaceChildren(...problems.map((problem) => line(problem)));
  return read.filter(({ value }) => value).map(({ value }) => value);
}

export async function addPictures(files) {
  const added = await readPictures(files);
  choose([...pictures, ...added]);
}

// Settings

export function showStrength() {
  element("strength-shown").textContent = Number(field.strength.value).toFixed(2);
}

function checkSeed() {
  field.seed.setCustomValidity(Number(field.seed.value) > MAX_SEED ? `Seeds go up to ${MAX_SEED}` : "");
}

const initial = (control) => control.defaultValue ?? [...control.options].find((option) => option.defaultSelected)?.value;

/** Fill the form; what it can't take is left out and named. */
export function fill(settings, chosen, unknown = []) {
  const { model = models[0]?.id, ...others } = settings;
  const refused = [...unknown];
  if (aliases[model]) field.model.value = aliases[model];
  else refused.push(`model: ${model} is not served here`);
  choose(chosen);
  for (const control of field) {
    if (control.name && control !== field.model) control.value = initial(control);
  }
  for (const [name, value] of Object.entries(others)) {
    const control = field[name];
    const label = control.labels[0].firstChild.textContent.trim().toLowerCase();
    control.value = value;
    checkSeed();
    const isTaken = control.value === value && control.validity.valid;
    if (isTaken && !control.disabled) continue;
    refused.push(`${label}: ${control.disabled ? `${field.model.value} has none` : `${value} is not possible`}`);
    control.value = initial(control);
  }
  checkSeed();
  showStrength();
  element("left-out").hidden = !refused.length;
  element("left-out-settings").replaceChildren(...refused.map((text) => line(text)));
  field.prompt.focus();
}

/** Fill the form from the address of the page; nothing is generated. */
export function followLink() {
  if (location.hash.length < 2) return;
  const { settings, unknown } = settingsOf(location.hash);
  fill(settings, pictures, unknown);
  announce("The settings of the link are filled in");
}

field.model.onchange = showModel;
field.strength.oninput = showStrength;
field.seed.oninput = checkSeed;
showStrength();
