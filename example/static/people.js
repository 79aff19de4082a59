// The users in the room: the list beside the log, and their joining and leaving in the log.

import { $, avatar, bdi, button, element } from "./parts.js";

const SETTLE_MS = 6000; // after a lost connection users return one by one: nothing is logged during this time
const LATE_MS = 5000; // a message and its author's presence arrive in any order, at most this far apart
const RETURN_MS = 3000; // leaving is logged after this time: a reload is a new connection
const GATHER_MS = 1000; // after a logged change, further changes are gathered for this time

export class People {
  #items = new Map(); // key -> its <li>; reused, because one of its buttons may have the focus
  #logged = null; // while joined: the users whose presence was logged, as a Map from `identity` to the name
  #gone = new Map(); // identity of users who have just left -> time
  #early = new Map(); // identity of users whose message arrived before their presence -> time
  #pause = null; // timer of the time in which nothing is logged

  // `who` is this browser; `writeTo(person)` and, for admins, `sendAway(person)` are the actions of buttons;
  // `log(names, what)` appends to the log.
  constructor(presence, who, { writeTo, sendAway, log }) {
    Object.assign(this, { presence, who, writeTo, sendAway, log });
    presence.on("change", () => {
      this.show();
      if (this.#pause !== null) return;
      if (this.#hasLeft()) this.#pauseFor(RETURN_MS);
      else if (this.#logChanges()) this.#pauseFor(GATHER_MS);
    });
  }

  show(joined = this.#logged !== null) {
    const { members, count } = this.presence;
    $("count").textContent = count;
    $("private-hint").hidden = members.size < 2;
    for (const [key, item] of this.#items) {
      if (members.has(key)) continue;
      if (item.contains(document.activeElement)) $("text").focus();
      item.remove();
      this.#items.delete(key);
    }
    const sorted = [...members].sort(([, a], [, b]) => a[0].name.localeCompare(b[0].name));
    sorted.forEach(([key, metas], place) => {
      const item = this.#item(key, metas, joined);
      if ($("people").children[place] !== item) $("people").insertBefore(item, $("people").children[place] ?? null);
    });
  }

  #item(key, metas, joined) {
    const [person] = metas;
    const shape = JSON.stringify([person.name, person.who, person.admin, joined]);
    let item = this.#items.get(key);
    if (!item || item.dataset.shape !== shape) {
      const next = this.#make(person, joined);
      next.dataset.shape = shape;
      item?.replaceWith(next);
      this.#items.set(key, (item = next));
    }
    item.querySelector(".tabs").textContent = metas.length > 1 ? `${metas.length} tabs` : "";
    return item;
  }

  #make(person, joined) {
    const self = person.who === this.who;
    const item = element("li", self ? "self" : "");
    const name = self || !joined ? element("span", "person") : button("person", "", () => this.writeTo(person));
    name.append(avatar(person.name), bdi(person.name));
    if (name.localName === "button") name.ariaLabel = name.title = `Private message to ${person.name}`;
    item.append(name);
    if (self) item.append(element("span", "soft", "(you)"));
    if (person.admin) item.append(element("span", "badge", "admin"));
    item.append(element("span", "soft tabs"));
    if (this.sendAway && !self && !person.admin) {
      const away = button("quiet small", "Send away", () => this.sendAway(person));
      away.ariaLabel = `Send away ${person.name}`;
      item.append(away);
    }
    return item;
  }

  // Log joining and leaving users from now on, after this user has joined.
  startLogging() {
    this.#logged = this.#here();
    this.show();
  }

  stopLogging() {
    this.#logged = null;
    this.show();
  }

  // Log the author of a message that is about to be shown, even if their presence arrives later.
  announceAuthor({ who, name }) {
    const key = identity({ who, name });
    const { members, count } = this.presence;
    if (!this.#logged || members.size !== count || who === this.who || this.#logged.has(key)) return;
    forgetOld(this.#gone);
    if (this.#gone.has(key)) return; // sent before they left
    this.#logged.set(key, name);
    this.#early.set(key, Date.now());
    this.log([name], "joined");
  }

  // Log nothing while the connection is lost, and until the users have returned after it.
  suspend() {
    clearTimeout(this.#pause);
    this.#pause = Infinity;
  }

  resume() {
    if (this.#pause === Infinity) this.#pauseFor(SETTLE_MS);
  }

  #pauseFor(ms) {
    this.#pause = setTimeout(() => {
      this.#pause = null;
      this.#logChanges();
    }, ms);
  }

  // Log the users who joined and left since the last call; return whether there were any.
  #logChanges() {
    const { members, count } = this.presence;
    if (!this.#logged || members.size !== count) return false; // large rooms have only a count
    const here = this.#here();
    forgetOld(this.#early);
    forgetOld(this.#gone);
    for (const [key, name] of this.#logged) if (this.#early.has(key)) here.set(key, name);
    const others = (some, without) => [...some].filter(([key]) => !without.has(key));
    const [came, went] = [others(here, this.#logged), others(this.#logged, here)];
    if (came.length) this.log(came.map(([, name]) => name), "joined");
    if (went.length) this.log(went.map(([, name]) => name), "left");
    for (const [key] of went) this.#gone.set(key, Date.now());
    this.#logged = here;
    return came.length + went.length > 0;
  }

  // Whether a user whose presence was logged is not here.
  #hasLeft() {
    const { members, count } = this.presence;
    if (!this.#logged || members.size !== count) return false;
    const here = this.#here();
    return [...this.#logged.keys()].some((key) => !here.has(key) && !this.#early.has(key));
  }

  // The other users in the room, as a Map from `identity` to the name.
  #here() {
    const people = [...this.presence.members.values()].map(([person]) => person);
    return new Map(people.filter(({ who }) => who !== this.who).map((person) => [identity(person), person.name]));
  }
}

function forgetOld(times) {
  for (const [key, when] of times) if (Date.now() > when + LATE_MS) times.delete(key);
}

// The same key for a user's presence and for a user's message.
function identity({ who, name }) {
  return JSON.stringify([who, name]);
}
