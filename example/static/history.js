// What was said in the room, in the order of its numbers, each once.
//
// Numbers have no gap: one that is too high tells that something was missed, which is then fetched.

export class History {
  #last = 0; // the number of the last message that was shown
  #early = new Map(); // those behind a gap, by number
  #fetching = null; // the promise of a fetch that is under way
  #again = false;

  // `fetch(number)` answers {ok, messages} with what follows that number.
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

  // Fetch what was missed; resolves when it is shown.
  catchUp() {
    this.#again = true;
    this.#fetching ??= this.#fetch().finally(() => (this.#fetching = null));
    return this.#fetching;
  }

  async #fetch() {
    while (this.#again) {
      this.#again = false;
      const { messages } = await this.fetch(this.#last);
      if (!messages) break; // the next message, or the next connection, asks again
      for (const message of messages) this.#early.set(message.id, message);
      if (messages.length) this.#last = Math.max(this.#last, messages[0].id - 1); // what is older is not kept
      this.#showNext();
      if (this.#early.size && messages.length) this.#again = true; // what came meanwhile left another gap
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
