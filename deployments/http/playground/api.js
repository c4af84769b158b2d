// The endpoint's API. Addresses are relative to the page's, so the page also works below a path prefix.

import { element } from "./page.js";

const KEY = "zimage_api_key";
let key = storedKey();

function storedKey() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null; // this browser lets pages store nothing
  }
}

export const hasKey = () => Boolean(key);

export function useKey(newKey) {
  key = newKey;
  try {
    sessionStorage.setItem(KEY, key);
  } catch { /* it is kept until a reload */ }
}

function failure({ message, param }, { headers, status }) {
  const notes = [
    param && `field ${param}`,
    headers.has("retry-after") && `try again in ${headers.get("retry-after")} s`,
    headers.has("x-request-id") && `request ${headers.get("x-request-id")}`,
  ];
  return Object.assign(new Error(message), { param, status, notes: notes.filter(Boolean).join(" · ") });
}

async function call(path, options = {}) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...options, headers }).catch((error) => {
    throw new Error(`The server can't be reached (${error.message}).`);
  });
  if (response.ok) return response;
  if (response.status === 401) element("access").hidden = false;
  const body = await response.json().catch(() => ({})); // a proxy's error page is not JSON
  throw failure(body.error ?? { message: `HTTP ${response.status} ${response.statusText}` }, response);
}

export const listModels = async () => (await (await call("v1/models")).json()).data;

const NUMBERS = ["seed", "num_inference_steps", "guidance_scale", "partial_images"];
const asNumbers = (name, value) => NUMBERS.includes(name) ? Number(value) : value;

/** Ask for an image, from pictures (blobs) if there are any; the answer is a stream of events. */
export function requestImage(settings, pictures, signal) {
  const values = { ...settings, stream: true, response_format: "b64_json" };
  if (!pictures.length) {
    const headers = { "Content-Type": "application/json" };
    return call("v1/images/generations", { method: "POST", headers, body: JSON.stringify(values, asNumbers), signal });
  }
  const body = new FormData();
  for (const [name, value] of Object.entries(values)) body.append(name, value);
  for (const picture of pictures) body.append("image[]", picture);
  return call("v1/images/edits", { method: "POST", body, signal });
}

/** Read the events of a stream; an error among them is thrown. */
export async function* serverEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let unread = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const messages = (unread + value).split("\n\n");
    unread = messages.pop();
    for (const message of messages) {
      const event = JSON.parse(message.slice(message.indexOf("data: ") + "data: ".length));
      if (event.error) throw failure(event.error, response);
      yield event;
    }
  }
}
