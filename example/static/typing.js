// "Ann is typing…": sent at intervals while typing, expires without a repetition, never stored.
//
// Not a live region: a screen reader would be interrupted by every key that another user presses.

import { $, listed } from "./parts.js";

const REPEAT_MS = 2000;
const EXPIRE_MS = 5000;

// The typing indicators of others.
export class Typists {
  #known = new Map(); // who -> {name, timer}

  update(name, who, on) {
    this.forget(who);
    if (on) this.#known.set(who, { name, timer: setTimeout(() => this.forget(who), EXPIRE_MS) });
    this.#show();
  }

  forget(who) {
    clearTimeout(this.#known.get(who)?.timer);
    this.#known.delete(who);
    this.#show();
  }

  clear() {
    for (const who of [...this.#known.keys()]) this.forget(who);
  }

  #show() {
    const names = [...this.#known.values()].map(({ name }) => name);
    const text = names.length ? [...listed(names), names.length > 1 ? " are typing…" : " is typing…"] : [];
    $("typing").replaceChildren(...text);
  }
}

// This user's typing indicators; `send(true)` is called at most every two seconds, and `send(false)` at the end.
export class Typing {
  #sent = -Infinity;

  constructor(send) {
    this.send = send;
  }

  typed(text) {
    if (!text) return this.stopped();
    if (performance.now() < this.#sent + REPEAT_MS) return;
    this.#sent = performance.now();
    this.send(true);
  }

  stopped() {
    if (performance.now() < this.#sent + EXPIRE_MS) this.send(false);
    this.#sent = -Infinity;
  }
}
