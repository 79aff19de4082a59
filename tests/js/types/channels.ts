// Uses of the type declarations of webpy-socketio-client. tsc must accept this program in strict
// mode: an expected error that does not occur is an error too.

import { io, type Socket } from "socket.io-client";
import {
  withChannels,
  type ChannelSocket,
  type Presence,
  type PresenceChange,
  type SubscriptionResult,
} from "webpy-socketio-client";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <A, B>(_: Equal<A, B>): void => undefined;

const socket: ChannelSocket = withChannels(io());

// Subscriptions: as promise, with callback, and both.
const result = await socket.subscribe("room-1");
same<typeof result, SubscriptionResult>(true);
if (result.ok) {
  // @ts-expect-error: a success has no reason
  result.error;
} else {
  same<typeof result.error, string>(true);
}
socket.subscribe("room-1", (answer) => same<typeof answer, SubscriptionResult>(true));
const removed: Promise<SubscriptionResult> = socket.unsubscribe("room-1", (answer) => answer.ok);
void removed;
// @ts-expect-error: a channel is required
socket.subscribe();
// @ts-expect-error: a channel is text
socket.subscribe(1);
// @ts-expect-error: a channel is text
socket.unsubscribe(null);
// @ts-expect-error: the callback receives a result
socket.subscribe("room-1", (answer: number) => answer);

// Messages that may not have arrived.
socket.on("unconfirmed", (events) => same<typeof events, unknown[][]>(true));

// Messages to a channel.
socket.sendTo("room-1", { text: "hello" }).sendTo("room-1", new Uint8Array(2), (answer) => answer);
// @ts-expect-error: a message is required
socket.sendTo("room-1");

// Channels.
same<typeof socket.channels, string[]>(true);
// @ts-expect-error: channels are changed by subscribe() and unsubscribe()
socket.channels = [];

// Rejected renewals.
const rejected = (channel: string, error: string | undefined) => console.log(channel, error);
socket.on("subscribe_error", rejected).once("subscribe_error", rejected);
socket.off("subscribe_error", rejected).off("subscribe_error");
socket.on("subscribe_error", (channel, error) => {
  same<typeof channel, string>(true);
  same<typeof error, string | undefined>(true);
});

// Presence.
interface Meta {
  name: string;
}
const presence: Presence<Meta> = socket.presence<Meta>("room-1");
const names: string[] = [...presence.members.values()].flat().map((meta) => meta.name);
const count: number = presence.count;
const changed = ({ joins, updates, leaves }: PresenceChange<Meta>) =>
  [joins, updates, leaves].map((metas) => metas["ann"]?.[0]?.name);
presence.on("change", changed).onchange(changed).off("change", changed);
console.log(names, count, presence.channel);
// @ts-expect-error: the only event is "change"
presence.on("join", changed);
// @ts-expect-error: the members are those of the server
presence.members.clear();

// The types of the application's events are preserved.
interface ServerEvents {
  post: (text: string) => void;
}
interface ClientEvents {
  draft: (text: string, answer: (saved: boolean) => void) => void;
}
const plain: Socket<ServerEvents, ClientEvents> = io();
const typed = withChannels(plain);
same<typeof typed, ChannelSocket<Socket<ServerEvents, ClientEvents>>>(true);
typed.on("post", (text) => same<typeof text, string>(true));
typed.on("subscribe_error", (channel) => same<typeof channel, string>(true));
typed.on("connect_error", (error) => error.message);
typed.emit("draft", "hello", (saved) => same<typeof saved, boolean>(true));
// @ts-expect-error: the server sends no such event
typed.on("unknown", () => undefined);
// @ts-expect-error: the server has no such event
typed.emit("unknown");
const back: Socket<ServerEvents, ClientEvents> = typed;
console.log(back.connected, typed.channels);

// @ts-expect-error: only sockets get channels
withChannels({});
// @ts-expect-error: a socket is required
withChannels();
