// Scenarios of messages that are sent around a loss, run by tests/integration/test_receipts_js.py.
//
//   node receipts.mjs SCENARIO URL TRANSPORTS BUILD
//
// See setup.mjs for the arguments.

import { connected, newSocket, next, report, run } from "./setup.mjs";

const asked = (socket, ...args) => socket.emitWithAck(...args);
const wire = (socket) => socket.io.engine.transport.ws;

// Packets of the client do not arrive any more. The client does not notice it.
const mute = (socket) => {
  wire(socket).send = (data, ...rest) => rest.at(-1) instanceof Function && rest.at(-1)();
};
// Packets of the server do not arrive any more.
const deafen = (socket) => {
  wire(socket).onmessage = () => {};
};
// Destroys the TCP connection: no close frame is sent.
const cut = async (socket) => {
  const lost = next(socket, "disconnect");
  wire(socket).terminate();
  await lost;
};
// The socket connects again when the scenario calls connect(). The tests share the server.
const pair = async () => {
  const other = await connected();
  await asked(other, "reset");
  return [await connected({ reconnection: false }), other];
};
const reconnect = async (socket) => {
  const connect = next(socket, "connect");
  socket.connect();
  await connect;
};
// The names of the events that the socket sends from now on, as they are on the wire.
const sentEvents = (socket) => {
  const events = [];
  const { encoder } = socket.io;
  const { encode } = encoder;
  encoder.encode = (packet) => {
    if (packet.type === 2) events.push(packet.data[0]);
    return encode.call(encoder, packet);
  };
  return events;
};
const failure = (promise) => promise.then(() => "answered", (error) => error.message);

