// Run by node: what @google/genai makes of batches on the server given as argument, as JSON.
import { readFileSync } from "node:fs";
import { GoogleGenAI } from "@google/genai";

const [baseUrl, apiVersion, lines, place] = process.argv.slice(2);
const ai = new GoogleGenAI({ apiKey: "k", apiVersion, httpOptions: { baseUrl } });
const model = "gemini-nano-banana-2.1";

async function ended(job) {
  while (["JOB_STATE_PENDING", "JOB_STATE_RUNNING"].includes(job.state)) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    job = await ai.batches.get({ name: job.name });
  }
  return job;
}

const found = {};

const file = await ai.files.upload({ file: lines, config: { mimeType: "jsonl", displayName: "lines" } });
const job = await ended(await ai.batches.create({ model, src: file.name, config: { displayName: "chunk 1" } }));
found.state = job.state;
await ai.files.download({ file: job.dest.fileName, downloadPath: place });
// The SDK may return before the file is whole.
const whole = () => readFileSync(place, "utf8").split("\n").filter(Boolean).map((line) => JSON.parse(line).key).sort();
for (let tries = 0; !found.keys; tries++) {
  try {
    const keys = whole();
    if (keys.length === 3 || tries > 200) found.keys = keys;
  } catch (error) {
    if (tries > 200) throw error;
  }
  await new Promise((resolve) => setTimeout(resolve, 10));
}

const requests = ["a", "b"].map((key) => ({ contents: `A fox ${key}`, metadata: { key } }));
const inline = await ended(await ai.batches.create({ model, src: requests, config: { displayName: "inline" } }));
found.inline = inline.dest.inlinedResponses.map((one) => [
  one.metadata.key,
  Boolean(one.response.candidates[0].content.parts.at(-1).inlineData),
]);

found.names = [];
for await (const one of await ai.batches.list({ config: { pageSize: 1 } })) found.names.push(one.displayName);

const stuck = await ai.batches.create({ model, src: file.name, config: { displayName: "[[fault:stuck]]" } });
await ai.batches.cancel({ name: stuck.name });
found.cancelled = (await ai.batches.get({ name: stuck.name })).state;
await ai.batches.delete({ name: stuck.name });
found.gone = await ai.batches.get({ name: stuck.name }).then(() => 200, (error) => error.status);

console.log(JSON.stringify(found));
