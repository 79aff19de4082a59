// The page of a room: one connection, one channel. What people typed goes in as text, never as HTML.

const MOST_LINES = 500; // older ones go, so that a page left open does not grow for ever
const ANSWER_MS = 8000;
const SETTLE_MS = 6000; // after a lost connection others come back one by one: until then nobody "left" or "joined"
const GROUP_SECONDS = 300; // messages of one person closer than this stand under one name

const $ = (id) => document.getElementById(id);
const room = $("room");
const socket = new io.Socket();
const presence = socket.presence(room.dataset.channel);

let wanted = null; // the name to be here under; a lost connection does not change it
let me = null; // {name, who} once the server agreed
let who = null; // which people of the list this browser is
let announced = null; // while joined: the members of whom the log has told
let calm = true; // false from a lost connection until the others had time to come back
let calmTimer = null;

// The connection

socket.on("connect", () => {
  setState("online");
  if (wanted) join(); // the extension has subscribed again before
  if (!calm) calmTimer = setTimeout(settle, SETTLE_MS);
});

socket.on("disconnect", () => {
  clearTimeout(calmTimer);
  calm = false;
  setState("offline", socket.active ? "Connection lost. Reconnecting…" : "Disconnected. Reload the page to come back.");
});

socket.on("connect_error", () => setState("offline", "The server cannot be reached. Trying again…"));

socket.on("message", (message) => {
  if (message.kind === "said") addMessage(message);
  if (message.kind === "system") addSystemMessage(message);
});

presence.on("change", () => {
  showPeople();
  announce();
});

socket.subscribe(room.dataset.channel).then((answer) => {
  if (!answer.ok) setState("refused", answer.error);
});
socket.connect();

// Ask the server something; the answer is always {ok, error, …}.
async function ask(event, ...args) {
  try {
    return (await socket.timeout(ANSWER_MS).emitWithAck(event, ...args)) ?? { ok: false, error: "That did not work." };
  } catch {
    return { ok: false, error: "No answer from the server.", lost: true };
  }
}

function setState(state, text = "") {
  room.dataset.state = state;
  $("state").textContent = text;
}

// Joining, talking, leaving

$("join").addEventListener("submit", (event) => {
  event.preventDefault();
  wanted = $("name").value;
  if (socket.connected) join();
});

async function join() {
  const answer = await ask("join", wanted);
  if (answer.lost && !socket.connected) return; // the next "connect" tries again
  $("join-error").textContent = answer.ok ? "" : answer.error;
  enter(answer.ok ? answer : null);
}

$("leave").addEventListener("click", () => {
  if (socket.connected) socket.emit("leave");
  enter(null);
});

// Be here under a name from now on, or (null) not any more.
function enter(person) {
  const before = me;
  me = person;
  wanted = me?.name ?? null;
  who = me?.who ?? who;
  $("me").textContent = wanted;
  $("join").hidden = Boolean(me);
  $("say").hidden = $("leave").hidden = !me;
  showPeople();
  if (Boolean(before) === Boolean(me)) return; // back after a lost connection, or refused once more
  announced = me && new Map(presence.members);
  addEvent(me ?? before, me ? "joined" : "left");
  $(me ? "text" : "name").focus();
}

$("say").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = $("text");
  const text = field.value;
  if (!text.trim() || !socket.connected) return;
  field.value = "";
  const answer = await ask("message", text); // socket.send(text), with an answer
  $("say-error").textContent = answer.ok ? "" : answer.error;
  if (!answer.ok && !field.value) field.value = text; // nothing typed is lost
});

$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("say").requestSubmit();
});

// Who is here

function showPeople() {
  $("count").textContent = presence.count;
  const people = [...presence.members.values()].map((metas) => metas[0]);
  people.sort((a, b) => a.name.localeCompare(b.name));
  $("people").replaceChildren(
    ...people.map((person) => {
      const item = element("li", person.who === who ? "self" : "");
      item.append(avatar(person.name), element("bdi", "name", person.name));
      return item;
    }),
  );
}

// Tell in the log which others came and went since it last told.
function announce() {
  if (!announced || !calm || presence.members.size !== presence.count) return; // a big room has a count only
  const here = new Map(presence.members);
  const tell = ([person], what) => person.who !== who && addEvent(person, what);
  for (const [key, metas] of here) if (!announced.has(key)) tell(metas, "joined");
  for (const [key, metas] of announced) if (!here.has(key)) tell(metas, "left");
  announced = here;
}

function settle() {
  calm = true;
  announce();
}

// The log

let last = null; // the message at its end, if it is one

function addMessage(message) {
  const follows = last && last.who === message.who && last.name === message.name && message.time - last.time < GROUP_SECONDS;
  const line = element("div", `message${message.who === who ? " own" : ""}${follows ? " follows" : ""}`);
  const by = element("p", "by");
  by.append(element("bdi", "name", message.name), " ", clock(message.time));
  const text = element("p", "text", message.text);
  text.dir = "auto";
  line.append(avatar(message.name), by, text);
  add(line, message.who === who);
  last = message;
}

function addSystemMessage(message) {
  const line = element("div", "system");
  const by = element("p", "by", "System message ");
  by.append(clock(message.time));
  const text = element("p", "text", message.text);
  text.dir = "auto";
  line.append(by, text);
  add(line);
}

function addEvent(person, what) {
  const line = element("p", "event");
  line.append(person.who === who ? "You" : element("bdi", "name", person.name), ` ${what}`);
  add(line);
}

function add(line, own = false) {
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  log.append(line);
  if (log.childElementCount > MOST_LINES) log.firstElementChild.remove();
  if (atEnd || own) log.scrollTop = log.scrollHeight; // somebody who reads further up stays there
  last = null;
}

// Small parts

function element(tag, className, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

function clock(seconds) {
  const date = new Date(seconds * 1000);
  const node = element("time", "", date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  node.dateTime = date.toISOString();
  return node;
}

// A coloured disc with the first letter, the same for a name everywhere.
function avatar(name) {
  const [first] = new Intl.Segmenter().segment(name);
  const node = element("span", "avatar", first.segment.toLocaleUpperCase());
  node.ariaHidden = "true";
  const hash = [...name].reduce((sum, c) => (sum * 31 + c.codePointAt(0)) % 9973, 7);
  node.style.setProperty("--hue", (hash * 137.5) % 360); // the golden angle keeps neighbours apart
  return node;
}
