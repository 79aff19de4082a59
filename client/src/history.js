/** The history of a channel. */

import { logOnce } from "./diagnostics.js";
import { withOffset } from "./offsets.js";
import { request } from "./requests.js";

// Ids of received messages that are remembered. A message to several channels, or one that the
// server could not store at first, arrives more than once.
const MAX_IDS = 1024;

const idsOf = new WeakMap(); // socket -> Set

/** Return whether a message id of a socket is new, and remember it. */
function isNew(socket, id) {
  if (!idsOf.has(socket)) idsOf.set(socket, new Set());
  const ids = idsOf.get(socket);
  if (ids.has(id)) return false;
  ids.add(id);
  if (ids.size > MAX_IDS) ids.delete(ids.values().next().value);
  return true;
}

/** The position of a subscription in the history of its channel. */
export class ChannelHistory {
  constructor(socket, channel, limit) {
    this.socket = socket;
    this.channel = channel;
    this.limit = limit;
    this.position = null; // {epoch, offset} of the last message
    this.isAnnounced = false; // on this connection
    this.isSupported = false; // whether the server has accepted the announcement
    this.isRenewal = false;
    this.started = null; // the server's history_start on this connection
    this.pending = null; // called with it
  }

  /** Tell the server, before a subscription, which messages are wanted. */
  announce() {
    const wanted = { channel: this.channel, follow: true, limit: this.limit };
    if (this.position) wanted.since = this.position;
    this.isAnnounced = true;
    this.isSupported = false;
    this.started = this.pending = null;
    request(this.socket, "history", wanted, (answer) => {
      this.isSupported = Boolean(answer && answer.ok);
      if (!this.isSupported) logOnce(`"${this.channel}" has no history: ${answer && answer.error}`);
    });
  }

  /** Handle the answer to the subscription: call `done` with the answer when the history starts. */
  confirm(answer, done) {
    if (answer && answer.ok && this.isSupported) {
      this.pending = ({ recovered }) => done({ ...answer, recovered });
      if (this.started) this.pending(this.started); // subscribed before, without history
      return;
    }
    // The server handles both in order: without an answer to the first, it has no such plugin.
    if (answer && answer.ok) {
      this.skip({});
      done({ ...answer, recovered: false });
    } else {
      this.isAnnounced = false;
      request(this.socket, "history", { channel: this.channel, follow: false }, () => {});
      done(answer);
    }
  }

  start(start) {
    const { epoch, offset, recovered } = start;
    const isLost = this.isRenewal && !recovered;
    this.isRenewal = true;
    this.started = start;
    this.position = epoch === undefined ? null : { epoch, offset };
    if (this.pending) this.pending(start);
    if (isLost) this.report();
  }

  receive({ epoch, offset, id }, event) {
    if (epoch !== undefined) this.position = { epoch, offset };
    // To the listeners of the page, also those of onAny().
    if (event && isNew(this.socket, id)) this.socket.onevent({ data: withOffset(this.socket, event) });
  }

  /** Messages are missing. */
  skip({ epoch, offset }) {
    this.position = epoch === undefined ? null : { epoch, offset };
    if (this.isRenewal) this.report();
    this.isRenewal = true;
  }

  report() {
    this.socket.emitReserved("history_gap", this.channel);
  }
}
