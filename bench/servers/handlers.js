// Handlers of the servers in JavaScript; `collect` collects garbage.
"use strict";

module.exports = (io, handlers, collect) => {
  const turn = () => new Promise(setImmediate);
  let connected = 0;

  async function go({ count, per_turn, size, messages = ["x".repeat(size)] }, acknowledge) {
    let sent = 0;
    for (let turns = count / per_turn; turns > 0; turns--) {
      for (let n = 0; n < per_turn; n++) io.to("bench").emit("message", messages[sent++ % messages.length]);
      await turn();
    }
    acknowledge();
  }

  io.on("connection", (socket) => {
    connected++;
    socket.on("disconnect", () => connected--);
    socket.on("__subscribe__", (channel, acknowledge) => {
      socket.join(channel);
      acknowledge({ ok: true });
    });
    socket.on("__unsubscribe__", (channel, acknowledge) => {
      socket.leave(channel);
      acknowledge({ ok: true });
    });
    socket.on("message", (message, acknowledge) => acknowledge(message));
    socket.on("room", (channel, message, acknowledge) => {
      socket.to(channel).emit("message", message);
      acknowledge();
    });
    socket.on("go", go);
    socket.on("count", (nothing, acknowledge) => acknowledge(connected));
    socket.on("collect", (nothing, acknowledge) => {
      collect();
      acknowledge();
    });
    for (let n = 1; n < handlers; n++) socket.on(`idle-${n}`, () => {});
  });
};
