// node ai_sdk.mjs URL PICTURE: Vercel's AI SDK, by its provider for compatible servers and by the one for OpenAI.

import { readFile } from "node:fs/promises";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateImage } from "ai";
import { tell } from "./tell.mjs";

const [url, file] = process.argv.slice(2);
const picture = await readFile(file);
const zimage = createOpenAICompatible({ name: "zimage", baseURL: url, apiKey: "none" });
const openai = createOpenAI({ baseURL: url, apiKey: "none" });
const prompt = "a red apple";
const settings = { seed: 5 };

async function images(model, call, extra = {}) {
  const answer = await generateImage({
    model, maxRetries: 0, ...call, providerOptions: { zimage: { ...settings, ...extra } },
  });
  return { images: answer.images.map((image) => image.base64) };
}

globalThis.AI_SDK_LOG_WARNINGS = false;
const turbo = zimage.imageModel("z-image-turbo");
const edit = zimage.imageModel("z-image-edit");
const whole = { prompt, size: "96x64" };
const instruction = "make the background red";

await tell({
  generate: () => images(turbo, whole),
  several: () => images(turbo, { ...whole, n: 2 }),
  edit: () => images(edit, { prompt: { text: instruction, images: [picture] } }),
  two_pictures: () => images(edit, { prompt: { text: instruction, images: [picture, picture] } }),
  refused: () => images(turbo, { prompt, size: "65x64" }),
  unknown_model: () => images(zimage.imageModel("no-such-model"), whole),
  url: () => images(turbo, whole, { response_format: "url" }),
  openai_provider: () => images(openai.image("z-image-turbo"), whole),
  openai_provider_edit: () => images(openai.image("z-image-edit"), { prompt: { text: instruction, images: [picture] } }),
  openai_name: () => images(openai.image("gpt-image-1"), whole),
});
