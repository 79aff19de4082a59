// Unacknowledged messages: kept while there is no connection, and sent in order.
//
// Each message has a token. If its acknowledgement is lost with the connection, it is sent again; the
// server recognizes the token, and does not store the message twice.

import { $, element } from "./parts.js";

const MOST = 50;

export class Outbox {
  #texts = [];
  #sending = false;

  // `send({text, token, to})` resolves to {ok, error, lost}, or null if nothing can be sent now;
  // `onReject({text, to}, error)` is called for messages that will not be sent.
  constructor(send, onReject) {
    this.send = send;
    this.onReject = onReject;
  }

  add(text, to) {
    if (this.#texts.length >= MOST) return this.onReject({ text, to }, `At most ${MOST} messages can wait to be sent.`);
    this.#texts.push({ text, to, token: newToken() });
    this.#show();
  }

  // Send the queued messages one by one.
  async flush() {
    if (this.#sending) return;
    this.#sending = true;
    while (this.#texts.length) {
      const answer = await this.send(this.#texts[0]);
      if (!answer) break;
      if (answer.lost) continue; // again; null follows while there is no connection
      const text = this.#texts.shift();
      this.#show();
      if (!answer.ok) this.onReject(text, answer.error);
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
