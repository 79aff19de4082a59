// Socket.IO on Node.js, with ws: node --expose-gc node.js [port [handlers [redis]]]
"use strict";

const { createServer } = require("node:http");
const { Server } = require("socket.io");

const [port = 0, handlers = 1, redis] = process.argv.slice(2);
const http = createServer();
const io = new Server(http, { serveClient: false });
const turn = () => new Promise(setImmediate);
let connected = 0;

async function go({ count, per_turn, size }, acknowledge) {
  const text = "x".repeat(size);
  for (let turns = count / per_turn; turns > 0; turns--) {
    for (let n = 0; n < per_turn; n++) io.to("bench").emit("message", text);
    await turn();
  }
  acknowledge();
}

io.on("connection", (socket) => {
  connected++;
  socket.on("disconnect", () => connected--);
  socket.on("__subscribe__", (channel, acknowledge) => {
    socket.join(channel);
    acknowledge({ ok: true });
  });
  socket.on("__unsubscribe__", (channel, acknowledge) => {
    socket.leave(channel);
    acknowledge({ ok: true });
  });
  socket.on("message", (message, acknowledge) => acknowledge(message));
  socket.on("go", go);
  socket.on("count", (nothing, acknowledge) => acknowledge(connected));
  socket.on("collect", (nothing, acknowledge) => {
    globalThis.gc();
    acknowledge();
  });
  for (let n = 1; n < handlers; n++) socket.on(`idle-${n}`, () => {});
});

async function listen() {
  if (redis) {
    const { createAdapter } = require("@socket.io/redis-adapter");
    const { createClient } = require("redis");
    const clients = [createClient({ url: redis }), createClient({ url: redis })];
    await Promise.all(clients.map((client) => client.connect()));
    io.adapter(createAdapter(...clients));
  }
  http.listen(Number(port), "127.0.0.1", 2048, () => console.log(http.address().port));
}

listen();
