"use strict";
const at = (id) => document.getElementById(id);
const data = JSON.parse(at("data").textContent);
at("title").textContent = document.title = data.title;

// An element that holds the words as text, whatever they are.
function element(tag, text, kind) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

// A shape or text added to a drawing.
function shape(parent, tag, attributes, text) {
  const made = document.createElementNS(parent.namespaceURI, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

// A number in at most four digits, as people read it.
function told(number) {
  if (number === null || number === undefined) return "none";
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return Number(number.toPrecision(3)).toExponential().replace("e+", "e");
  return String(Number(number.toPrecision(4)));
}

// Round numbers from low to high, about `count` of them; powers of ten and their parts where the axis is logarithmic.
function ticks(low, high, count, logarithmic) {
  if (!logarithmic) {
    const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((part) => part * power >= raw * 0.999);
    const found = [];
    for (let place = Math.ceil(low / step); place * step <= high + step * 1e-9; place += 1) found.push(place * step);
    return found;
  }
  const powers = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) powers.push(power);
  const parts = powers.length > 3 ? [1] : powers.length > 2 ? [1, 3] : [1, 2, 3, 5, 7];
  const within = powers.flatMap((power) => parts.map((part) => part * 10 ** power))
    .filter((value) => value >= low && value <= high);
  return within.filter((_, place) => place % Math.max(1, Math.ceil(within.length / count)) === 0);
}
