// The messages of the room in the order of their numbers, each once.
//
// Numbers have no gaps: a number out of sequence means that messages were missed; these are fetched.

export class History {
  #last = 0; // number of the last message shown
  #early = new Map(); // messages behind a gap, by number
  #fetching = null; // promise of the running fetch
  #again = false;

  // `fetch(number)` resolves to {ok, messages} with the messages after that number.
  constructor(fetch, show) {
    this.fetch = fetch;
    this.show = show;
  }

  take(message) {
    if (message.id <= this.#last) return;
    this.#early.set(message.id, message);
    this.#showNext();
    if (this.#early.size) this.catchUp();
  }

  // Fetch missed messages; resolves when they are shown.
  catchUp() {
    this.#again = true;
    this.#fetching ??= this.#fetch().finally(() => (this.#fetching = null));
    return this.#fetching;
  }

  async #fetch() {
    while (this.#again) {
      this.#again = false;
      const { messages } = await this.fetch(this.#last);
      if (!messages) break; // the next message or connection retries
      for (const message of messages) this.#early.set(message.id, message);
      if (messages.length) this.#last = Math.max(this.#last, messages[0].id - 1); // older messages are not kept
      this.#showNext();
      if (this.#early.size && messages.length) this.#again = true; // another gap has appeared meanwhile
    }
  }

  #showNext() {
    for (const id of this.#early.keys()) if (id <= this.#last) this.#early.delete(id);
    for (let message; (message = this.#early.get(this.#last + 1)); ) {
      this.#early.delete(++this.#last);
      this.show(message);
    }
  }
}
