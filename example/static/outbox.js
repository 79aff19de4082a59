// What was written and is not acknowledged yet: kept while there is no connection, sent in order.
//
// Each text has a token. When its answer is lost with the connection it is sent again, and the server, which
// knows the token, says it once.

import { $, element } from "./parts.js";

const MOST = 50;

export class Outbox {
  #texts = [];
  #sending = false;

  // `send({text, token, to})` answers {ok, error, lost}, or null if nothing can be sent now;
  // `refused({text, to}, error)` gets what nobody will send.
  constructor(send, refused) {
    this.send = send;
    this.refused = refused;
  }

  add(text, to) {
    if (this.#texts.length >= MOST) return this.refused({ text, to }, "That is as much as can wait to be sent.");
    this.#texts.push({ text, to, token: newToken() });
    this.#show();
  }

  // Send what waits, one after the other.
  async flush() {
    if (this.#sending) return;
    this.#sending = true;
    while (this.#texts.length) {
      const answer = await this.send(this.#texts[0]);
      if (!answer) break;
      if (answer.lost) continue; // again, or not before there is a connection
      const text = this.#texts.shift();
      this.#show();
      if (!answer.ok) this.refused(text, answer.error);
    }
    this.#sending = false;
  }

  #show() {
    $("waiting").replaceChildren(...this.#texts.map(({ text }) => element("li", "", text)));
  }
}

function newToken() {
  return [...crypto.getRandomValues(new Uint32Array(4))].map((part) => part.toString(36)).join("-");
}
