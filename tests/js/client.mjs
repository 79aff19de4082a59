// Scenarios for the stock client with the channel extension, run by tests/test_js_client.py.
//
//   node client.mjs SCENARIO URL TRANSPORTS BUILD
//
// TRANSPORTS is "polling", "websocket" or "polling,websocket"; BUILD is "node", the client as Node.js
// programs use it, or "browser", the minified script that pages load.
//
// A scenario reports one JSON object per line: {"step": ..., ...}. The test compares the reports and
// restarts the server at the step "ready".

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import vm from "node:vm";

const [scenario, url, transports, build] = process.argv.slice(2);
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
load("webpy_socketio.js");

const OPTIONS = { transports: transports.split(","), reconnectionDelay: 20, reconnectionDelayMax: 200 };

const report = (step, values = {}) => process.stdout.write(JSON.stringify({ step, ...values }) + "\n");

const open = new Set();
const newSocket = (options = {}) => {
  const socket = new io.Socket(url, { ...OPTIONS, ...options });
  open.add(socket);
  return socket;
};
const next = (emitter, event) => new Promise((resolve) => emitter.once(event, (...args) => resolve(args)));
const connected = async (options) => {
  const socket = newSocket(options);
  const connect = next(socket, "connect");
  socket.connect();
  await connect;
  return socket;
};
// Read at "open": on a fast machine the upgrade completes before "connect".
const firstTransport = (socket) =>
  new Promise((resolve) => socket.io.once("open", () => resolve(socket.io.engine.transport.name)));
const asked = (socket, ...args) => new Promise((resolve) => socket.emit(...args, (...answer) => resolve(answer)));
const sentTo = (socket, channel, data) => new Promise((resolve) => socket.sendTo(channel, data, resolve));
const bytes = (data) => [...new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength)];

const members = (presence) => Object.fromEntries([...presence.members].sort());
const change = (presence) =>
  new Promise((resolve) => {
    const listener = (what) => {
      presence.off("change", listener);
      resolve(what);
    };
    presence.on("change", listener);
  });
const until = async (presence, condition) => {
  while (!condition(presence)) await change(presence);
};

