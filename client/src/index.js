/*
 * webpy-socketio-client: channels and presence for sockets of socket.io-client 4.
 *
 *   import { io } from "socket.io-client";
 *   import { withChannels } from "webpy-socketio-client";
 *
 *   const socket = withChannels(io());
 *
 * index.d.ts documents the methods that the socket gets.
 */

import { watchPolicy } from "./diagnostics.js";
import { addMethods } from "./methods.js";

/** Add the methods of channels and presence to a socket, and return the socket. */
export function withChannels(socket) {
  if (!socket || !socket.io || !Array.isArray(socket.sendBuffer)) {
    throw new TypeError(
      "withChannels() needs a socket of socket.io-client 4: const socket = withChannels(io())"
    );
  }
  if (!socket.subscribe) {
    addMethods(socket);
    watchPolicy(socket.io.opts.path);
  }
  return socket;
}