const scenarios = {
  async lost() {
    const [socket, other] = await pair();
    const outgoing = [];
    socket.onAnyOutgoing((...event) => outgoing.push(event[1]));
    await asked(socket, "add", "before");
    mute(socket);
    socket.emit("add", "one");
    const answer = socket.emitWithAck("add", { bytes: Buffer.from([1, 2]) });
    socket.emit("add", "three");
    await cut(socket);
    socket.emit("add", "four");
    await reconnect(socket);
    socket.emit("add", "five");
    report("arrived", { seen: await asked(other, "wait", 6), recovered: socket.recovered });
    report("answered", { answer: await answer, outgoing: outgoing.length });
  },

  async arrived() {
    const [socket, other] = await pair();
    deafen(socket);
    const answers = [socket.emitWithAck("add", "one"), socket.emitWithAck("later", "two")];
    socket.emit("add", "three");
    answers.push(socket.emitWithAck("add", "four"));
    await asked(other, "wait", 4);
    await cut(socket);
    await reconnect(socket);
    answers.push(socket.emitWithAck("add", "five"));
    await answers[2];
    await asked(other, "release");
    report("answered", { answers: await Promise.all(answers), seen: await asked(other, "wait", 5) });
  },

  // The answer is sent while the client is away.
  async away() {
    const [socket, other] = await pair();
    deafen(socket);
    const answer = socket.emitWithAck("later", "one");
    await asked(other, "wait", 1);
    await cut(socket);
    await asked(other, "suspended");
    await asked(other, "release");
    await reconnect(socket);
    report("answered", { answer: await answer, seen: await asked(other, "wait", 1) });
  },

  async twice() {
    const [socket, other] = await pair();
    const answer = socket.emitWithAck("add", 0);
    await answer;
    const answers = [];
    for (let round = 0; round < 6; round++) {
      if (round % 2) mute(socket);
      else deafen(socket);
      for (let each = 1; each <= 5; each++) answers.push(socket.emitWithAck("add", 10 * round + each));
      if (!(round % 2)) await asked(other, "wait", 1 + 5 * (round + 1));
      await cut(socket);
      if (round === 3) await asked(other, "suspended");
      await reconnect(socket);
      if (round % 2) await asked(other, "wait", 1 + 5 * (round + 1));
    }
    report("each once", { seen: await asked(other, "wait", 31), answers: await Promise.all(answers) });
  },

  async forgotten() {
    const [socket, other] = await pair();
    const unconfirmed = [];
    socket.on("unconfirmed", (events) => unconfirmed.push(...events));
    const deferred = failure(socket.emitWithAck("later", "confirmed"));
    await asked(socket, "add", "answered");
    deafen(socket);
    socket.emit("add", "arrived");
    await asked(other, "wait", 3);
    mute(socket);
    socket.emit("add", "lost");
    const answer = failure(socket.emitWithAck("add", "lost too"));
    await cut(socket);
    const waiting = failure(socket.emitWithAck("add", "buffered"));
    await asked(other, "suspended");
    await asked(other, "forget");
    await reconnect(socket);
    const outcome = { recovered: socket.recovered, answers: [await deferred, await answer, await waiting] };
    report("not repeated", { ...outcome, seen: (await asked(other, "wait", 4)).slice(2), unconfirmed });
    const again = await asked(socket, "add", "numbered anew");
    report("anew", { again, seen: (await asked(other, "wait", 5)).slice(2) });
  },

  async kicked() {
    const [socket, other] = await pair();
    const unconfirmed = next(socket, "unconfirmed");
    await asked(socket, "add", "first");
    mute(socket);
    socket.emit("add", "lost");
    const answer = failure(socket.emitWithAck("add", "lost too"));
    const reason = next(socket, "disconnect");
    await asked(other, "kick");
    report("disconnected", { reason: (await reason)[0], answer: await answer, unconfirmed: await unconfirmed });
    await reconnect(socket);
    await asked(socket, "add", "second");
    report("again", { seen: await asked(other, "wait", 2) });
  },

  async confirmed() {
    const [socket, other] = await pair();
    let confirmations = 0;
    socket.io.on("packet", ({ data }) => (confirmations += data[0] === "__received__"));
    const any = [];
    socket.onAny((event) => any.push(event));
    for (let number = 0; number < 200; number++) socket.emit("add", number);
    await asked(other, "wait", 200);
    while (confirmations < 4) await new Promise((resolve) => socket.io.once("packet", resolve));
    await cut(socket);
    const events = sentEvents(socket);
    await reconnect(socket);
    await asked(socket, "add", 200);
    const seen = await asked(other, "wait", 201);
    report("nothing repeated", { confirmations, sent: events, count: seen.length, any });
  },

  async plain() {
    await pair();
    const socket = newSocket({ reconnection: false, retries: 3, ackTimeout: 20000 });
    const events = sentEvents(socket);
    await reconnect(socket);
    await asked(socket, "add", "retried");
    socket.volatile.emit("add", "volatile");
    await socket.subscribe("room");
    report("not numbered", { events: [...events], seen: await asked(socket, "wait", 2) });
  },

  async timeout() {
    const [socket, other] = await pair();
    await asked(socket, "add", "first");
    mute(socket);
    const answer = await failure(socket.timeout(10).emitWithAck("add", "given up"));
    socket.emit("add", "second");
    await cut(socket);
    await reconnect(socket);
    report("timed out", { answer, seen: await asked(other, "wait", 2) });
  },

  // The subscription and the message to the channel are lost together; then both ends of one.
  async order() {
    const [socket, other] = await pair();
    await asked(socket, "add", "first");
    mute(socket);
    const subscribed = socket.subscribe("room");
    socket.sendTo("room", "hello");
    await cut(socket);
    await reconnect(socket);
    report("subscribed first", { answer: await subscribed, seen: await asked(other, "wait", 2) });
    mute(socket);
    socket.sendTo("room", "bye");
    const unsubscribed = socket.unsubscribe("room");
    await cut(socket);
    await reconnect(socket);
    report("unsubscribed last", { answer: await unsubscribed, seen: await asked(other, "wait", 3) });
    report("left", { where: await asked(socket, "where") });
  },

  async limit() {
    const [socket, other] = await pair();
    await asked(socket, "add", 0);
    const logged = [];
    console.error = (text) => logged.push(text);
    mute(socket);
    for (let number = 1; number <= 4100; number++) socket.emit("add", number);
    await cut(socket);
    await reconnect(socket);
    const seen = await asked(other, "wait", 4097);
    report("newest", { count: seen.length, first: seen[1], last: seen.at(-1), logged });
  },

  async evicted() {
    const [socket, other] = await pair();
    deafen(socket);
    const answers = Array.from({ length: 70 }, (_, number) => socket.emitWithAck("add", number));
    await asked(other, "wait", 70);
    await cut(socket);
    await reconnect(socket);
    const results = await Promise.all(answers.map(failure));
    const failed = results.filter((result) => result !== "answered");
    report("answers", { failed, count: results.length, seen: (await asked(other, "wait", 70)).length });
  },

  async off() {
    const [socket, other] = await pair();
    const events = sentEvents(socket);
    await asked(socket, "add", "one");
    mute(socket);
    socket.emit("add", "lost");
    const answer = failure(socket.emitWithAck("add", "lost too"));
    await cut(socket);
    socket.emit("add", "buffered");
    await reconnect(socket);
    report("as the stock client", { events, answer: await answer, seen: await asked(other, "wait", 2) });
  },
};

await run(scenarios);
