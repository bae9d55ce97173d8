// The official OpenAI client for JavaScript against a server, unchanged.
//
//     packages=$(mktemp -d) && npm install --silent --prefix "$packages" openai
//     evenload engine --replicas 2 --port 8001 &
//     evenload serve --replica http://127.0.0.1:8001 --replica http://127.0.0.1:8002 --listen 127.0.0.1:8080 &
//     script=$PWD/scripts/clients/openai_javascript.mjs
//     (cd "$packages" && OPENAI_BASE_URL=http://127.0.0.1:8080/v1 node "$script")
//
// The package is taken from the current folder. It asks for the first model that the server lists. Exit status 1
// if anything failed.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const OpenAI = createRequire(join(process.cwd(), "package.json"))("openai");
const { version } = JSON.parse(readFileSync(join(process.cwd(), "node_modules/openai/package.json"), "utf8"));

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8080/v1",
  apiKey: process.env.OPENAI_API_KEY ?? "unused",
  timeout: 60_000,
  maxRetries: 0,
});
const messages = [{ role: "user", content: "Say something of eight tokens." }];
const tokens = 8;

async function model() {
  return (await client.models.list()).data[0].id;
}

async function all(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const checks = {
  async modelsList() {
    const listed = await all(client.models.list());
    assert.ok(listed.length > 0);
    for (const entry of listed) assert.equal(entry.object, "model");
  },

  async chat() {
    const answer = await client.chat.completions.create({ model: await model(), messages, max_tokens: tokens });
    assert.equal(answer.object, "chat.completion");
    assert.equal(answer.choices[0].message.role, "assistant");
    assert.ok(answer.choices[0].message.content);
    assert.equal(answer.choices[0].finish_reason, "length");
    assert.equal(answer.usage.completion_tokens, tokens);
  },

  async chatStreamed() {
    const request = { model: await model(), messages, max_tokens: tokens, stream: true };
    const chunks = await all(await client.chat.completions.create(request));
    assert.equal(chunks.filter((chunk) => chunk.choices[0]?.delta.content).length, tokens);
    assert.equal(chunks.at(-1).choices[0].finish_reason, "length");
    assert.equal(chunks.filter((chunk) => chunk.usage).length, 0);
  },

  async chatStreamedWithUsage() {
    const chunks = await all(
      await client.chat.completions.create({
        model: await model(),
        messages,
        max_completion_tokens: tokens,
        stream: true,
        stream_options: { include_usage: true },
      }),
    );
    assert.deepEqual(chunks.at(-1).choices, []);
    assert.equal(chunks.at(-1).usage.completion_tokens, tokens);
  },

  async completion() {
    const request = { model: await model(), prompt: "Once upon a time", max_tokens: tokens };
    const answer = await client.completions.create(request);
    assert.equal(answer.object, "text_completion");
    assert.ok(answer.choices[0].text);
    assert.equal(answer.usage.completion_tokens, tokens);
  },

  async completionStreamed() {
    const chunks = await all(
      await client.completions.create({
        model: await model(),
        prompt: "Once upon a time",
        max_tokens: tokens,
        stream: true,
        stream_options: { include_usage: true },
      }),
    );
    assert.equal(chunks.filter((chunk) => chunk.choices[0]?.text).length, tokens);
    assert.equal(chunks.at(-1).usage.completion_tokens, tokens);
  },

  async streamLeftEarly() {
    const request = { model: await model(), messages, max_tokens: 500, stream: true };
    const stream = await client.chat.completions.create(request);
    for await (const chunk of stream) {
      assert.equal(chunk.object, "chat.completion.chunk");
      break;
    }
    await checks.chat();
  },

  async unknownModel() {
    await assert.rejects(client.chat.completions.create({ model: "no-such-model", messages }), (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError, `${error}`);
      assert.match(error.message, /no-such-model/);
      return true;
    });
  },

  async badRequest() {
    const request = { model: await model(), messages, max_tokens: -1 };
    await assert.rejects(client.chat.completions.create(request), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError, `${error}`);
      return true;
    });
  },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
  } catch (error) {
    failed += 1;
    console.log(`${name}: ${error}`);
  }
}
console.log(`openai ${version} (JavaScript): ${Object.keys(checks).length - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
