// Scenarios of targets for the stock client, run by tests/integration/test_targets_js.py.
//
//   node targets.mjs SCENARIO URL TRANSPORTS BUILD SECOND_URL
//
// See setup.mjs for the arguments. Both servers share one Redis. The first server evaluates the
// target that an event "run" describes, such as [["to", "a"], ["emit", "news", 1]].

import { OPTIONS, asked, bytes, create, next, open, report, run, url } from "./setup.mjs";

const second = process.argv[6];

// A connected client, and the events that it has received.
async function member(server, channels = [], namespace = "") {
  const socket = create(server + namespace, OPTIONS);
  open.add(socket);
  socket.received = [];
  socket.onAny((event, ...args) => event === "end" || socket.received.push([event, ...args]));
  socket.on("question", (number, answer) => answer(2 * number));
  const connect = next(socket, "connect");
  socket.connect();
  await connect;
  for (const channel of channels) await socket.subscribe(channel);
  return socket;
}

const target = async (driver, ...path) => (await asked(driver, "run", path))[0];

// Return what the clients have received. Their event "end" follows all earlier events.
async function received(driver, sockets) {
  const ends = sockets.map((socket) => next(socket, "end"));
  for (const namespace of ["/", "/chat"]) {
    await target(driver, ["everyone"], ["namespace", namespace], ["emit", "end"]);
  }
  await Promise.all(ends);
  return sockets.map((socket) => socket.received.splice(0));
}

// Wait until the only socket of a target has these channels. Commands to other servers are not
// awaited.
async function described(driver, path, id, channels) {
  for (;;) {
    const [info] = await target(driver, ...path, ["sockets"]);
    if (info && info.id === id && info.channels.join() === channels.join()) return true;
  }
}

await run({
  async sockets() {
    const [near, far] = [await member(url, ["a"]), await member(second, ["a"])];
    const [other, chat] = [await member(second), await member(second, [], "/chat")];
    const all = [near, far, other, chat];
    await target(near, ["to_sockets", far.id, chat.id, "unknown"], ["emit", "news", 1]);
    await target(near, ["to_sockets", near.id], ["send", "to itself"]);
    report("ids", { received: await received(near, all) });
    await target(near, ["to", "a"], ["to_sockets", far.id, other.id], ["send", "one copy"]);
    await target(near, ["to_sockets", far.id, other.id], ["except_", "a"], ["send", "not to a"]);
    await target(near, ["to_sockets", near.id, far.id], ["local"], ["send", "local"]);
    report("combined", { received: await received(near, all) });
    const [[data]] = await Promise.all([next(chat, "data"), asked(near, "send bytes", chat.id)]);
    report("bytes", { data: bytes(data) });
    const call = await target(near, ["to_sockets", far.id, chat.id], ["call", "question", 21]);
    report("call", { call });
    const single = ["to_sockets", other.id];
    await target(near, single, ["subscribe", "b"]);
    report("subscribed", { found: await described(near, [single], other.id, ["b"]) });
    await target(near, single, ["unsubscribe", "b"]);
    report("unsubscribed", { found: await described(near, [single], other.id, []) });
    const [[reason]] = await Promise.all([
      next(other, "disconnect"), target(near, single, ["disconnect"]),
    ]);
    report("disconnected", { reason, connected: all.map((socket) => socket.connected) });
  },

  async targets() {
    const [near, far] = [await member(url, ["a"]), await member(second, ["a", "b"])];
    const [muted, chat] = [await member(second, ["a", "muted"]), await member(second, [], "/chat")];
    const all = [near, far, muted, chat];
    await target(near, ["to", "a", "b"], ["send", "one copy"]);
    await target(near, ["to", "a"], ["except_", "muted"], ["emit", "news", 1, "two"]);
    await target(near, ["everyone"], ["local"], ["send", "local"]);
    await target(near, ["everyone"], ["namespace", "/chat"], ["send", "chat"]);
    report("functions", { received: await received(near, all) });
    await target(near, ["socket"], ["to", "a"], ["send", "to"]);
    await target(near, ["socket"], ["others"], ["except_", "muted"], ["send", "others"]);
    report("socket", { received: await received(near, all) });
    report("call", { call: await target(near, ["to", "a"], ["call", "question", 21]) });
    await target(near, ["to", "b"], ["subscribe", "c"]);
    await target(near, ["to", "b"], ["unsubscribe", "a"]);
    report("described", { found: await described(near, [["to", "c"]], far.id, ["b", "c"]) });
    const reasons = Promise.all([far, muted].map((socket) => next(socket, "disconnect")));
    await target(near, ["socket"], ["others"], ["disconnect", true]);
    report("disconnected", { reasons: (await reasons).map(([reason]) => reason), connected: near.connected });
  },

  // The client has not fetched the first message when the others are sent.
  async unfetched() {
    const near = await member(url);
    await asked(near, "burst");
    await target(near, ["everyone"], ["volatile"], ["send", "idle"]);
    report("received", { received: (await received(near, [near]))[0] });
  },

  // The client does not read, and the server has filled the buffers of its connection.
  async unread() {
    const [near, far] = [await member(url), await member(second)];
    near.io.engine.transport.ws.pause();
    const driver = await member(url);
    await asked(driver, "fill", near.id);
    for (const sender of [far, driver]) {
      await target(sender, ["to_sockets", near.id], ["volatile"], ["send", "dropped"]);
      await target(sender, ["everyone"], ["volatile"], ["send", "dropped too"]);
    }
    near.io.engine.transport.ws.resume();
    const texts = (await received(far, [near]))[0].map(([, text]) => text);
    report("received", { texts: texts.filter((text) => text !== texts[0]) });
  },

  async acknowledgement() {
    const near = await member(url);
    report("withheld", { answer: await asked(near, "withheld") });
    report("timeout", { answer: await asked(near, "late") });
  },
});
