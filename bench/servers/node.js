// Socket.IO on Node.js, with ws: node --expose-gc node.js [port [handlers [redis]]]
"use strict";

const { createServer } = require("node:http");
const { Server } = require("socket.io");
const attach = require("./handlers.js");

const [port = 0, handlers = 1, redis] = process.argv.slice(2);
const http = createServer();
// The value of the option as JSON.
const perMessageDeflate = JSON.parse(process.env.BENCH_COMPRESSION ?? "false");
const io = new Server(http, { serveClient: false, perMessageDeflate });
attach(io, handlers, globalThis.gc);

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
