/** The members of a channel. */

import { request } from "./requests.js";

/**
 * The members of a channel, updated from the numbered diffs of the server.
 *
 *   members   Map of key -> array of metas, one for each connection of the key
 *   count     number of keys, also for channels that are too large for the server to list members
 *   on("change", ({joins, updates, leaves}) => ...), off("change", listener), onchange(listener)
 *
 * After a disconnect, the members are kept until the next state, to avoid flicker.
 */
export class Presence {
  constructor(socket, channel) {
    this.channel = channel;
    this.members = new Map();
    this.count = 0;
    this._socket = socket;
    this._listeners = new Set();
    this._epoch = null; // identifies the server's numbering; null while unknown
    this._revision = 0;
    this._listed = true; // false while the server sends counts only
    this._asking = false;
    this._left = false;
  }

  on(event, listener) {
    if (event !== "change") {
      throw new TypeError(`a presence supports the event "change", not "${event}"`);
    }
    this._listeners.add(listener);
    return this;
  }

  off(event, listener) {
    if (event === "change") this._listeners.delete(listener);
    return this;
  }

  onchange(listener) {
    return this.on("change", listener);
  }

  requestState() {
    if (this._asking || !this._socket.connected) return;
    this._asking = true;
    request(this._socket, "presence_state", this.channel, (state) => {
      this._asking = false;
      if (state && state.channel === this.channel) this.setState(state);
    });
  }

  setState({ epoch, rev, members, count }) {
    if (this._left) return;
    if (epoch === this._epoch && rev < this._revision) return; // older than the current state
    this._epoch = epoch;
    this._revision = rev;
    this._replace(members && new Map(Object.entries(members)), count);
  }

  applyDiff({ epoch, since, rev, joins, updates, leaves, count }) {
    if (this._left) return;
    if (epoch === this._epoch && rev <= this._revision) return; // included in the current state
    // A diff was missed, or members are listed again after counts only. A diff that starts before
    // the current revision is not a gap: it contains complete lists.
    const isGap = epoch !== this._epoch || since > this._revision;
    if (isGap || (joins && !this._listed)) return this.requestState();
    this._revision = rev;
    if (!joins) return this._replace(undefined, count);
    const members = new Map(this.members);
    for (const [key, metas] of Object.entries({ ...joins, ...updates })) members.set(key, metas);
    for (const key of Object.keys(leaves || {})) members.delete(key);
    this._replace(members, count);
  }

  /** The connection has closed; the next one may use a different numbering. */
  pause() {
    this._epoch = null;
    this._asking = false;
  }

  /** The page has unsubscribed. */
  clear() {
    this._left = true; // ignore states that are in transit
    this.pause();
    this._replace(new Map());
  }

  /** Without members (counts only), no joins and leaves are reported. */
  _replace(members, count = members ? members.size : 0) {
    const compared = members && this._listed;
    const nothing = { joins: {}, updates: {}, leaves: {} };
    const change = compared ? differences(this.members, members) : nothing;
    const isEmpty = !Object.values(change).some((part) => Object.keys(part).length);
    const same = compared && count === this.count && isEmpty;
    this._listed = members !== undefined;
    this.members = members || new Map();
    this.count = count;
    if (!same) for (const listener of [...this._listeners]) listener(change);
  }
}

function differences(before, after) {
  // Objects without a prototype, so that "__proto__" is an ordinary key.
  const [joins, updates, leaves] = [0, 0, 0].map(() => Object.create(null));
  for (const [key, metas] of after) {
    if (!before.has(key)) joins[key] = metas;
    else if (JSON.stringify(before.get(key)) !== JSON.stringify(metas)) updates[key] = metas;
  }
  for (const [key, metas] of before) if (!after.has(key)) leaves[key] = metas;
  return { joins, updates, leaves };
}
