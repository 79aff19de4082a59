/**
 * Channels and presence for sockets of `socket.io-client`, with a webpy_socketio server.
 *
 * @packageDocumentation
 */

import type { Socket } from "socket.io-client";

/** Result of a subscription or unsubscription. */
export type SubscriptionResult =
  | {
      ok: true;
      /** With `history`: whether the history is available and no requested message is missing. */
      recovered?: boolean;
    }
  | {
      ok: false;
      /** Reason of the rejection, or `"unsubscribed"` if `unsubscribe()` was called meanwhile. */
      error: string;
      /** Data of the rejection, if the server sent any. */
      data?: unknown;
    };

/** Listener of `subscribe_error`: the server rejected a subscription after a reconnect. */
export type SubscribeErrorListener = (
  channel: string,
  error: string | undefined,
  data?: unknown,
) => void;

/** Options of `subscribe()`. */
export interface SubscribeOptions {
  /**
   * Maximum number of earlier messages to receive. They arrive as ordinary events, before newer
   * ones; after a reconnect, those that were missed. The server needs the plugin `history`.
   */
  history?: number;
}

/**
 * Listener of `history_gap`: messages of a channel that was subscribed with `history` are missing,
 * as they are not stored any more.
 */
export type HistoryGapListener = (channel: string) => void;

/**
 * Listener of `unconfirmed`: events, as arrays of name and arguments, that may not have arrived. The
 * connection on which they were sent was not recovered, and they are not sent again.
 */
export type UnconfirmedListener = (events: unknown[][]) => void;

/** Change of a channel's members: metas by key. All three are empty if the server sends counts. */
export interface PresenceChange<Meta = Record<string, unknown>> {
  /** New keys. */
  joins: Record<string, Meta[]>;
  /** Keys whose metas have changed, with the new metas. */
  updates: Record<string, Meta[]>;
  /** Removed keys, with their last metas. */
  leaves: Record<string, Meta[]>;
}

/**
 * The members of a channel, kept up to date.
 *
 * While the socket is disconnected, the last known members are kept.
 */
export interface Presence<Meta = Record<string, unknown>> {
  readonly channel: string;
  /** Metas by key, one for each connection. Empty if the server sends counts only. */
  readonly members: ReadonlyMap<string, Meta[]>;
  /** Number of keys, also if the server sends counts only. */
  readonly count: number;
  /** Call `listener` after each change. */
  on(event: "change", listener: (change: PresenceChange<Meta>) => void): this;
  /** Remove a listener. */
  off(event: "change", listener: (change: PresenceChange<Meta>) => void): this;
  /** The same as `on("change", listener)`. */
  onchange(listener: (change: PresenceChange<Meta>) => void): this;
}

/** The methods that `withChannels()` adds to a socket. */
export interface ChannelMethods {
  /** Names of the channels whose subscription the server has confirmed. */
  readonly channels: string[];

  /**
   * Subscribe to a channel, until `unsubscribe()`.
   *
   * Without a connection, the socket subscribes when there is one. After each reconnect, the
   * subscription is renewed before any other packet is sent.
   *
   * @param channel - name of the channel
   * @param callback - receives the result too
   * @returns the result; the promise is pending while there is no connection, and never rejects
   */
  subscribe(
    channel: string,
    callback?: (result: SubscriptionResult) => void,
  ): Promise<SubscriptionResult>;

  subscribe(
    channel: string,
    options: SubscribeOptions | undefined,
    callback?: (result: SubscriptionResult) => void,
  ): Promise<SubscriptionResult>;

  /**
   * Unsubscribe from a channel. No message of the channel arrives after a result with `ok: true`.
   *
   * @param channel - name of the channel
   * @param callback - receives the result too
   * @returns the result; without a connection, `{ok: true}`
   */
  unsubscribe(
    channel: string,
    callback?: (result: SubscriptionResult) => void,
  ): Promise<SubscriptionResult>;

  /**
   * Send a message addressed to a subscribed channel.
   *
   * @param channel - name of the channel
   * @param data - the message: JSON, or binary data
   * @param callback - receives the acknowledgement, with the arguments of a callback of `emit()`
   */
  sendTo(channel: string, data: unknown, callback?: (...answer: any[]) => void): this;

  /**
   * The members of a channel: one object for each channel of the socket.
   *
   * The server needs the plugin `presence`, and the socket a subscription of the channel.
   */
  presence<Meta = Record<string, unknown>>(channel: string): Presence<Meta>;

  /** The server rejected the renewal of a subscription, which has ended. */
  on(event: "subscribe_error", listener: SubscribeErrorListener): this;
  once(event: "subscribe_error", listener: SubscribeErrorListener): this;
  off(event: "subscribe_error", listener?: SubscribeErrorListener): this;

  /** Messages of a channel with history are missing. */
  on(event: "history_gap", listener: HistoryGapListener): this;
  once(event: "history_gap", listener: HistoryGapListener): this;
  off(event: "history_gap", listener?: HistoryGapListener): this;

  /** Sent events may not have arrived. */
  on(event: "unconfirmed", listener: UnconfirmedListener): this;
  once(event: "unconfirmed", listener: UnconfirmedListener): this;
  off(event: "unconfirmed", listener?: UnconfirmedListener): this;
}

/** A socket with channels. `S` is the type of the socket, with the events of the application. */
export type ChannelSocket<S extends Socket<any, any> = Socket> = ChannelMethods & S;

/**
 * Add the methods of channels and presence to a socket.
 *
 * Calling it again with the same socket has no effect.
 *
 * @param socket - a socket of `io()`, connected or not
 * @returns the same socket
 * @throws TypeError if the argument is not a socket of `socket.io-client` 4
 *
 * @example
 * ```ts
 * const socket = withChannels(io());
 * const result = await socket.subscribe("room-1");
 * if (!result.ok) console.error(result.error);
 * socket.sendTo("room-1", { text: "hello" });
 * ```
 */
export function withChannels<S extends Socket<any, any>>(socket: S): ChannelSocket<S>;
