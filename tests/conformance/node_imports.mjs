// The globals that the protocol suites expect, in place of their own node-imports.js.

import { Agent } from "node:http";

import * as chai from "chai";
import chaiString from "chai-string";
import fetch from "node-fetch";
import { WebSocket } from "ws";

(chai.default ?? chai).use(chaiString);

// Node.js 19 and later keep connections alive by default, and reuse those that the server closes.
const agent = new Agent({ keepAlive: false });

globalThis.chai = chai.default ?? chai;
globalThis.fetch = (url, options) => fetch(url, { agent, ...options });
globalThis.WebSocket = class extends WebSocket {
  constructor(url) {
    // One event per turn: the suite waits for one message after another.
    super(url, { allowSynchronousEvents: process.env.SYNCHRONOUS_EVENTS === "1" });
  }
};
