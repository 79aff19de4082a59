/** The subscriptions of a socket: requested, confirmed, and renewed after a reconnect. */

import { ChannelHistory } from "./history.js";
import { Presence } from "./presence.js";
import { isRequest, request } from "./requests.js";

// Event names reserved by the server. presence_state and presence_diff are ordinary events.
const SUBSCRIBE = "__subscribe__";
const UNSUBSCRIBE = "__unsubscribe__";

/** Whether a queued packet announces or requests a subscription. */
function isSubscription(packet) {
  const [event, value] = packet.data;
  if (!isRequest(packet)) return false;
  return event === SUBSCRIBE || (event === "history" && value instanceof Object && "follow" in value);
}

/** The channels of one socket: requested by the page, and confirmed by the server. */
class Channels {
  constructor(socket) {
    this.socket = socket;
    this.subscriptions = new Map(); // channel -> {confirmed, request, resolvers, history}
    this.unsubscribing = new Map(); // resolver of unsubscribe() without acknowledgement -> channel
    this.presences = new Map(); // channel -> Presence
    this.left = new Set(); // channels that were left without a connection
    this.listeners = {
      connect: () => this.connected(),
      disconnect: () => this.disconnected(),
      presence_state: (state) => this.updatePresence(state, "setState"),
      presence_diff: (diff) => this.updatePresence(diff, "applyDiff"),
      history_start: (start) => this.updateHistory("start", start),
      history_message: (message, event) => this.updateHistory("receive", message, event),
      history_gap: (gap) => this.updateHistory("skip", gap),
    };
    this.addListeners();
  }

  addListeners() {
    for (const [event, listener] of Object.entries(this.listeners)) {
      if (!this.socket.listeners(event).includes(listener)) this.socket.on(event, listener);
    }
  }

  subscribe(channel, limit) {
    let subscription = this.subscriptions.get(channel);
    if (!subscription) {
      subscription = { confirmed: false, request: null, resolvers: [], history: null };
      this.subscriptions.set(channel, subscription);
    }
    if (limit !== undefined && !subscription.history) {
      subscription.history = new ChannelHistory(this.socket, channel, limit);
    }
    const presence = this.presences.get(channel);
    if (presence) presence._left = false;
    return new Promise((resolve) => {
      subscription.resolvers.push(resolve);
      this.send(channel, subscription);
    });
  }

  /** Without a connection, the send buffer of the client keeps the packet in order. */
  send(channel, subscription) {
    const current = (subscription.request = {});
    const { history } = subscription;
    if (history && !history.isAnnounced) history.announce();
    request(this.socket, SUBSCRIBE, channel, (answer) => {
      // Ignore the answer after a later request or unsubscribe().
      if (subscription.request !== current) return;
      if (!history) this.handleAnswer(channel, subscription, answer);
      else history.confirm(answer, (whole) => {
        if (subscription.request === current) this.handleAnswer(channel, subscription, whole);
      });
    });
  }

  handleAnswer(channel, subscription, answer) {
    const isRequested = subscription.resolvers.length > 0;
    subscription.request = null;
    subscription.confirmed = Boolean(answer && answer.ok);
    if (!subscription.confirmed) this.subscriptions.delete(channel);
    for (const resolve of subscription.resolvers.splice(0)) resolve(answer);
    if (!subscription.confirmed && !isRequested) {
      // Rejected after a reconnect: there is no pending promise to report it.
      // To the listeners of the page: emit() of the client would send to the server.
      this.socket.emitReserved("subscribe_error", channel, answer && answer.error, answer && answer.data);
    }
  }

  unsubscribe(channel) {
    const subscription = this.subscriptions.get(channel);
    if (subscription) {
      this.subscriptions.delete(channel);
      subscription.request = null;
      const answer = { ok: false, error: "unsubscribed" };
      for (const resolve of subscription.resolvers.splice(0)) resolve(answer);
    }
    const presence = this.presences.get(channel);
    if (presence) presence.clear();
    if (!this.socket.connected) {
      this.left.add(channel);
      this.requeueSubscriptions();
      return Promise.resolve({ ok: true }); // the subscription ended with the connection
    }
    return new Promise((resolve) => {
      this.unsubscribing.set(resolve, channel);
      request(this.socket, UNSUBSCRIBE, channel, (answer) => {
        this.unsubscribing.delete(resolve);
        resolve(answer);
      });
    });
  }

  /** A recovered connection still has the channels that were left in the meantime. */
  connected() {
    for (const channel of this.left) {
      if (this.socket.recovered && !this.subscriptions.has(channel)) {
        request(this.socket, UNSUBSCRIBE, channel, () => {});
      }
    }
    this.left.clear();
  }

  disconnected() {
    for (const subscription of this.subscriptions.values()) subscription.confirmed = false;
    for (const [resolve, channel] of this.unsubscribing) {
      this.left.add(channel); // the request may be lost
      resolve({ ok: true }); // ended with the connection
    }
    this.unsubscribing.clear();
    for (const presence of this.presences.values()) presence.pause();
    this.requeueSubscriptions();
  }

  /**
   * Put subscriptions in front of the packets that are sent on the next connection: a message to
   * a channel must not arrive before the subscription. (A "connect" listener would run too late:
   * the client flushes its buffer before the event.)
   */
  requeueSubscriptions() {
    const socket = this.socket;
    const others = [];
    for (const packet of socket.sendBuffer) {
      if (isSubscription(packet)) delete socket.acks[packet.id];
      else others.push(packet);
    }
    socket.sendBuffer = [];
    for (const [channel, subscription] of this.subscriptions) {
      if (subscription.history) subscription.history.isAnnounced = false;
      this.send(channel, subscription);
    }
    socket.sendBuffer.push(...others);
  }

  updateHistory(method, message, ...args) {
    const subscription = message && this.subscriptions.get(message.channel);
    if (subscription && subscription.history) subscription.history[method](message, ...args);
  }

  presence(channel) {
    let presence = this.presences.get(channel);
    if (!presence) {
      this.presences.set(channel, (presence = new Presence(this.socket, channel)));
      // The initial state may have arrived already. It follows if a subscription is pending.
      const subscription = this.subscriptions.get(channel);
      if (!subscription || subscription.confirmed) presence.requestState();
    }
    return presence;
  }

  updatePresence(message, method) {
    const presence = message && this.presences.get(message.channel);
    if (presence) presence[method](message);
  }
}

const channelsOf = new WeakMap();

/** Return the channels of a socket, which are created on the first call. */
export function channels(socket) {
  if (!channelsOf.has(socket)) channelsOf.set(socket, new Channels(socket));
  return channelsOf.get(socket);
}

/** Add the listeners of this script again, if the page has removed all listeners. */
export function restoreListeners(socket) {
  if (channelsOf.has(socket)) channelsOf.get(socket).addListeners();
}
