// Small parts. What people typed goes in as text, never as HTML.

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

// A name in any script, which cannot change the direction of what stands around it.
export const bdi = (name) => element("bdi", "name", name);

// Ann; Ann and Bob; Ann, Bob and Cleo; Ann, Bob and 2 others
export function listed(names) {
  const few = names.length > 3 ? names.slice(0, 2) : names;
  const parts = few.flatMap((name, i) => (i ? [i === names.length - 1 ? " and " : ", ", bdi(name)] : [bdi(name)]));
  return few === names ? parts : [...parts, ` and ${names.length - 2} others`];
}

export function clock(seconds) {
  const date = new Date(seconds * 1000);
  const node = element("time", "", date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  node.dateTime = date.toISOString();
  return node;
}

// A coloured disc with the first letter, the same for a name everywhere.
export function avatar(name) {
  const [first] = new Intl.Segmenter().segment(name);
  const node = element("span", "avatar");
  node.dataset.letter = first.segment.toLocaleUpperCase(); // shown by the style sheet: it is not part of the name
  node.ariaHidden = "true";
  const hash = [...name].reduce((sum, c) => (sum * 31 + c.codePointAt(0)) % 9973, 7);
  node.style.setProperty("--hue", (hash * 137.5) % 360); // the golden angle keeps neighbours apart
  return node;
}

// Text in a live region is told when it changes; the same again would be told again.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
