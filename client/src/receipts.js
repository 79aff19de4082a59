/** Numbered messages: after a loss, those that have not arrived at the server are sent again. */

import { logOnce } from "./diagnostics.js";
import { isRequest } from "./requests.js";

// Event names reserved by the server.
const NUMBERED = "__numbered__";
const RECEIVED = "__received__";

// Packet types of Socket.IO protocol 5.
const TYPE_CONNECT = 0;
const TYPE_EVENT = 2;

// Sent messages that are kept until the server confirms them.
const MAX_UNCONFIRMED = 4096;

/** The messages of one socket that were sent and not confirmed, or not answered. */
class Receipts {
  constructor(socket) {
    this.socket = socket;
    this.pid = undefined; // secret of the connection
    this.isSupported = false; // whether the server understands numbers on this connection
    this.last = 0; // number of the last message that was sent
    this.received = 0; // number of the last message that the server has confirmed
    this.numbers = new WeakMap(); // packet that was sent -> its number
    this.unconfirmed = new Map(); // number -> packet, in the order of sending
    this.unanswered = new Map(); // acknowledgement id -> packet
  }

  /** Return the packet to send for one of the page, or null if it has arrived before a loss. */
  wrap(packet) {
    const { socket } = this;
    const earlier = this.numbers.get(packet); // on a connection that was lost
    if (earlier !== undefined && earlier <= this.received) {
      if (!(packet.id in socket.acks)) return null;
      this.unanswered.set(packet.id, packet);
      return { ...packet, data: [NUMBERED, earlier] }; // requests the answer
    }
    // The option `retries` of the client repeats its packets itself.
    const { volatile, fromQueue } = socket.flags;
    if (volatile || fromQueue || isRequest(packet)) return packet;
    const number = ++this.last;
    this.numbers.set(packet, number);
    this.unconfirmed.set(number, packet);
    if (packet.id !== undefined) this.unanswered.set(packet.id, packet);
    if (this.unconfirmed.size > MAX_UNCONFIRMED) {
      this.unconfirmed.delete(this.unconfirmed.keys().next().value);
      logOnce(
        `more than ${MAX_UNCONFIRMED} messages were sent that the server has not confirmed; the ` +
          "oldest are not sent again after a loss: send less, or wait for acknowledgements"
      );
    }
    return { ...packet, data: [NUMBERED, number, ...packet.data] };
  }

  /** Forget the messages up to a number: the server has received them. */
  confirm(number) {
    this.received = Math.max(this.received, number);
    for (const [sent, packet] of this.unconfirmed) {
      if (sent > number) break;
      this.unconfirmed.delete(sent);
      packet.data = packet.data.slice(0, 1); // may wait for its answer without its arguments
    }
  }

  /** Handle an event of the server: messages up to a number, or without an answer. */
  receive(number, withoutAnswer) {
    this.confirm(number);
    if (withoutAnswer !== undefined) this.fail(withoutAnswer);
    for (const id of this.unanswered.keys()) {
      if (!(id in this.socket.acks)) this.unanswered.delete(id); // timed out
    }
  }

  /** Handle an acknowledgement: the server has received the messages up to its own. */
  answered(id) {
    const packet = this.unanswered.get(id);
    if (!packet) return;
    this.unanswered.delete(id);
    this.confirm(this.numbers.get(packet));
  }

  /** Report to the page that a message has no answer, as the client does without recovery. */
  fail(id) {
    const { socket } = this;
    const ack = socket.acks[id];
    delete socket.acks[id];
    this.unanswered.delete(id);
    if (ack && ack.withError) ack.call(socket, new Error("socket has been disconnected"));
  }

