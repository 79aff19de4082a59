// Socket.IO on Bun, with its own WebSockets: bun bun.js [port [handlers]]
"use strict";

const { Server } = require("socket.io");
const { Server: Engine } = require("@socket.io/bun-engine");
const attach = require("./handlers.js");

const [port = 0, handlers = 1] = process.argv.slice(2);
const io = new Server();
const engine = new Engine({ path: "/socket.io/" });
io.bind(engine);
attach(io, handlers, () => Bun.gc(true));

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(port),
  idleTimeout: 30, // seconds; must exceed the interval of pings, 25
  ...engine.handler(),
});
console.log(server.port);
