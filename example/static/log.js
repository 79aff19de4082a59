// The log: messages, and what else happens in the room.

import { $, avatar, bdi, clock, element, linked, listed } from "./parts.js";

const MOST_LINES = 500; // older ones go, so that a page left open does not grow for ever
const GROUP_SECONDS = 300; // messages of one person closer than this stand under one name

let last = null; // the message at its end, if it is one
let atEnd = true; // somebody who reads further up stays there

let height = 0; // of the log, when its end was last looked at

$("log").addEventListener("scroll", () => {
  const { scrollHeight, scrollTop, clientHeight } = $("log");
  if (clientHeight === height) atEnd = scrollHeight - scrollTop - clientHeight < 80; // else the observer is about to run
});
new ResizeObserver(() => {
  height = $("log").clientHeight;
  if (atEnd) toEnd();
}).observe($("log"));

function toEnd() {
  $("log").scrollTop = $("log").scrollHeight;
}

export function addMessage(message, own) {
  const follows = last && last.who === message.who && last.name === message.name && message.time - last.time < GROUP_SECONDS;
  const line = element("div", `message${own ? " own" : ""}${follows ? " follows" : ""}`);
  const by = element("p", "by");
  by.append(bdi(message.name), " ", clock(message.time));
  line.append(avatar(message.name), by, written(message));
  add(line, own);
  last = message;
}

export function addPrivateMessage(message, own) {
  const line = element("div", `message private${own ? " own" : ""}`);
  const by = element("p", "by");
  by.append(own ? "Private to " : "Private from ", bdi(own ? message.to : message.name), " ", clock(message.time));
  line.append(avatar(message.name), by, written(message));
  add(line, own);
}

export function addSystemMessage(message) {
  const line = element("div", "system");
  const by = element("p", "by", "System message ");
  by.append(clock(message.time));
  line.append(by, written(message));
  add(line);
}

export function addEvent(names, what) {
  const line = element("p", "event");
  line.append(...(names ? listed(names) : ["You"]), ` ${what}`);
  add(line);
}

function written({ text }) {
  const node = element("p", "text");
  node.append(...linked(text));
  node.dir = "auto";
  return node;
}

function add(line, own = false) {
  const log = $("log");
  log.append(line);
  if (log.childElementCount > MOST_LINES) log.firstElementChild.remove();
  if (atEnd || own) toEnd();
  last = null;
}