  /**
   * Handle a disconnect: put the messages in front of those that are sent on the next connection.
   *
   * The client keeps the callbacks of packets in its buffer, and removes packets that time out.
   * Returns the events that may not have arrived, if the connection cannot be resumed.
   */
  disconnected(reason) {
    const { socket, unconfirmed, unanswered, numbers } = this;
    const packets = [...new Set([...unanswered.values(), ...unconfirmed.values()])]
      .filter(({ id }) => id === undefined || id in socket.acks)
      .sort((one, other) => numbers.get(one) - numbers.get(other));
    const events = [...unconfirmed.values()].map(({ data }) => data);
    unconfirmed.clear();
    unanswered.clear();
    if (reason === "io client disconnect") return [];
    if (reason === "io server disconnect") return events;
    socket.sendBuffer.unshift(...packets);
    return [];
  }

  /**
   * Handle a new connection, before the client sends its buffer.
   *
   * `received` is the number of the last message that has arrived; undefined if the server does not
   * understand numbers. Returns the events that may not have arrived on a connection before.
   */
  connected(pid, received) {
    const { socket, numbers } = this;
    const isRecovered = Boolean(pid) && pid === this.pid;
    this.pid = pid;
    this.isSupported = Boolean(pid) && Number.isSafeInteger(received);
    const events = [];
    if (!(isRecovered && this.isSupported)) {
      const sent = socket.sendBuffer.filter((packet) => numbers.has(packet));
      socket.sendBuffer = socket.sendBuffer.filter((packet) => !numbers.has(packet));
      for (const packet of sent) {
        if (numbers.get(packet) > this.received) events.push(packet.data);
        if (packet.id !== undefined) this.fail(packet.id);
      }
    }
    // Numbers of messages that have not arrived are assigned again, in the order of sending.
    this.last = this.received = this.isSupported ? received : 0;
    return events;
  }
}

const receiptsOf = new WeakMap(); // socket -> Receipts

function receipts(socket) {
  if (!receiptsOf.has(socket)) receiptsOf.set(socket, new Receipts(socket));
  return receiptsOf.get(socket);
}

const announced = new WeakMap(); // manager -> "received" in the last answer to a CONNECT

/** Read the answers to CONNECTs, of which the client passes only "sid" and "pid" to a socket. */
function watchAnswers(manager) {
  if (announced.has(manager)) return;
  announced.set(manager, undefined);
  const { emitReserved } = manager;
  manager.emitReserved = function (event, packet, ...rest) {
    if (event === "packet" && packet.type === TYPE_CONNECT) {
      announced.set(manager, packet.data ? packet.data.received : undefined);
    }
    return emitReserved.call(this, event, packet, ...rest);
  };
}

/** Report events to the page that may not have arrived, and are not sent again. */
function report(socket, events) {
  if (events.length) socket.emitReserved("unconfirmed", events);
}

/** Number the messages of a socket, or of all sockets, if the server supports it. */
export function numberMessages(target) {
  const { packet: send, onconnect, onack, onevent, emitReserved, notifyOutgoingListeners } = target;
  if (target.io) watchAnswers(target.io);

  target.packet = function (packet) {
    if (packet.type === TYPE_CONNECT) watchAnswers(this.io);
    const isWrapped = packet.type === TYPE_EVENT && receipts(this).isSupported;
    const sent = isWrapped ? receipts(this).wrap(packet) : packet;
    if (sent) send.call(this, sent);
  };
  target.notifyOutgoingListeners = function (packet) {
    if (!receipts(this).numbers.has(packet)) notifyOutgoingListeners.call(this, packet);
  };
  target.onconnect = function (id, pid) {
    const events = receipts(this).connected(pid, announced.get(this.io));
    onconnect.call(this, id, pid);
    report(this, events);
  };
  target.onevent = function (packet) {
    const [event, number, id] = packet.data;
    if (event === RECEIVED && receipts(this).isSupported) receipts(this).receive(number, id);
    else onevent.call(this, packet);
  };
  target.onack = function (packet) {
    receipts(this).answered(packet.id);
    onack.call(this, packet);
  };
  target.emitReserved = function (event, reason, ...rest) {
    const events = event === "disconnect" ? receipts(this).disconnected(reason) : [];
    const result = emitReserved.call(this, event, reason, ...rest);
    report(this, events);
    return result;
  };
}