const scenarios = {
  async connect() {
    const socket = newSocket();
    report("made", { connected: socket.connected, active: socket.active, stock: socket instanceof io.Socket });
    const connect = next(socket, "connect");
    const first = firstTransport(socket);
    socket.connect();
    await connect;
    report("connected", { id: typeof socket.id, transport: await first });
    const [reason] = await Promise.all([next(socket, "disconnect"), socket.disconnect()]);
    report("disconnected", { reason: reason[0], connected: socket.connected });
  },

  async stock() {
    const socket = io(url, OPTIONS); // connects automatically
    open.add(socket);
    await next(socket, "connect");
    const other = new io.Socket(`${url}/other`, OPTIONS); // with io(), both namespaces would share a connection
    report("io", { subscribed: await socket.subscribe("room-1"), apart: other.io !== socket.io, waits: !other.active });
  },

  async messages() {
    const socket = await connected();
    for (const message of ["text", "שלום 🙂", 7, null, { nested: [1, { deep: true }] }, "__subscribe__"]) {
      const [answer] = await Promise.all([next(socket, "message"), socket.send(message)]);
      report("echo", { answer });
    }
    report("acknowledged", { answer: await asked(socket, "add", 2, 3) });
    report("several", { answer: await asked(socket, "pair") });
    report("none", { answer: await asked(socket, "nothing") });
    report("emitWithAck", { answer: await socket.timeout(20000).emitWithAck("add", 20, 22) });
    socket.on("question", (number, answer) => answer(number * 2));
    const [answered] = await Promise.all([next(socket, "answered"), socket.emit("ask me", 21)]);
    report("called", { answer: answered });
  },

  async binary() {
    const socket = await connected();
    const data = Uint8Array.from([0, 1, 30, 127, 128, 255]);
    const [[message], [answer]] = await Promise.all([next(socket, "reversed"), asked(socket, "reverse", data)]);
    report("bytes", { event: bytes(message), acknowledgement: bytes(answer) });
    const [nested] = await asked(socket, "reverse all", { parts: [data, Uint8Array.from([9, 8])], text: "kept" });
    report("nested", { parts: nested.parts.map(bytes), text: nested.text });
  },

  // Bytes as base64 in text, on the final transport of the session.
  async base64() {
    const socket = newSocket({ forceBase64: true });
    const last = OPTIONS.transports.at(-1);
    const ready = next(socket.io, "open").then(() =>
      socket.io.engine.transport.name === last ? null : next(socket.io.engine, "upgrade")
    );
    socket.connect();
    await ready;
    const data = Uint8Array.from([0, 1, 30, 127, 128, 255]);
    const [[message], [answer]] = await Promise.all([next(socket, "reversed"), asked(socket, "reverse", data)]);
    report("bytes", {
      transport: socket.io.engine.transport.name,
      event: bytes(message),
      acknowledgement: bytes(answer),
    });
  },

  // Messages in both directions during the upgrade.
  async upgrade() {
    const socket = newSocket();
    const [sent, received] = [[], []];
    const send = () => socket.send(sent.push(sent.length) - 1);
    socket.on("message", (number) => received.push(number));
    const first = firstTransport(socket);
    const upgraded = next(socket.io, "open").then(() => next(socket.io.engine, "upgrade"));
    socket.connect();
    report("first", { transport: await first });
    for (let count = 0; count < 100; count++) send(); // buffered until connected, then sent during the upgrade
    const trickle = setInterval(send, 0);
    await upgraded;
    clearInterval(trickle);
    for (let count = 0; count < 100; count++) send();
    const [server] = await asked(socket, "numbers"); // answered after all echoes
    report("second", { transport: socket.io.engine.transport.name });
    report("order", { sent, server, received });
  },

  async channels() {
    const socket = await connected();
    const calls = [];
    report("subscribed", { answer: await socket.subscribe("room-1", (answer) => calls.push(answer)), channels: socket.channels, calls });
    report("again", { answer: await socket.subscribe("room-1"), channels: socket.channels });
    report("refused", { answer: await socket.subscribe("private-1"), channels: socket.channels });
    report("bad name", { answer: await socket.subscribe(""), channels: socket.channels });
    const [message] = await Promise.all([next(socket, "message"), sentTo(socket, "room-1", "hello").then((answer) => report("sent", { answer }))]);
    report("received", { message: message[0] });
    report("not there", { answer: await sentTo(socket, "room-2", "hello") });
    const both = await Promise.all([socket.subscribe("room-2"), socket.unsubscribe("room-2"), socket.subscribe("room-2")]);
    report("sequence", { answers: both, channels: socket.channels });
    report("off", { answer: await socket.unsubscribe("room-1"), channels: socket.channels });
    report("not there any more", { answer: await sentTo(socket, "room-1", "hello") });
    report("not subscribed", { ok: (await socket.unsubscribe("room-9")).ok });
  },

  async early() {
    const socket = newSocket();
    const subscription = socket.subscribe("room-1"); // before connect()
    socket.subscribe("room-2");
    const left = await socket.unsubscribe("room-2");
    const sent = sentTo(socket, "room-1", "early");
    report("waiting", { channels: socket.channels, left });
    socket.connect();
    report("kept", { subscription: await subscription, sent: await sent, channels: socket.channels });
  },

  async restart() {
    const socket = await connected();
    const answers = {};
    // The page's handlers run before those of the extension.
    socket.on("connect", () => sentTo(socket, "room-1", "connect handler").then((answer) => (answers.handler = answer)));
    socket.on("disconnect", () => sentTo(socket, "room-1", "disconnect handler").then((answer) => (answers.buffered = answer)));
    await socket.subscribe("room-1");
    await socket.subscribe("room-2");
    await socket.unsubscribe("room-2");
    await socket.subscribe("once");
    const refused = next(socket, "subscribe_error");
    const lost = next(socket, "disconnect");
    report("ready");
    const [reason] = await lost;
    report("lost", { reason, channels: socket.channels, active: socket.active });
    const late = await Promise.all([socket.subscribe("room-3"), next(socket, "connect")]);
    const [channel, error] = await refused;
    await asked(socket, "nothing"); // answered in order, after all earlier events
    report("back", { answers, late: late[0], channels: socket.channels, refused: { channel, error } });
    report("where", { answer: await asked(socket, "where") });
  },

  // With the client's queue of unacknowledged packets (retries): subscriptions bypass it.
  async queue() {
    const socket = await connected({ retries: 3, ackTimeout: 20000 });
    const sent = new Promise((resolve) => {
      socket.once("disconnect", () => socket.sendTo("room-1", "queued", (error, answer) => resolve({ error, answer })));
    });
    await socket.subscribe("room-1");
    report("ready");
    report("sent", await sent);
  },

  async cleanup() {
    const socket = await connected();
    await socket.subscribe("room-1");
    socket.off(); // as pages do on cleanup
    const lost = new Promise((resolve) => socket.io.once("close", resolve));
    report("ready");
    await lost;
    await next(socket, "connect");
    report("where", { answer: await asked(socket, "where"), channels: socket.channels });
  },

  // Options of the client that change the arguments of acknowledgement callbacks.
  async options() {
    for (const options of [{ ackTimeout: 20000 }, { ackTimeout: 20000, retries: 2 }]) {
      const socket = await connected(options);
      report("subscribed", { answer: await socket.subscribe("room-1"), refused: await socket.subscribe("private-1") });
      report("unsubscribed", { answer: await socket.unsubscribe("room-1"), channels: socket.channels });
    }
    const socket = newSocket({ ackTimeout: 1 });
    const subscription = socket.subscribe("room-1");
    await new Promise((resolve) => socket.emit("nothing", resolve)); // the page's own event times out
    socket.connect();
    report("outlived", { answer: await subscription });
  },

  async presence() {
    const [anna, ben] = [newSocket({ auth: { name: "anna" } }), newSocket({ auth: { name: "ben" } })];
    const here = anna.presence("room-1");
    report("one tracker", { same: here === anna.presence("room-1"), channel: here.channel, count: here.count });
    anna.connect();
    anna.subscribe("room-1");
    await until(here, () => here.members.has("anna"));
    report("alone", { members: members(here), count: here.count });
    ben.connect();
    const joined = change(here);
    await ben.subscribe("room-1");
    report("joined", await joined);
    await asked(ben, "nothing");
    const there = ben.presence("room-1"); // created after the state arrived: requests it
    await until(there, () => there.count === 2);
    report("late tracker", { members: members(there) });
    const tab = await connected({ auth: { name: "ben" } });
    const updated = change(here);
    await tab.subscribe("room-1");
    report("second tab", await updated);
    const closed = change(here);
    tab.disconnect();
    report("tab closed", await closed);
    const left = change(here);
    await ben.unsubscribe("room-1");
    report("left", await left);
    report("own view", { members: members(there), count: there.count });
  },

  // A lost diff. A network cannot lose a single packet, so the client drops it on arrival.
  async gap() {
    const anna = await connected({ auth: { name: "anna" } });
    const here = anna.presence("room-1");
    anna.subscribe("room-1");
    await until(here, () => here.members.has("anna"));
    const onevent = anna.onevent;
    const dropped = new Promise((resolve) => {
      anna.onevent = function (packet) {
        if (packet.data[0] !== "presence_diff" || !("ben" in packet.data[1].joins)) return onevent.call(this, packet);
        anna.onevent = onevent;
        resolve();
      };
    });
    const ben = await connected({ auth: { name: "ben" } });
    await ben.subscribe("room-1");
    await dropped;
    report("missed", { members: Object.keys(members(here)) });
    const cleo = await connected({ auth: { name: "cleo" } });
    await cleo.subscribe("room-1");
    await until(here, () => here.count === 3);
    report("recovered", { members: Object.keys(members(here)) });
  },

  async comeback() {
    const anna = await connected({ auth: { name: "anna" } });
    const ben = await connected({ auth: { name: "ben" }, reconnection: false });
    const here = anna.presence("room-1");
    anna.subscribe("room-1");
    ben.subscribe("room-1");
    await until(here, () => here.count === 2);
    const lost = next(anna, "disconnect");
    report("ready");
    await lost;
    report("kept", { members: Object.keys(members(here)) });
    const left = await change(here);
    report("back", { left, members: Object.keys(members(here)) });
  },
};

await scenarios[scenario]();
report("end");
for (const socket of open) socket.disconnect();
