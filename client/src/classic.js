/*
 * webpy_socketio: channels and presence for the stock Socket.IO client.
 *
 * Load it after socket.io.min.js; data-path is the path of the server's Socket.IO resource:
 *
 *   <script src="/socket.io/socket.io.min.js"></script>
 *   <script src="/socket.io/webpy_socketio.js" data-path="/socket.io"></script>
 *
 *   const socket = new io.Socket();                  // connect with socket.connect()
 *   socket.subscribe(channel[, callback])            // -> Promise of {ok: true} or {ok: false, error, data}
 *   socket.subscribe(channel, {history: 50})         // with the last messages; needs the plugin history
 *   socket.unsubscribe(channel[, callback])          // -> the same
 *   socket.sendTo(channel, data[, callback])         // message to a subscribed channel
 *   socket.channels                                  // names confirmed by the server
 *   socket.presence(channel)                         // members of a channel; see Presence below
 *   socket.on("subscribe_error", (channel, error, data) => ...)   // rejected after a reconnect
 *   socket.on("history_gap", (channel) => ...)                    // messages are missing
 *   socket.on("unconfirmed", (events) => ...)                     // sent, may not have arrived
 *
 * The methods are added to the stock Socket.prototype, so sockets returned by io() have them too.
 * Without a connection, subscribe() is queued. After a reconnect, every channel is subscribed again
 * before any other packet is sent.
 */

import { logOnce, watchPolicy } from "./diagnostics.js";
import { addMethods } from "./methods.js";

// Milliseconds after which a socket with queued packets should have called connect().
const CONNECT_REMINDER_DELAY = 5000;

/** Warn about a socket that sends without connect(); stock sockets connect automatically. */
function warnUnconnected(socket) {
  const timer = setTimeout(() => {
    if (!socket.active && socket.sendBuffer.length) {
      logOnce("packets are queued until the socket connects: call connect() on a new io.Socket()");
    }
  }, CONNECT_REMINDER_DELAY);
  if (timer.unref) timer.unref(); // do not keep Node.js running
  return socket;
}

/** Extend the global `io`; `path` is that of the Socket.IO resource on the page's server. */
function extend(io, path) {
  const Stock = io.Socket;
  addMethods(Stock.prototype, path);
  watchPolicy(path);

  /** new io.Socket(uri, options): a stock socket that connects when connect() is called. */
  function Socket(uri, options, ...rest) {
    if (uri instanceof io.Manager) return new Stock(uri, options, ...rest);
    if (uri && typeof uri === "object") return Socket(undefined, uri);
    // autoConnect is an option of the Manager, which must not be shared with sockets of io().
    const settings = { path, ...options, autoConnect: false, forceNew: true };
    return warnUnconnected(io(uri || undefined, settings));
  }
  Socket.prototype = Stock.prototype; // for instanceof
  io.Socket = Socket;
}

if (typeof io === "undefined" || !io.Manager) {
  throw new Error(
    "webpy_socketio.js needs the Socket.IO client 4: " +
      "load socket.io.min.js before it, as socketio_scripts() does"
  );
}
if (!io.Socket.prototype.subscribe) {
  const script = typeof document === "undefined" ? null : document.currentScript;
  extend(io, (script && script.dataset.path) || "/socket.io");
}
