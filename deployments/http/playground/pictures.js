// The rules for pictures that an image starts from, checked before anything is sent.

import { megabytes, millions } from "./page.js";

// A file is what its first bytes say, whatever its name.
const SIGNATURES = { "image/png": /^\x89PNG/, "image/jpeg": /^\xff\xd8\xff/, "image/webp": /^RIFF....WEBP/s };

/** Read a picture as { blob, name, width, height }; what can't be one is an error that names the rule. */
export async function readPicture(blob, { image_types: types = Object.keys(SIGNATURES), max_image_bytes: maxBytes }) {
  const name = blob.name ?? "picture";
  const start = String.fromCharCode(...new Uint8Array(await blob.slice(0, 12).arrayBuffer()));
  if (!types.some((type) => SIGNATURES[type]?.test(start))) {
    throw new Error(`${name}: not a ${either(types.map((type) => type.replace("image/", "").toUpperCase()))} file`);
  }
  if (blob.size > maxBytes) throw new Error(`${name}: ${megabytes(blob.size)}; the limit is ${megabytes(maxBytes)}`);
  const bitmap = await createImageBitmap(blob).catch(() => {
    throw new Error(`${name}: can't be read; the file is damaged`);
  });
  const { width, height } = bitmap;
  bitmap.close();
  return { blob, name, width, height };
}

/** Name the first rule of the model that these pictures break together, or nothing. */
export function brokenRule(pictures, model, models) {
  const limit = maxPictures(model);
  if (pictures.length > limit) {
    const others = models.filter((other) => maxPictures(other) >= pictures.length).map(({ id }) => id);
    return `${model.id} takes ${limit ? `${limit} picture${limit > 1 ? "s" : ""}` : "no pictures"}, not ${pictures.length}:`
      + ` remove ${pictures.length - limit}${others.length ? `, or choose ${either(others)}` : ""}`;
  }
  const total = (size) => pictures.reduce((sum, picture) => sum + size(picture), 0);
  const numPixels = total(({ width, height }) => width * height);
  if (numPixels > model.max_image_pixels) {
    return `the pictures have ${millions(numPixels)} megapixels in all; the limit is ${millions(model.max_image_pixels)}`;
  }
  const numBytes = total(({ blob }) => blob.size);
  if (numBytes > model.max_body_bytes) {
    return `the pictures have ${megabytes(numBytes)} in all; the limit is ${megabytes(model.max_body_bytes)}`;
  }
  return "";
}

/** How many pictures a model takes; any number while that is unknown. */
export function maxPictures({ capabilities, max_reference_images: maxReferences }) {
  if (!capabilities) return Infinity;
  if (capabilities.includes("edits")) return maxReferences;
  return capabilities.includes("image_to_image") ? 1 : 0;
}

const either = (names) => new Intl.ListFormat("en-GB", { type: "disjunction" }).format(names);
