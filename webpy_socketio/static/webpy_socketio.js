/*
 * webpy_socketio: channels and presence for the stock Socket.IO client.
 *
 * Load it after socket.io.min.js; data-path is the path of the server's Socket.IO resource:
 *
 *   <script src="/socket.io/socket.io.min.js"></script>
 *   <script src="/socket.io/webpy_socketio.js" data-path="/socket.io"></script>
 *
 *   const socket = new io.Socket();                  // connect with socket.connect()
 *   socket.subscribe(channel[, callback])            // -> Promise of {ok: true} or {ok: false, error}
 *   socket.unsubscribe(channel[, callback])          // -> the same
 *   socket.sendTo(channel, data[, callback])         // message to a subscribed channel
 *   socket.channels                                  // names confirmed by the server
 *   socket.presence(channel)                         // members of a channel; see Presence below
 *   socket.on("subscribe_error", (channel, error) => ...)   // rejected after a reconnect
 *
 * The methods are added to the stock Socket.prototype, so sockets returned by io() have them too.
 * Without a connection, subscribe() is queued. After a reconnect, every channel is subscribed again
 * before any other packet is sent.
 */
(function () {
  "use strict";

  if (typeof io === "undefined" || !io.Manager) {
    throw new Error(
      "webpy_socketio.js needs the Socket.IO client 4: " +
        "load socket.io.min.js before it, as socketio_scripts() does"
    );
  }
  const Stock = io.Socket;
  if (Stock.prototype.subscribe) return; // the script is loaded already

  const script = typeof document === "undefined" ? null : document.currentScript;
  const PATH = (script && script.dataset.path) || "/socket.io";

  // Event names reserved by the server. presence_state and presence_diff are ordinary events.
  const SUBSCRIBE = "__subscribe__";
  const UNSUBSCRIBE = "__unsubscribe__";
  const CHANNEL = "__channel__";

  const EVENT = 2; // packet type (Socket.IO protocol 5)

  /** Call the listeners of the page; emit() of the client would send to the server. */
  function notifyPage(socket, ...args) {
    Object.getPrototypeOf(Stock.prototype).emit.apply(socket, args);
  }

  /**
   * Send an event with a channel and receive its acknowledgement; queue it without a connection.
   *
   * Does not use emit(), which applies the page's `ackTimeout`, even while disconnected, and its
   * `retries` queue. Uses no names with an underscore: the minified client renames them.
   */
  function request(socket, event, channel, answered) {
    const id = socket.ids++;
    socket.acks[id] = answered;
    const packet = { type: EVENT, data: [event, channel], id, options: { compress: true } };
    if (socket.connected) socket.packet(packet);
    else socket.sendBuffer.push(packet);
  }

  /** The channels of one socket: requested by the page, and confirmed by the server. */
  class Channels {
    constructor(socket) {
      this.socket = socket;
      this.subscriptions = new Map(); // channel -> {confirmed, request, resolvers}
      this.unsubscribing = new Set(); // resolvers of unsubscribe() calls without acknowledgement
      this.presences = new Map(); // channel -> Presence
      this.listeners = {
        disconnect: () => this.disconnected(),
        presence_state: (state) => this.updatePresence(state, "setState"),
        presence_diff: (diff) => this.updatePresence(diff, "applyDiff"),
      };
      this.addListeners();
    }

    addListeners() {
      for (const [event, listener] of Object.entries(this.listeners)) {
        if (!this.socket.listeners(event).includes(listener)) this.socket.on(event, listener);
      }
    }

    subscribe(channel) {
      let subscription = this.subscriptions.get(channel);
      if (!subscription) {
        subscription = { confirmed: false, request: null, resolvers: [] };
        this.subscriptions.set(channel, subscription);
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
      request(this.socket, SUBSCRIBE, channel, (answer) => {
        // Ignore the answer after a later request or unsubscribe().
        if (subscription.request === current) this.handleAnswer(channel, subscription, answer);
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
        notifyPage(this.socket, "subscribe_error", channel, answer && answer.error);
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
        this.requeueSubscriptions();
        return Promise.resolve({ ok: true }); // the subscription ended with the connection
      }
      return new Promise((resolve) => {
        this.unsubscribing.add(resolve);
        request(this.socket, UNSUBSCRIBE, channel, (answer) => {
          this.unsubscribing.delete(resolve);
          resolve(answer);
        });
      });
    }

    disconnected() {
      for (const subscription of this.subscriptions.values()) subscription.confirmed = false;
      for (const resolve of this.unsubscribing) resolve({ ok: true }); // ended with the connection
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
        if (packet.data[0] === SUBSCRIBE) delete socket.acks[packet.id];
        else others.push(packet);
      }
      socket.sendBuffer = [];
      for (const [channel, subscription] of this.subscriptions) this.send(channel, subscription);
      socket.sendBuffer.push(...others);
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

  /**
   * The members of a channel, updated from the numbered diffs of the server.
   *
   *   members   Map of key -> array of metas, one for each connection of the key
   *   count     number of keys, also for channels that are too large for the server to list members
   *   on("change", ({joins, updates, leaves}) => ...), off("change", listener), onchange(listener)
   *
   * After a disconnect, the members are kept until the next state, to avoid flicker.
   */
  class Presence {
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

  const channelsOf = new WeakMap();

  function channels(socket) {
    if (!channelsOf.has(socket)) channelsOf.set(socket, new Channels(socket));
    return channelsOf.get(socket);
  }

  /** An exception of the callback becomes an unhandled rejection of the promise. */
  function withCallback(promise, callback) {
    if (callback) promise.then(callback);
    return promise;
  }

  Object.assign(Stock.prototype, {
    subscribe(channel, callback) {
      return withCallback(channels(this).subscribe(channel), callback);
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
  });

  Object.defineProperty(Stock.prototype, "channels", {
    get() {
      const entries = [...channels(this).subscriptions];
      return entries.filter(([, { confirmed }]) => confirmed).map(([channel]) => channel);
    },
  });

  // socket.off() without arguments must not remove the listeners of this script.
  for (const name of ["off", "removeListener", "removeAllListeners", "removeEventListener"]) {
    const stock = Stock.prototype[name];
    Stock.prototype[name] = function (...args) {
      const result = stock.apply(this, args);
      if (channelsOf.has(this)) channels(this).addListeners();
      return result;
    };
  }

  // Milliseconds after which a socket with queued packets should have called connect().
  const CONNECT_REMINDER_DELAY = 5000;

  const logged = new Set();

  /** Log a mistake of the page and its remedy in the console, once. */
  function logOnce(text) {
    if (logged.has(text)) return;
    logged.add(text);
    console.error(`webpy_socketio: ${text}`);
  }

  /** The error message in the server's response, unless the response is an HTML page. */
  function errorText(request) {
    const text = typeof request.responseText === "string" ? request.responseText.trim() : "";
    try {
      return `: ${JSON.parse(text).message}`;
    } catch {
      return !text || text.startsWith("<") || text.length > 300 ? "" : `: ${text}`;
    }
  }

  /**
   * Log the likely cause of a failed connection; the page receives "xhr poll error" only. An
   * unreachable server is not reported.
   */
  function explainConnectError(socket, error) {
    const path = socket.io.opts.path.replace(/\/$/, "");
    const uri = String(socket.io.uri);
    const request = error.context || {};
    if (error.message === "Invalid namespace") {
      logOnce(
        `the server has no namespace "${socket.nsp}": add it to SOCKETIO_NAMESPACES. ` +
          'io("/name") is a namespace, io({path: "/name"}) the path of the server\'s resource'
      );
    } else if (request.status === 404 && path !== PATH) {
      logOnce(
        `the server has no Socket.IO at ${path}, but the server of this page has it at ${PATH}: ` +
          `io({path: "${PATH}"})`
      );
    } else if (request.status === 404) {
      logOnce(
        `the server has no Socket.IO at ${path}: ` +
          "add socketio_urls to its urls, or use its resource as path"
      );
    } else if (request.status === 403) {
      logOnce(
        `the server rejected this page (403)${errorText(request)}; ` +
          "the log of the server names the setting to change"
      );
    } else if (request.status === 400 || request.status === 500) {
      logOnce(`the server responded with ${request.status}${errorText(request)}`);
    } else if (error.code === "parser error" || error.message === "server error") {
      logOnce(
        `the response at ${path} is not Socket.IO: ` +
          "an earlier pattern of the application's urls may match"
      );
    } else if (typeof location !== "undefined" && location.protocol === "https:" && /^(http|ws):/.test(uri)) {
      logOnce(`a page loaded over https cannot connect to ${uri}: use https, or io() without an address`);
    }
  }

  const emitReserved = Stock.prototype.emitReserved;
  Stock.prototype.emitReserved = function (event, ...args) {
    if (event === "connect_error") explainConnectError(this, args[0]);
    return emitReserved.call(this, event, ...args);
  };

  if (typeof document !== "undefined") {
    document.addEventListener("securitypolicyviolation", ({ effectiveDirective, blockedURI }) => {
      if (effectiveDirective === "connect-src" && blockedURI.includes(`${PATH}/`)) {
        logOnce("the Content-Security-Policy of the page blocks the connection: add connect-src 'self'");
      }
    });
  }

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

  /** new io.Socket(uri, options): a stock socket that connects when connect() is called. */
  function Socket(uri, options, ...rest) {
    if (uri instanceof io.Manager) return new Stock(uri, options, ...rest);
    if (uri && typeof uri === "object") return Socket(undefined, uri);
    // autoConnect is an option of the Manager, which must not be shared with sockets of io().
    const settings = { path: PATH, ...options, autoConnect: false, forceNew: true };
    return warnUnconnected(io(uri || undefined, settings));
  }
  Socket.prototype = Stock.prototype; // for instanceof
  io.Socket = Socket;
})();
