/** Requests to the server that must not depend on the page's options for acknowledgements. */

const EVENT = 2; // packet type (Socket.IO protocol 5)

const requests = new WeakSet();

/** Return whether a packet was sent by `request`. */
export function isRequest(packet) {
  return requests.has(packet);
}

/**
 * Send an event with a channel and receive its acknowledgement; queue it without a connection.
 *
 * Does not use emit(), which applies the page's `ackTimeout`, even while disconnected, and its
 * `retries` queue. Uses no names with an underscore: the minified client renames them.
 */
export function request(socket, event, channel, answered) {
  const id = socket.ids++;
  socket.acks[id] = answered;
  const packet = { type: EVENT, data: [event, channel], id, options: { compress: true } };
  requests.add(packet);
  if (socket.connected) socket.packet(packet);
  else socket.sendBuffer.push(packet);
}
