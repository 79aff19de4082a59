// "Ann is typing…": told to the others now and then, forgotten when it is not told again, kept nowhere.
//
// Not a live region: a screen reader that reads messages would be interrupted by every key somebody presses.

import { $, listed } from "./parts.js";

const TELL_MS = 2000;
const FORGET_MS = 5000;

// The notes of others.
export class Typists {
  #known = new Map(); // who -> {name, timer}

  heard(name, who, on) {
    this.forget(who);
    if (on) this.#known.set(who, { name, timer: setTimeout(() => this.forget(who), FORGET_MS) });
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

// Our own notes; `tell(true)` is called at most every two seconds, and `tell(false)` at the end.
export class Typing {
  #told = -Infinity;

  constructor(tell) {
    this.tell = tell;
  }

  typed(something) {
    if (!something) return this.stopped();
    if (performance.now() < this.#told + TELL_MS) return;
    this.#told = performance.now();
    this.tell(true);
  }

  stopped() {
    if (performance.now() < this.#told + FORGET_MS) this.tell(false);
    this.#told = -Infinity;
  }
}
