// The stock client loses its connection, run by tests/integration/test_recovery_js.py.
//
//   node recovery.mjs URL
//
// Reports one JSON object per line: {"step": ..., ...}.

import { io } from "socket.io-client";

const socket = io(process.argv[2], {
  transports: ["websocket"],
  reconnectionDelay: 10,
  reconnectionDelayMax: 50,
});

const report = (step, values = {}) => process.stdout.write(JSON.stringify({ step, ...values }) + "\n");
const next = (event) => new Promise((resolve) => socket.once(event, (...args) => resolve(args)));

const received = [];
socket.on("n", (number) => received.push(number));

// Destroys the TCP connection: no close frame is sent.
const cut = async () => {
  const connected = next("connect");
  socket.io.engine.transport.ws.terminate();
  await connected;
};
const settle = () => socket.emitWithAck("settle");

await next("connect");
const first = { id: socket.id, recovered: socket.recovered };
await cut();
await settle();
report("before the first event", {
  recovered: [first.recovered, socket.recovered],
  same: socket.id === first.id,
  received: received.splice(0),
});
await socket.emitWithAck("__subscribe__", "room");
for (let round = 0; round < 3; round++) {
  socket.emit("send", round);
  await cut();
  await settle();
}
report("several losses", { recovered: socket.recovered, received: received.splice(0) });
// The server sends while the connection is lost.
await socket.emitWithAck("send on suspend", 5);
await cut();
await settle();
report("missed", { recovered: socket.recovered, received: received.splice(0) });
socket.emit("forget me");
await next("disconnect");
socket.connect();
await next("connect");
report("ended", { recovered: socket.recovered, same: socket.id === first.id });
socket.disconnect();
report("end");
