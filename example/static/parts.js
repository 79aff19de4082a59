// Helpers for elements. User input is inserted as text, never as HTML.

export const $ = (id) => document.getElementById(id);

export function element(tag, className, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

export function button(className, text, onClick) {
  const node = element("button", className, text);
  node.type = "button";
  node.addEventListener("click", onClick);
  return node;
}

// A name in any script, isolated so that it cannot change the text direction around it.
export const bdi = (name) => element("bdi", "name", name);

// Ann; Ann and Bob; Ann, Bob and Cleo; Ann, Bob and 2 others
export function listed(names) {
  const few = names.length > 3 ? names.slice(0, 2) : names;
  const parts = few.flatMap((name, i) => (i ? [i === names.length - 1 ? " and " : ", ", bdi(name)] : [bdi(name)]));
  return few === names ? parts : [...parts, ` and ${names.length - 2} others`];
}

// The time of day as the reader's locale writes it, without a leading zero: 9:05, 9:05 AM.
export function clock(seconds) {
  const date = new Date(seconds * 1000);
  const parts = new Intl.DateTimeFormat([], { hour: "numeric", minute: "2-digit" }).formatToParts(date);
  const text = parts.map(({ type, value }) => (type === "hour" ? withoutZero(value) : value)).join("");
  const node = element("time", "", text);
  node.dateTime = date.toISOString();
  return node;
}

function withoutZero(hour) {
  const zero = (0).toLocaleString(); // not every locale writes "0"
  return hour.length > zero.length && hour.startsWith(zero) ? hour.slice(zero.length) : hour;
}

const ADDRESS = /https?:\/\/[^\s<>"\u200e\u200f\u202a-\u202e\u2066-\u2069]+/giu;

// The text as nodes, in which http and https addresses are links.
export function linked(text) {
  const nodes = [];
  let end = 0;
  for (const { 0: found, index } of text.matchAll(ADDRESS)) {
    const address = withoutPunctuation(found);
    if (!URL.canParse(address)) continue;
    const link = element("a", "", address);
    link.href = address;
    link.rel = "noopener noreferrer";
    link.target = "_blank";
    nodes.push(text.slice(end, index), link);
    end = index + address.length;
  }
  return [...nodes, text.slice(end)];
}

// Remove punctuation after a URL, and a closing parenthesis that the URL does not open.
function withoutPunctuation(address) {
  for (;;) {
    const last = address.at(-1);
    const unopened = last === ")" && address.split(")").length > address.split("(").length;
    if (!unopened && !".,;:!?'…*_]}".includes(last)) return address;
    address = address.slice(0, -1);
  }
}

// A coloured disc with the first letter, the same for a name everywhere.
export function avatar(name) {
  const [first] = new Intl.Segmenter().segment(name);
  const node = element("span", "avatar");
  node.dataset.letter = first.segment.toLocaleUpperCase(); // shown by the style sheet, as it is not part of the name
  node.ariaHidden = "true";
  const hash = [...name].reduce((sum, c) => (sum * 31 + c.codePointAt(0)) % 9973, 7);
  node.style.setProperty("--hue", (hash * 137.5) % 360); // the golden angle keeps similar hashes apart
  return node;
}

// Set the text of a live region; setting it to the same text would announce it again.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
