// The page of a room: one connection, one channel.

import { keepConnected } from "./connection.js";
import { History } from "./history.js";
import { addEvent, addMessage, addPrivateMessage, addSystemMessage } from "./log.js";
import { Outbox } from "./outbox.js";
import { $, say } from "./parts.js";
import { People } from "./people.js";
import { Typing, Typists } from "./typing.js";

const ANSWER_MS = 8000;

const room = $("room");
const { channel, who } = room.dataset; // `who` is this browser, as others see it
const socket = new io.Socket({ reconnection: false }); // connection.js reconnects, and shows its state

// The user's name in the room. It survives a lost connection and a reload.
const NAME = `name in ${channel}`;
let wanted = recall();
let me = null; // that name, once the server has accepted it
let joined = false; // whether the server knows it on the current connection
let addressee = null; // recipient of private messages

const history = new History(
  (number) => ask("history", number),
  (message) => {
    typists.forget(message.who);
    if (message.live) people.announceAuthor(message);
    addMessage(message, message.who === who);
  },
);
const outbox = new Outbox(
  ({ text, token, to }) => {
    if (!socket.connected || !joined) return null;
    return to ? ask("private", to, { text, token }) : ask("message", { text, token });
  },
  ({ text, to }, error) => {
    $("say-error").textContent = error;
    if (!$("text").value) $("text").value = text; // restore the text
  },
);
const people = new People(socket.presence(channel), who, {
  writeTo: address,
  sendAway: "admin" in room.dataset ? sendAway : null,
  log: addEvent,
});
const typists = new Typists();
const typing = new Typing((on) => socket.connected && socket.volatile.emit("typing", on));
const privates = new Set(); // tokens of private messages: repetitions are not shown

// The connection

socket.on("connect", async () => {
  people.resume();
  joined = Boolean(socket.recovered && me);
  if (joined) {
    outbox.flush(); // this page has its name, and receives what it missed
    return;
  }
  await history.catchUp(); // the extension has subscribed already
  if (wanted && socket.connected) join();
  $("log").ariaLive = "polite"; // screen readers read new messages only, not the history
});

socket.on("disconnect", () => {
  joined = false;
  people.suspend();
  typists.clear();
});

socket.on("message", (message) => {
  if (message.kind === "said") history.take({ ...message, live: true });
  if (message.kind === "system") addSystemMessage(message);
  if (message.kind === "private" && !privates.has(message.token)) {
    privates.add(message.token);
    addPrivateMessage(message, message.who === who);
  }
});

socket.on("missed", () => history.catchUp()); // messages may be missing

socket.on("typing", (name, typist, on) => typist !== who && typists.update(name, typist, on));

socket.subscribe(channel).then((answer) => answer.ok || rejected(answer.error));
socket.on("subscribe_error", (_, error) => rejected(error)); // when it is renewed on a new connection
keepConnected(socket, show);

// The gate of this room rejected the subscription.
function rejected(error) {
  show("refused");
  say($("state"), error);
}

// A user who was sent away can read the log, and only try again.
function show(state) {
  room.dataset.state = state;
  const stopped = state === "stopped";
  const hadFocus = stopped && $("content").contains(document.activeElement);
  for (const control of $("content").querySelectorAll("input, textarea, button")) control.disabled = stopped;
  $("leave").disabled = $("people").inert = stopped;
  if (hadFocus) $("retry").focus();
}

// Emit an event; resolves to {ok, error, …} in any case.
async function ask(event, ...args) {
  try {
    return (await socket.timeout(ANSWER_MS).emitWithAck(event, ...args)) ?? { ok: false, error: "That did not work." };
  } catch {
    return { ok: false, error: "No answer from the server.", lost: true };
  }
}

// Joining and leaving

$("join").addEventListener("submit", (event) => {
  event.preventDefault();
  wanted = $("name").value;
  if (socket.connected) join();
});

async function join() {
  await history.catchUp(); // older messages are shown above "You joined"
  const answer = await ask("join", wanted);
  if (answer.lost && !socket.connected) return; // retried on the next "connect"
  $("join-error").textContent = answer.ok ? "" : answer.error;
  enter(answer.ok ? answer.name : null);
  outbox.flush();
}

$("leave").addEventListener("click", () => {
  typing.stopped();
  socket.emit("leave"); // sent later, if the connection is lost: the server keeps the name until then
  enter(null);
});

// Use this name from now on; null: no name.
function enter(name) {
  const before = me;
  me = wanted = name;
  joined = Boolean(me);
  remember(name);
  $("me").textContent = name;
  $("join").hidden = Boolean(me);
  $("say").hidden = $("leave").hidden = !me;
  if (Boolean(before) === Boolean(me)) return; // reconnected, or rejected again
  if (me) people.startLogging();
  else people.stopLogging();
  addEvent(null, me ? "joined" : "left");
  $(me ? "text" : "name").focus();
}

// This tab's name, across a reload. A browser without storage forgets it.
function remember(name) {
  try {
    if (name) sessionStorage.setItem(NAME, name);
    else sessionStorage.removeItem(NAME);
  } catch {}
}

function recall() {
  try {
    return sessionStorage.getItem(NAME);
  } catch {
    return null;
  }
}

// The keyboard of a phone leaves little room: some browsers shrink the page, Safari covers its lower half.
function fit() {
  const { height, scale } = visualViewport;
  if (scale !== 1) return; // the user has zoomed in
  const { style, classList } = document.body;
  style.height = style.minHeight = height < innerHeight ? `${height}px` : "";
  classList.toggle("short", height < 450);
}
visualViewport.addEventListener("resize", fit);
fit();

// Talking

$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = $("text");
  const text = field.value;
  if (!text.trim()) return;
  field.value = $("say-error").textContent = "";
  typing.stopped();
  field.focus();
  outbox.add(text, addressee?.who);
  outbox.flush();
});

$("say").addEventListener("keydown", (event) => event.key === "Escape" && addressee && address(null));

$("text").addEventListener("input", () => addressee || typing.typed($("text").value));

$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("say").requestSubmit();
});

$("to-all").addEventListener("click", () => address(null));

// Write to one user from now on; null: to all.
function address(person) {
  addressee = person;
  $("to").hidden = !person;
  $("hint").hidden = Boolean(person);
  $("to-name").textContent = person?.name;
  typing.stopped();
  $("text").focus();
}

async function sendAway(person) {
  if (!confirm(`Send ${person.name} away for a minute?`)) return;
  const answer = await ask("send away", person.who);
  if (!answer.ok) $("say-error").textContent = answer.error;
}

// Before this, the browser itself would have submitted the forms, and lost their content.
if (room.dataset.state === "connecting") show("connecting");
