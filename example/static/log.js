// The log: messages and other events of the room.

import { $, avatar, bdi, clock, element, linked, listed } from "./parts.js";

const MOST_LINES = 500; // older lines are removed, so that a page left open does not grow without limit
const GROUP_SECONDS = 300; // messages of one user within this time are grouped under one name

let last = null; // the last line, if it is a message
let atEnd = true; // false while the user reads older lines: do not scroll

let height = 0; // height of the log at the last check

$("log").addEventListener("scroll", () => {
  const { scrollHeight, scrollTop, clientHeight } = $("log");
  if (clientHeight === height) atEnd = scrollHeight - scrollTop - clientHeight < 80; // else the observer runs next
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
