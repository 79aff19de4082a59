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
const socket = new io.Socket({ reconnection: false }); // connection.js does it, and shows how

// The name to be here under. Neither a lost connection nor a reload changes it.
const NAME = `name in ${channel}`;
let wanted = recall();
let me = null; // that name, once the server agreed
let addressee = null; // whom a private message goes to

const history = new History(
  (number) => ask("history", number),
  (message) => {
    typists.forget(message.who);
    if (message.live) people.spoke(message);
    addMessage(message, message.who === who);
  },
);
const outbox = new Outbox(
  ({ text, token, to }) => {
    if (!socket.connected || !me) return null;
    return to ? ask("private", to, { text, token }) : ask("message", { text, token });
  },
  ({ text, to }, error) => {
    $("say-error").textContent = error;
    if (!$("text").value) $("text").value = text; // nothing typed is lost
  },
);
const people = new People(socket.presence(channel), who, {
  writeTo: address,
  sendAway: "admin" in room.dataset ? sendAway : null,
  tell: addEvent,
});
const typists = new Typists();
const typing = new Typing((on) => socket.connected && socket.emit("typing", on));
const privates = new Set(); // tokens of private messages: one that was sent again is shown once

// The connection

socket.on("connect", async () => {
  people.back();
  await history.catchUp(); // the extension has subscribed before
  if (wanted && socket.connected) join();
  $("log").ariaLive = "polite"; // what was said before is not read out, what comes is
});

socket.on("disconnect", () => {
  people.lost();
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

socket.on("missed", () => history.catchUp()); // the server knows, or fears, that something did not get here

socket.on("typing", (name, typist, on) => typist !== who && typists.heard(name, typist, on));

socket.subscribe(channel).then((answer) => answer.ok || refused(answer.error));
socket.on("subscribe_error", (_, error) => refused(error)); // when it is renewed on a new connection
keepConnected(socket, show);

// The gate of this room said no.
function refused(error) {
  show("refused");
  say($("state"), error);
}

// Who was sent away can read what is there, and do nothing but try again.
function show(state) {
  room.dataset.state = state;
  const stopped = state === "stopped";
  const hadFocus = stopped && $("content").contains(document.activeElement);
  for (const control of $("content").querySelectorAll("input, textarea, button")) control.disabled = stopped;
  $("leave").disabled = $("people").inert = stopped;
  if (hadFocus) $("retry").focus();
}

// Ask the server something; the answer is always {ok, error, …}.
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
  await history.catchUp(); // what was said before stands above "You joined"
  const answer = await ask("join", wanted);
  if (answer.lost && !socket.connected) return; // the next "connect" tries again
  $("join-error").textContent = answer.ok ? "" : answer.error;
  enter(answer.ok ? answer.name : null);
  outbox.flush();
}

$("leave").addEventListener("click", () => {
  typing.stopped();
  if (socket.connected) socket.emit("leave");
  enter(null);
});

// Be here under a name from now on, or (null) not any more.
function enter(name) {
  const before = me;
  me = wanted = name;
  remember(name);
  $("me").textContent = name;
  $("join").hidden = Boolean(me);
  $("say").hidden = $("leave").hidden = !me;
  if (Boolean(before) === Boolean(me)) return; // back after a lost connection, or refused once more
  if (me) people.begin();
  else people.end();
  addEvent(null, me ? "joined" : "left");
  $(me ? "text" : "name").focus();
}

// This tab's name, for a reload. A browser that keeps nothing for the page forgets it.
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

// The keyboard of a phone leaves little room: some browsers make the page smaller, Safari covers its lower half.
function fit() {
  const { height, scale } = visualViewport;
  if (scale !== 1) return; // the reader looks at a part of the page through a magnifier
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

// Write to one person from now on, or (null) to all.
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
