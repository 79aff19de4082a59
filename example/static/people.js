// Who is here: the list beside the log, and in the log who came and who went.

import { $, avatar, bdi, button, element } from "./parts.js";

const SETTLE_MS = 6000; // after a lost connection others come back one by one: until then nobody "left" or "joined"
const LATE_MS = 5000; // a message and the server's word of its author may come in either order, this far apart
const GATHER_MS = 1000; // one is told at once, whoever comes or goes soon after is told together

export class People {
  #items = new Map(); // key -> its <li>; kept, as one of its buttons may have the focus
  #told = null; // while joined: those of whom the log has told, as a Map from `identity` to the name
  #gone = new Map(); // identity of those who have just left -> when
  #early = new Map(); // identity of those whose message came before the server's word of them -> when
  #pause = null; // the timer of a time in which the log tells nothing

  // `who` is this browser; `writeTo(person)` and, for admins, `sendAway(person)` are what buttons do;
  // `tell(names, what)` writes into the log.
  constructor(presence, who, { writeTo, sendAway, tell }) {
    Object.assign(this, { presence, who, writeTo, sendAway, tell });
    presence.on("change", () => {
      this.show();
      if (this.#pause === null && this.#announce()) this.#quiet(GATHER_MS);
    });
  }

  show(joined = this.#told !== null) {
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

  // Joined: from now on the log tells who comes and goes. Left: it does not any more.
  begin() {
    this.#told = this.#here();
    this.show();
  }

  end() {
    this.#told = null;
    this.show();
  }

  // Announce the author of a message that is about to be shown, even if their presence arrives later.
  spoke({ who, name }) {
    const key = identity({ who, name });
    const { members, count } = this.presence;
    if (!this.#told || members.size !== count || who === this.who || this.#told.has(key)) return;
    forgetOld(this.#gone);
    if (this.#gone.has(key)) return; // their last words
    this.#told.set(key, name);
    this.#early.set(key, Date.now());
    this.tell([name], "joined");
  }

  // The connection is lost: what looks like leaving is not. It is back: that is so for a while yet.
  lost() {
    clearTimeout(this.#pause);
    this.#pause = Infinity;
  }

  back() {
    if (this.#pause === Infinity) this.#quiet(SETTLE_MS);
  }

  #quiet(ms) {
    this.#pause = setTimeout(() => {
      this.#pause = null;
      this.#announce();
    }, ms);
  }

  // Tell which others came and went since it was last told; returns whether any did.
  #announce() {
    const { members, count } = this.presence;
    if (!this.#told || members.size !== count) return false; // a big room has a count only
    const here = this.#here();
    forgetOld(this.#early);
    forgetOld(this.#gone);
    for (const [key, name] of this.#told) if (this.#early.has(key)) here.set(key, name);
    const others = (some, without) => [...some].filter(([key]) => !without.has(key));
    const [came, went] = [others(here, this.#told), others(this.#told, here)];
    if (came.length) this.tell(came.map(([, name]) => name), "joined");
    if (went.length) this.tell(went.map(([, name]) => name), "left");
    for (const [key] of went) this.#gone.set(key, Date.now());
    this.#told = here;
    return came.length + went.length > 0;
  }

  // The other people in the room, as a Map from `identity` to the name.
  #here() {
    const people = [...this.presence.members.values()].map(([person]) => person);
    return new Map(people.filter(({ who }) => who !== this.who).map((person) => [identity(person), person.name]));
  }
}

function forgetOld(times) {
  for (const [key, when] of times) if (Date.now() > when + LATE_MS) times.delete(key);
}

// The same for what presence knows of a person and for a message of theirs.
function identity({ who, name }) {
  return JSON.stringify([who, name]);
}
