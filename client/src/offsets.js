/** Connection state recovery: the server appends the position of an event to its arguments. */

// Sockets of servers with recovery, with the last offset.
const offsets = new WeakMap();

/** Return the data of an event that the server has not sent as such, for `socket.onevent`. */
export function withOffset(socket, data) {
  return offsets.has(socket) ? [...data, offsets.get(socket)] : data;
}

/**
 * Pass events to listeners without their offset.
 *
 * The stock client stores the last argument of an event, if it is text, when it emits the event. Its
 * property is renamed in the minified client, so the offset is stored by an event without listeners.
 */
export function hideOffsets(target) {
  const { onconnect, emitEvent } = target;
  target.onconnect = function (id, pid) {
    if (!pid) offsets.delete(this);
    else if (!offsets.has(this)) offsets.set(this, "");
    return onconnect.call(this, id, pid);
  };
  target.emitEvent = function (args) {
    const offset = args[args.length - 1];
    if (!offsets.has(this) || args.length < 2 || typeof offset !== "string") {
      emitEvent.call(this, args);
      return;
    }
    offsets.set(this, offset);
    try {
      emitEvent.call(this, args.slice(0, -1));
    } finally {
      const listeners = this.listenersAny();
      const kept = listeners.splice(0);
      emitEvent.call(this, ["", offset]);
      listeners.push(...kept);
    }
  };
}
