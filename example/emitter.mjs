// Send an event to clients of a webpy_socketio server through Redis, without the server's help.
//
//   npm install redis
//   node emitter.mjs redis://127.0.0.1:6379 room-1 message '{"text": "hello"}'
import { pathToFileURL } from "node:url";
import { createClient } from "redis";

export const namespace = (name) => `all:${name},`;
export const channel = (name, inNamespace = "/") => `channel:${inNamespace},${name}`;
export const session = (id) => `session:,${id}`;

/** Publish an event and return the number of processes that received it. Buffers are binary. */
export function emit(client, topic, event, ...args) {
  const attachments = [];
  const body = JSON.stringify([event, ...args], function (key, value) {
    if (!(this[key] instanceof Uint8Array)) return value; // `value` is what toJSON() returned
    return { _placeholder: true, num: attachments.push(this[key]) - 1 };
  });
  const header = JSON.stringify({ v: 1, attachments: attachments.map((data) => data.length) });
  const envelope = Buffer.concat([Buffer.from(`${header}\n${body}`), ...attachments]);
  return client.publish(`webpy_socketio:1:${topic}`, envelope);
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [url, name, event, json] = process.argv.slice(2);
  const client = await createClient({ url }).connect();
  console.log(`received by ${await emit(client, channel(name), event, JSON.parse(json))} process(es)`);
  await client.close();
}
