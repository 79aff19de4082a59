// Defines the globals that the protocol suites expect; replaces their node-imports.js.

import { Agent } from "node:http";

import * as chai from "chai";
import chaiString from "chai-string";
import fetch from "node-fetch";
import { WebSocket } from "ws";

(chai.default ?? chai).use(chaiString);

// Node.js 19 and later use keep-alive by default, and reuse connections that the server closes.
const agent = new Agent({ keepAlive: false });

globalThis.chai = chai.default ?? chai;
globalThis.fetch = (url, options) => fetch(url, { agent, ...options });
globalThis.WebSocket = class extends WebSocket {
  constructor(url) {
    // By default one event per turn, because the suites wait for single messages.
    super(url, { allowSynchronousEvents: process.env.SYNCHRONOUS_EVENTS === "1" });
  }
};
