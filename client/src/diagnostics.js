/** Messages in the console about likely mistakes of a page, each of them once. */

const logged = new Set();

/** Log a mistake of the page and its remedy in the console, once. */
export function logOnce(text) {
  if (logged.has(text)) return;
  logged.add(text);
  console.error(`webpy_socketio: ${text}`);
}

/** The error message in the server's response, unless the response is an HTML page. */
function errorText(request) {
  const text = typeof request.responseText === "string" ? request.responseText.trim() : "";
  try {
    return `: ${JSON.parse(text).message}`;
  } catch {
    return !text || text.startsWith("<") || text.length > 300 ? "" : `: ${text}`;
  }
}

/**
 * Log the likely cause of a failed connection; the page receives "xhr poll error" only. An
 * unreachable server is not reported. `servedPath` is the path of the page's server, if known.
 */
export function explainConnectError(socket, error, servedPath) {
  const path = socket.io.opts.path.replace(/\/$/, "");
  const uri = String(socket.io.uri);
  const request = error.context || {};
  if (error.message === "Invalid namespace") {
    logOnce(
      `the server has no namespace "${socket.nsp}": add it to SOCKETIO_NAMESPACES. ` +
        'io("/name") is a namespace, io({path: "/name"}) the path of the server\'s resource'
    );
  } else if (request.status === 404 && servedPath && path !== servedPath) {
    logOnce(
      `the server has no Socket.IO at ${path}, but the server of this page has it at ${servedPath}: ` +
        `io({path: "${servedPath}"})`
    );
  } else if (request.status === 404) {
    logOnce(
      `the server has no Socket.IO at ${path}: ` +
        "add socketio_urls to its urls, or use its resource as path"
    );
  } else if (request.status === 403) {
    logOnce(
      `the server rejected this page (403)${errorText(request)}; ` +
        "the log of the server names the setting to change"
    );
  } else if (request.status === 400 || request.status === 500) {
    logOnce(`the server responded with ${request.status}${errorText(request)}`);
  } else if (error.code === "parser error" || error.message === "server error") {
    logOnce(
      `the response at ${path} is not Socket.IO: ` +
        "an earlier pattern of the application's urls may match"
    );
  } else if (typeof location !== "undefined" && location.protocol === "https:" && /^(http|ws):/.test(uri)) {
    logOnce(`a page loaded over https cannot connect to ${uri}: use https, or io() without an address`);
  }
}

const watchedPaths = new Set();

/** Log when the page's Content-Security-Policy blocks connections to a path. */
export function watchPolicy(path) {
  if (typeof document === "undefined") return;
  if (!watchedPaths.size) document.addEventListener("securitypolicyviolation", explainViolation);
  watchedPaths.add(`${path.replace(/\/$/, "")}/`);
}

function explainViolation({ effectiveDirective, blockedURI }) {
  if (effectiveDirective === "connect-src" && [...watchedPaths].some((path) => blockedURI.includes(path))) {
    logOnce("the Content-Security-Policy of the page blocks the connection: add connect-src 'self'");
  }
}
