/*
 * webpy_socketio: channels and presence for the stock Socket.IO client.
 *
 * Load it after socket.io.min.js, by a <script src> that names the server's path:
 *
 *   <script src="/socket.io/socket.io.min.js"></script>
 *   <script src="/socket.io/webpy_socketio.js" data-path="/socket.io"></script>
 *
 *   const socket = new io.Socket();                  // connects when told to: socket.connect()
 *   socket.subscribe(channel[, callback])            // -> Promise of {ok: true} or {ok: false, error}
 *   socket.unsubscribe(channel[, callback])          // -> the same
 *   socket.sendTo(channel, data[, callback])         // a message to a channel this socket is in
 *   socket.channels                                  // names, as the server confirmed them
 *   socket.presence(channel)                         // who is there; see Presence below
 *   socket.on("subscribe_error", (channel, error) => ...)   // refused when rejoining after a reconnect
 *
 * The methods are on the stock Socket.prototype, so what io() returns has them too. While there is
 * no connection subscribe() keeps the wish; after a reconnect every channel is subscribed again
 * before anything else is sent.
 */
(function () {
  "use strict";

  if (typeof io === "undefined" || !io.Manager) {
    throw new Error(
      "webpy_socketio.js needs the Socket.IO client 4: load socket.io.min.js before it, as socketio_scripts() does"
    );
  }
  const Stock = io.Socket;
  if (Stock.prototype.subscribe) return; // the page loaded this script twice

  const script = typeof document === "undefined" ? null : document.currentScript;
  const PATH = (script && script.dataset.path) || "/socket.io";

  // The events that the server reserves for channels; presence_state and presence_diff are ordinary.
  const SUBSCRIBE = "__subscribe__";
  const UNSUBSCRIBE = "__unsubscribe__";
  const CHANNEL = "__channel__";

  const EVENT = 2; // the packet type, Socket.IO protocol 5

  /** Calls the page's listeners; the client's own emit() would send to the server. */
  function tellPage(socket, ...args) {
    Object.getPrototypeOf(Stock.prototype).emit.apply(socket, args);
  }

  /**
   * Sends an event with a channel, and gets its acknowledgement; without a connection it is kept.
   *
   * By hand, because emit() would apply the page's `ackTimeout`, whose time runs out while there is no
   * connection, and its `retries`, whose queue may be long: a wish waits for neither. (Names without
   * an underscore only: the others are different in the minified client.)
   */
  function request(socket, event, channel, answered) {
    const id = socket.ids++;
    socket.acks[id] = answered;
    const packet = { type: EVENT, data: [event, channel], id, options: { compress: true } };
    if (socket.connected) socket.packet(packet);
    else socket.sendBuffer.push(packet);
  }

  /** The channels of one socket: what the page wants, and what the server has confirmed. */
  class Channels {
    constructor(socket) {
      this.socket = socket;
      this.wanted = new Map(); // channel -> {held, sending, waiting}
      this.leaving = new Set(); // who waits for an unsubscribe to be acknowledged
      this.presences = new Map(); // channel -> Presence
      this.listeners = {
        disconnect: () => this.disconnected(),
        presence_state: (state) => this.toPresence(state, "setState"),
        presence_diff: (diff) => this.toPresence(diff, "applyDiff"),
      };
      this.listen();
    }

    listen() {
      for (const [event, listener] of Object.entries(this.listeners)) {
        if (!this.socket.listeners(event).includes(listener)) this.socket.on(event, listener);
      }
    }

    subscribe(channel) {
      let wish = this.wanted.get(channel);
      if (!wish) this.wanted.set(channel, (wish = { held: false, sending: null, waiting: [] }));
      const presence = this.presences.get(channel);
      if (presence) presence._left = false;
      return new Promise((resolve) => {
        wish.waiting.push(resolve);
        this.send(channel, wish);
      });
    }

    /** Without a connection the client's own buffer keeps the packet, in its place among the page's others. */
    send(channel, wish) {
      const sending = (wish.sending = {});
      request(this.socket, SUBSCRIBE, channel, (answer) => {
        // Unless superseded by a later request or by unsubscribe().
        if (wish.sending === sending) this.settle(channel, wish, answer);
      });
    }

    settle(channel, wish, answer) {
      const wasAsked = wish.waiting.length > 0;
      wish.sending = null;
      wish.held = Boolean(answer && answer.ok);
      if (!wish.held) this.wanted.delete(channel);
      for (const resolve of wish.waiting.splice(0)) resolve(answer);
      if (!wish.held && !wasAsked) {
        // Rejoining was refused, and no promise is left to say so.
        tellPage(this.socket, "subscribe_error", channel, answer && answer.error);
      }
    }

    unsubscribe(channel) {
      const wish = this.wanted.get(channel);
      if (wish) {
        this.wanted.delete(channel);
        wish.sending = null;
        for (const resolve of wish.waiting.splice(0)) resolve({ ok: false, error: "unsubscribed" });
      }
      const presence = this.presences.get(channel);
      if (presence) presence.forget();
      if (!this.socket.connected) {
        this.refillBuffer();
        return Promise.resolve({ ok: true }); // the server forgot it with the connection
      }
      return new Promise((resolve) => {
        this.leaving.add(resolve);
        request(this.socket, UNSUBSCRIBE, channel, (answer) => {
          this.leaving.delete(resolve);
          resolve(answer);
        });
      });
    }

    disconnected() {
      for (const wish of this.wanted.values()) wish.held = false;
      for (const resolve of this.leaving) resolve({ ok: true }); // the server forgot it with the connection
      this.leaving.clear();
      for (const presence of this.presences.values()) presence.pause();
      this.refillBuffer();
    }

    /**
     * Puts the channels in front of what waits to be sent on the next connection: a message to a
     * channel must not arrive before the subscription. (In a "connect" listener it would be too
     * late: the client empties its buffer before it tells.)
     */
    refillBuffer() {
      const socket = this.socket;
      const others = [];
      for (const packet of socket.sendBuffer) {
        if (packet.data[0] === SUBSCRIBE) delete socket.acks[packet.id];
        else others.push(packet);
      }
      socket.sendBuffer = [];
      for (const [channel, wish] of this.wanted) this.send(channel, wish);
      socket.sendBuffer.push(...others);
    }

    presence(channel) {
      let presence = this.presences.get(channel);
      if (!presence) {
        this.presences.set(channel, (presence = new Presence(this.socket, channel)));
        // Its first state may have passed already; if a subscription is under way it is still to come.
        const wish = this.wanted.get(channel);
        if (!wish || wish.held) presence.ask();
      }
      return presence;
    }

    toPresence(message, method) {
      const presence = message && this.presences.get(message.channel);
      if (presence) presence[method](message);
    }
  }

  /**
   * Who is in a channel, kept up to date from the server's numbered changes.
   *
   *   members   Map of key -> array of metas, one for each of the key's connections
   *   count     number of keys; true as well where a channel is too big for the server to list members
   *   on("change", ({joins, updates, leaves}) => ...), off("change", listener), onchange(listener)
   *
   * After a disconnect the members stay until the next state, so that a page does not blink.
   */
  class Presence {
    constructor(socket, channel) {
      this.channel = channel;
      this.members = new Map();
      this.count = 0;
      this._socket = socket;
      this._listeners = new Set();
      this._epoch = null; // of the server's numbering; null while nothing is known
      this._revision = 0;
      this._listed = true; // false while the server only counts
      this._asking = false;
      this._left = false;
    }

    on(event, listener) {
      if (event !== "change") throw new TypeError(`a presence has the event "change", not "${event}"`);
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

    ask() {
      if (this._asking || !this._socket.connected) return;
      this._asking = true;
      request(this._socket, "presence_state", this.channel, (state) => {
        this._asking = false;
        if (state && state.channel === this.channel) this.setState(state);
      });
    }

    setState({ epoch, rev, members, count }) {
      if (this._left) return;
      if (epoch === this._epoch && rev < this._revision) return; // an answer that a later state overtook
      this._epoch = epoch;
      this._revision = rev;
      this._replace(members && new Map(Object.entries(members)), count);
    }

    applyDiff({ epoch, since, rev, joins, updates, leaves, count }) {
      if (this._left) return;
      if (epoch === this._epoch && rev <= this._revision) return; // part of the state already
      // Something was missed, or a channel that was only counted is listed again. A change that
      // reaches further back than our revision is no gap: it carries whole lists, not steps.
      if (epoch !== this._epoch || since > this._revision || (joins && !this._listed)) return this.ask();
      this._revision = rev;
      if (!joins) return this._replace(undefined, count);
      const members = new Map(this.members);
      for (const [key, metas] of Object.entries({ ...joins, ...updates })) members.set(key, metas);
      for (const key of Object.keys(leaves || {})) members.delete(key);
      this._replace(members, count);
    }

    /** The connection is gone; the numbering may be another one on the next. */
    pause() {
      this._epoch = null;
      this._asking = false;
    }

    /** The page left the channel. */
    forget() {
      this._left = true; // a state that is on its way already is of no use any more
      this.pause();
      this._replace(new Map());
    }

    /** Without members the server only counts: nobody is then said to have left, or later to have joined. */
    _replace(members, count = members ? members.size : 0) {
      const compared = members && this._listed;
      const change = compared ? differences(this.members, members) : { joins: {}, updates: {}, leaves: {} };
      const same = compared && count === this.count && !Object.values(change).some((part) => Object.keys(part).length);
      this._listed = members !== undefined;
      this.members = members || new Map();
      this.count = count;
      if (!same) for (const listener of [...this._listeners]) listener(change);
    }
  }

  function differences(before, after) {
    // Objects without a prototype, for which "__proto__" is a key like any other.
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

  /** A callback's own exception is reported as any promise's, and disturbs nobody. */
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
      return [...channels(this).wanted].filter(([, wish]) => wish.held).map(([channel]) => channel);
    },
  });

  // socket.off() without arguments, a common way to clean up, must not take our own listeners along.
  for (const name of ["off", "removeListener", "removeAllListeners", "removeEventListener"]) {
    const stock = Stock.prototype[name];
    Stock.prototype[name] = function (...args) {
      const result = stock.apply(this, args);
      if (channelsOf.has(this)) channels(this).listen();
      return result;
    };
  }

  // Milliseconds in which a page that sends something will have called connect().
  const FORGOTTEN = 5000;

  const told = new Set();

  /** A mistake of the page's, and its remedy, in the console: once. */
  function tell(text) {
    if (told.has(text)) return;
    told.add(text);
    console.error(`webpy_socketio: ${text}`);
  }

  /** What the server's answer says, if it is words and not a page. */
  function words(request) {
    const text = typeof request.responseText === "string" ? request.responseText.trim() : "";
    try {
      return `: ${JSON.parse(text).message}`;
    } catch {
      return !text || text.startsWith("<") || text.length > 300 ? "" : `: ${text}`;
    }
  }

  /**
   * Why there is no connection, where it can be known: to the page it is "xhr poll error" only. A server
   * that is away is no mistake.
   */
  function explain(socket, error) {
    const path = socket.io.opts.path.replace(/\/$/, "");
    const uri = String(socket.io.uri);
    const request = error.context || {};
    if (error.message === "Invalid namespace") {
      tell(
        `the server has no namespace "${socket.nsp}": see its SOCKETIO_NAMESPACES. ` +
          'io("/name") is a namespace, io({path: "/name"}) the path of the server\'s resource'
      );
    } else if (request.status === 404 && path !== PATH) {
      tell(`the server has no Socket.IO at ${path}; the one of this page has it at ${PATH}: io({path: "${PATH}"})`);
    } else if (request.status === 404) {
      tell(`the server has no Socket.IO at ${path}: are socketio_urls in its urls, or is its resource another one?`);
    } else if (request.status === 403) {
      tell(`the server refuses this page (403)${words(request)}; its log says what to set`);
    } else if (request.status === 400 || request.status === 500) {
      tell(`the server answers ${request.status}${words(request)}`);
    } else if (error.code === "parser error" || error.message === "server error") {
      tell(`what answers at ${path} is not Socket.IO: another pattern of the application's urls may come before`);
    } else if (typeof location !== "undefined" && location.protocol === "https:" && /^(http|ws):/.test(uri)) {
      tell(`a page from https may not connect to ${uri}: use https there, or io() without an address`);
    }
  }

  const emitReserved = Stock.prototype.emitReserved;
  Stock.prototype.emitReserved = function (event, ...args) {
    if (event === "connect_error") explain(this, args[0]);
    return emitReserved.call(this, event, ...args);
  };

  if (typeof document !== "undefined") {
    document.addEventListener("securitypolicyviolation", ({ effectiveDirective, blockedURI }) => {
      if (effectiveDirective === "connect-src" && blockedURI.includes(`${PATH}/`)) {
        tell("the page's Content-Security-Policy forbids the connection: it needs connect-src 'self'");
      }
    });
  }

  /** Stock sockets connect by themselves; this one waits, and who does not know that waits with it. */
  function remind(socket) {
    const timer = setTimeout(() => {
      if (!socket.active && socket.sendBuffer.length) {
        tell("what was sent or subscribed waits for the connection: call connect() on a new io.Socket()");
      }
    }, FORGOTTEN);
    if (timer.unref) timer.unref(); // Node.js would wait for it
    return socket;
  }

  /** new io.Socket(uri, options): the stock socket that waits for connect(). */
  function Socket(uri, options, ...rest) {
    if (uri instanceof io.Manager) return new Stock(uri, options, ...rest);
    if (uri && typeof uri === "object") return Socket(undefined, uri);
    // Not connecting by itself is the Manager's setting, so it must not be shared with what io() makes.
    return remind(io(uri || undefined, { path: PATH, ...options, autoConnect: false, forceNew: true }));
  }
  Socket.prototype = Stock.prototype; // for instanceof
  io.Socket = Socket;
})();
