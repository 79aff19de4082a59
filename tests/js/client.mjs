// Scenarios for the stock client with the channel extension, run by tests/integration/test_js_client.py.
//
//   node client.mjs SCENARIO URL TRANSPORTS BUILD
//
// See setup.mjs for the arguments. The test restarts the server at the step "ready".

import {
  OPTIONS, asked, bytes, connected, create, firstTransport, newSocket, next, open, report, run, sentTo, url, withChannels,
} from "./setup.mjs";

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
    let socket = io(url, OPTIONS); // connects automatically
    if (withChannels) socket = withChannels(socket);
    open.add(socket);
    await next(socket, "connect");
    const other = create(`${url}/other`, OPTIONS); // with io(), both namespaces would share a connection
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
    const [all] = await Promise.all([next(socket, "answered"), socket.emit("ask all", 21)]);
    report("called all", { answer: all });
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

  // The client puts the query of a namespace into the handshake, and not into the name.
  async namespaces() {
    const manager = new io.Manager(url, { ...OPTIONS, query: { token: "secret" } });
    const [one, two] = [io(`${url}/tenant-1?token=secret`, { ...OPTIONS, forceNew: true }), manager.socket("/tenant-2")];
    open.add(one).add(two);
    await Promise.all([next(one, "connect"), next(two, "connect")]);
    report("tenants", { one: await asked(one, "tenant"), two: await asked(two, "tenant") });
    console.error = () => {}; // the classic script explains the rejection
    const unknown = manager.socket("/tenant-x");
    open.add(unknown);
    const [error] = await next(unknown, "connect_error");
    report("unknown", { message: error.message, active: unknown.active });
    const [received] = await Promise.all([next(two, "message"), one.emit("tell", "/tenant-2", "hello")]);
    report("told", { received });
  },

  // socket.disconnect(close=True) on the server, in one of two namespaces of a connection.
  async closed() {
    const manager = new io.Manager(url, OPTIONS);
    const [one, two] = [manager.socket("/"), manager.socket("/tenant-1")];
    await Promise.all([next(one, "connect"), next(two, "connect")]);
    const attempts = [];
    manager.on("reconnect_attempt", (number) => attempts.push(number));
    const lasts = Promise.all([next(one, "message"), next(two, "message")]);
    const reasons = Promise.all([next(one, "disconnect"), next(two, "disconnect")]);
    const engine = next(manager.engine, "close");
    one.emit("close all");
    const [[first], [second]] = await lasts;
    report("messages", { first, second });
    report("reasons", { reasons: (await reasons).map(([reason]) => reason), active: [one.active, two.active] });
    await engine;
    await new Promise((resolve) => setTimeout(resolve, 10 * OPTIONS.reconnectionDelayMax / 4)); // a reconnection would start
    report("over", { attempts, connected: [one.connected, two.connected] });
    open.add(one).add(two);
    await Promise.all([next(one, "connect"), one.connect()]); // explicitly
  },

  // Rejections with data: of a connection, a subscription, its renewal, and a message.
  async refusals() {
    const rejected = newSocket({ auth: { name: "nobody" } });
    const [[error]] = await Promise.all([next(rejected, "connect_error"), rejected.connect()]);
    report("connection", { message: error.message, data: error.data, active: rejected.active });
    const socket = await connected();
    report("subscription", { answer: await socket.subscribe("data-1") });
    report("message", { answer: await asked(socket, "guarded") });
    await socket.subscribe("once");
    const renewal = next(socket, "subscribe_error");
    report("ready");
    report("renewal", { args: await renewal });
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

  async recovery() {
    const socket = await connected();
    const seen = [];
    socket.on("n", (...args) => seen.push(args));
    socket.on("text", (...args) => seen.push(args));
    const any = [];
    socket.onAny((...args) => args[0].startsWith("history_") || any.push(args));
    await socket.subscribe("room");
    await socket.subscribe("left");
    await asked(socket, "speak");
    await socket.subscribe("stored", { history: 10 });
    const stored = next(socket, "stored");
    await asked(socket, "store", "first");
    report("stored", { args: await stored });
    for (let round = 0; round < 2; round++) {
      const [lost, back] = [next(socket, "disconnect"), next(socket, "connect")];
      socket.io.engine.transport.ws.terminate();
      await lost;
      socket.unsubscribe("left");
      await back;
    }
    report("recovered", { recovered: socket.recovered, where: await asked(socket, "where"), seen, any });
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

  async history() {
    const [socket, other] = [await connected(), await connected()];
    const [messages, gaps] = [[], []];
    socket.on("history_gap", (channel) => gaps.push(channel));
    let arrived = () => {};
    socket.on("message", (message) => arrived(messages.push(message)));
    const arrival = (message) => new Promise((resolve) => {
      (arrived = () => messages.at(-1) === message && resolve())();
    });
    await asked(other, "publish", ["one", "two", "three"]);
    report("subscribed", { answer: await socket.subscribe("log-1", { history: 2 }) });
    await asked(other, "publish", ["four"]);
    await arrival("four");
    report("received", { messages });
    const lost = next(socket, "disconnect");
    socket.io.engine.close();
    await Promise.all([lost, asked(other, "publish", ["five", "six"])]);
    await arrival("six");
    report("continued", { messages, gaps, channels: socket.channels });
    report("again", { answer: await socket.subscribe("log-1", { history: 2 }) });
    const logged = [];
    console.error = (text) => logged.push(text);
    report("without", { answer: await socket.subscribe("room-1", { history: 2 }), logged });
    report("refused", { answer: await socket.subscribe("log-private", { history: 2 }) });
    report("off", { answer: await socket.unsubscribe("log-1") });
    await asked(other, "publish", ["seven", "eight", "nine"]);
    report("anew", { answer: await socket.subscribe("log-1", { history: 1 }) });
    await arrival("nine");
    await socket.unsubscribe("room-1");
    const gap = next(socket, "history_gap");
    report("ready"); // the store in memory is lost
    report("gap", { args: await gap });
    if (!other.connected) await next(other, "connect");
    await asked(other, "publish", ["ten"]);
    await arrival("ten");
    report("end of history", { messages });
  },
};

await run(scenarios);
