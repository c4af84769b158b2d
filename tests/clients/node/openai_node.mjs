// node openai_node.mjs URL PICTURE: OpenAI's client in Node.

import { createReadStream } from "node:fs";
import OpenAI, { toFile } from "openai";
import { openaiCases } from "./openai_cases.mjs";
import { tell } from "./tell.mjs";

const [url, picture] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
await tell(openaiCases(client, await toFile(createReadStream(picture), "apple.png", { type: "image/png" })));
