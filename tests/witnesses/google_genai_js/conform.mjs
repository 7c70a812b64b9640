// Run by node: what @google/genai gets from the server given as argument, as JSON.
import { GoogleGenAI } from "@google/genai";

const [baseUrl, apiVersion, photo] = process.argv.slice(2);
const ai = new GoogleGenAI({ apiKey: "k", apiVersion, httpOptions: { baseUrl } });
const FLASH = "gemini-nano-banana-2.1";
const PRO = "gemini-3-pro-image";

function pictures(answer) {
  const parts = answer.candidates[0].content.parts;
  return parts.filter((part) => part.inlineData).map((part) => part.inlineData);
}

const found = {};

const drawn = await ai.models.generateContent({
  model: FLASH,
  contents: "A red fox",
  config: { responseModalities: ["IMAGE"], imageConfig: { aspectRatio: "16:9", imageSize: "1K" } },
});
found.drawn = pictures(drawn)[0].data;

const chat = ai.chats.create({ model: PRO, config: { responseModalities: ["TEXT", "IMAGE"] } });
await chat.sendMessage({ message: "Draw a cat" });
found.second = pictures(await chat.sendMessage({ message: "Make it blue" }))[0].data;

const forgetful = ai.chats.create({ model: PRO, history: chat.getHistory().slice(0, 2) });
forgetful.history[1].parts.forEach((part) => delete part.thoughtSignature);
found.forgotten = await forgetful.sendMessage({ message: "Make it blue" }).then(() => 200, (error) => error.status);

const streamed = [];
for await (const chunk of await ai.models.generateContentStream({ model: FLASH, contents: "A red fox" })) {
  streamed.push(...pictures(chunk));
}
found.streamed = streamed.length;

const file = await ai.files.upload({ file: photo, config: { mimeType: "image/png", displayName: "photo" } });
found.state = file.state;
const contents = [{ role: "user", parts: [{ fileData: { fileUri: file.uri, mimeType: file.mimeType } }, { text: "A hat" }] }];
found.edited = pictures(await ai.models.generateContent({ model: FLASH, contents }))[0].data;
found.listed = [];
for await (const one of await ai.files.list()) found.listed.push(one.name === file.name);
await ai.files.delete({ name: file.name });
found.deleted = await ai.files.get({ name: file.name }).then(() => 200, (error) => error.status);

const grounded = await ai.models.generateContent({
  model: FLASH,
  contents: "quetzal",
  config: { tools: [{ googleSearch: { searchTypes: { webSearch: {}, imageSearch: {} } } }] },
});
found.grounding = grounded.candidates[0].groundingMetadata;

found.models = [];
for await (const model of await ai.models.list()) found.models.push(model.name);

console.log(JSON.stringify(found));
