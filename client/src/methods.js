/** The methods that a socket gets from this package. */

import { channels, restoreListeners } from "./channels.js";
import { explainConnectError } from "./diagnostics.js";
import { hideOffsets } from "./offsets.js";
import { numberMessages } from "./receipts.js";

// Event name reserved by the server.
const CHANNEL = "__channel__";

/** An exception of the callback becomes an unhandled rejection of the promise. */
function withCallback(promise, callback) {
  if (callback) promise.then(callback);
  return promise;
}

const METHODS = {
  subscribe(channel, options, callback) {
    if (typeof options === "function") return this.subscribe(channel, undefined, options);
    const limit = options ? options.history : undefined;
    if (limit !== undefined && !(Number.isInteger(limit) && limit >= 0)) {
      throw new TypeError("history must be a number of messages: subscribe(channel, {history: 50})");
    }
    return withCallback(channels(this).subscribe(channel, limit), callback);
  },
  unsubscribe(channel, callback) {
    return withCallback(channels(this).unsubscribe(channel), callback);
  },
  sendTo(channel, data, ...callback) {
    return this.emit(CHANNEL, channel, data, ...callback);
  },
  presence(channel) {
    return channels(this).presence(channel);
  },
  get channels() {
    const entries = [...channels(this).subscriptions];
    return entries.filter(([, { confirmed }]) => confirmed).map(([channel]) => channel);
  },
};

/**
 * Add the methods to a socket, or to the prototype of all sockets.
 *
 * `servedPath` is the path of the Socket.IO resource on the page's server, if it is known.
 */
export function addMethods(target, servedPath) {
  Object.defineProperties(target, Object.getOwnPropertyDescriptors(METHODS));

  // socket.off() without arguments must not remove the listeners of this script.
  for (const name of ["off", "removeListener", "removeAllListeners", "removeEventListener"]) {
    const stock = target[name];
    target[name] = function (...args) {
      const result = stock.apply(this, args);
      restoreListeners(this);
      return result;
    };
  }

  hideOffsets(target);
  numberMessages(target);

  const emitReserved = target.emitReserved;
  target.emitReserved = function (event, ...args) {
    if (event === "connect_error") explainConnectError(this, args[0], servedPath);
    return emitReserved.call(this, event, ...args);
  };
}
