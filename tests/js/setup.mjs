// What the scenarios of client.mjs and receipts.mjs share: the arguments, the client, and helpers.
//
//   node client.mjs SCENARIO URL TRANSPORTS BUILD
//
// TRANSPORTS is "polling", "websocket" or "polling,websocket". BUILD is "node", the client as Node.js
// programs use it, with the classic script; "browser", the minified script that pages load, with the
// classic script; "module", the client of "node" with the ES module; or "msgpack", the client of "node"
// with socket.io-msgpack-parser.
//
// A scenario reports one JSON object per line: {"step": ..., ...}. The test compares the reports and
// may restart the server at a step. With "-" as SCENARIO, the lines of the standard input,
// "SCENARIO URL TRANSPORTS", name scenarios that run one after another.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import vm from "node:vm";

const [scenario, firstUrl, transports, build] = process.argv.slice(2);
export let url = firstUrl;
const require = createRequire(import.meta.url);

// Classic scripts share the global scope, as in a browser.
const load = (name) => {
  const script = new URL(`../../webpy_socketio/static/${name}`, import.meta.url);
  vm.runInThisContext(readFileSync(script, "utf8"), { filename: script.pathname });
};
if (build === "browser") {
  // Globals of browsers that Node.js lacks, from the packages that the client uses on Node.js.
  globalThis.XMLHttpRequest = require("xmlhttprequest-ssl").XMLHttpRequest;
  globalThis.WebSocket = require("ws");
  globalThis.FileReader = class {
    async readAsDataURL(blob) {
      this.result = `data:;base64,${Buffer.from(await blob.arrayBuffer()).toString("base64")}`;
      this.onload();
    }
  };
  load("socket.io.min.js");
} else {
  globalThis.io = require("socket.io-client");
}
const STATIC = "../../webpy_socketio/static";
export const { withChannels } = build === "module" ? await import(`${STATIC}/webpy_socketio.mjs`) : {};
if (!withChannels) load("webpy_socketio.js");

// A socket that connects when connect() is called, as new io.Socket() of the classic script.
export const create = (uri, options) =>
  withChannels
    ? withChannels(io(uri, { ...options, autoConnect: false, forceNew: true }))
    : new io.Socket(uri, options);

export const OPTIONS = { transports: transports.split(","), reconnectionDelay: 20, reconnectionDelayMax: 200 };
if (build === "msgpack") OPTIONS.parser = require("socket.io-msgpack-parser");

export const report = (step, values = {}) => process.stdout.write(JSON.stringify({ step, ...values }) + "\n");

export const open = new Set();
export const newSocket = (options = {}) => {
  const socket = create(url, { ...OPTIONS, ...options });
  open.add(socket);
  return socket;
};
export const next = (emitter, event) => new Promise((resolve) => emitter.once(event, (...args) => resolve(args)));
export const connected = async (options) => {
  const socket = newSocket(options);
  const connect = next(socket, "connect");
  socket.connect();
  await connect;
  return socket;
};
// Read at "open": on a fast machine the upgrade completes before "connect".
export const firstTransport = (socket) =>
  new Promise((resolve) => socket.io.once("open", () => resolve(socket.io.engine.transport.name)));
export const asked = (socket, ...args) => new Promise((resolve) => socket.emit(...args, (...answer) => resolve(answer)));
export const sentTo = (socket, channel, data) => new Promise((resolve) => socket.sendTo(channel, data, resolve));
export const bytes = (data) => [...new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength)];

// Run the scenario that the command line names, or those of the standard input.
export async function run(scenarios) {
  if (scenario !== "-") return runOne(scenarios[scenario]);
  for await (const line of createInterface({ input: process.stdin })) {
    const [name, nextUrl, nextTransports] = line.split(" ");
    url = nextUrl;
    OPTIONS.transports = nextTransports.split(",");
    await runOne(scenarios[name]);
  }
}

async function runOne(run) {
  const { error } = console;
  await run();
  console.error = error; // scenarios may replace it
  report("end");
  for (const socket of open) {
    socket.disconnect();
    socket.sendBuffer.length = 0; // the classic script warns of a socket that sends later
  }
  open.clear();
}
