// The state of the connection, shown on the page: connected, reconnecting, offline, sent away.

import { $, say } from "./parts.js";

const FIRST_MS = 1000;
const MOST_MS = 8000;

// Keep `socket` connected, and call `onState` with each state: connecting, online, waiting, offline, stopped.
export function keepConnected(socket, onState) {
  let tries = 0;
  let due = 0; // time of the next attempt
  let timer = null;
  let farewell = null;

  socket.on("connect", () => {
    tries = 0;
    show("online", "Connected");
  });
  socket.on("disconnect", (reason) => {
    if (reason.startsWith("io ")) stop(farewell ?? "The server has closed the connection.");
    else later("Connection lost. Reconnecting");
  });
  socket.on("connect_error", (error) => {
    if (socket.active) later("The server cannot be reached. Trying again");
    else stop(error.message); // a gate's reason
  });
  socket.on("goodbye", (whom, why) => {
    if (whom !== $("room").dataset.who) return;
    farewell = why;
    socket.disconnect();
  });
  addEventListener("online", () => $("room").dataset.state === "offline" && connect());
  addEventListener("offline", () => timer && later());
  // A browser may close the connection without code 1001; the server would await a reconnection.
  addEventListener("pagehide", (event) => event.persisted || socket.disconnect());
  $("retry").addEventListener("click", connect);
  connect();

  function connect() {
    clearTimeout(timer);
    timer = farewell = null;
    $("countdown").textContent = "…";
    socket.connect();
  }

  function later(text) {
    clearTimeout(timer);
    timer = null;
    if (!navigator.onLine) return show("offline", "You are offline. Your messages are sent later.");
    const ms = Math.min(FIRST_MS * 2 ** tries++, MOST_MS);
    due = Date.now() + ms * (0.5 + Math.random() / 2); // spread reconnections after a restart of the server
    show("waiting", text);
    tick();
  }

  function tick() {
    const ms = due - Date.now();
    if (ms <= 0) return connect();
    $("countdown").textContent = ` in ${Math.ceil(ms / 1000)} s`; // hidden from screen readers, which it would interrupt every second
    timer = setTimeout(tick, Math.min(ms, 1000));
  }

  function stop(text) {
    clearTimeout(timer);
    timer = null;
    show("stopped", text);
  }

  function show(state, text) {
    say($("state"), text);
    $("countdown").textContent = "";
    const hadFocus = document.activeElement === $("retry");
    $("retry").hidden = state === "online" || state === "offline";
    onState(state);
    if (hadFocus && $("retry").hidden) document.querySelector(".bar form:not([hidden]) :is(input, textarea)").focus();
  }
}
