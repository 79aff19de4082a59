// A stock client that echoes messages over a WebSocket.
// Run by tests/integration/test_compression_clients.py.
//
//   node compression.mjs URL OPTIONS
//
// OPTIONS is JSON, the value of transportOptions.websocket.perMessageDeflate; "default" for none.
// Reports one JSON object: the accepted extension, whether all messages came back unchanged, and the
// bytes that the connection has read and written.

import { io } from "socket.io-client";

const [url, given] = process.argv.slice(2);
const transportOptions = given === "default" ? {} : { websocket: { perMessageDeflate: JSON.parse(given) } };
const socket = io(url, { transports: ["websocket"], transportOptions });

const text = JSON.stringify(Array.from({ length: 2000 }, (_, id) => ({ id, text: `message ${id}` })));
const messages = ["short", text, { text, data: Buffer.alloc(50_000, "abcdefgh") }, text.repeat(5), "grüße ".repeat(500)];
const echo = (message) =>
  new Promise((resolve) => {
    socket.once("message", resolve);
    socket.emit("message", message);
  });

await new Promise((resolve) => socket.once("connect", resolve));
let unchanged = true;
for (const message of messages) {
  unchanged &&= JSON.stringify(await echo(message)) === JSON.stringify(message);
}
const { ws } = socket.io.engine.transport;
const { bytesRead, bytesWritten } = ws._socket;
process.stdout.write(`${JSON.stringify({ extensions: ws.extensions, unchanged, bytesRead, bytesWritten })}\n`);
socket.disconnect();
