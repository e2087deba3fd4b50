// A graph as SVG: objects are boxes, relationships are labelled arrows.

import { labelKey, layout } from "./layout.js";

const PADDING = 6;
const POINTS = 24;

export function element(name, attributes = {}, children = []) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/**
 * Draws `relationships` and their objects. `sharedObjects` and `sharedRelationships` (label keys) are highlighted;
 * `alone` names the objects without an edge to the image node. `onEdge` and `onObject` turn the parts into buttons.
 * `earlier` holds the previous positions of the bodies, and is updated.
 */
export function draw(relationships, options) {
  const { sharedObjects, sharedRelationships, alone, onEdge, onObject, earlier, title } = options;
  const objects = [...new Set(relationships.flatMap(([subject, , object]) => [subject, object]))];
  const bodies = layout(objects, relationships, earlier);
  if (earlier) for (const [key, { x, y }] of bodies) earlier.set(key, { x, y });

  const all = [...bodies.values()];
  const left = Math.min(...all.map(body => body.x - body.w / 2)) - PADDING;
  const top = Math.min(...all.map(body => body.y - body.h / 2)) - PADDING;
  const width = Math.max(...all.map(body => body.x + body.w / 2)) + PADDING - left;
  const height = Math.max(...all.map(body => body.y + body.h / 2)) + PADDING - top;
  const svg = element("svg", { class: "graph", viewBox: [left, top, width, height].map(Math.round).join(" ") });
  // Never enlarged beyond the natural size.
  svg.style.maxWidth = `${Math.round(width)}px`;
  if (!onEdge) {
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", title);
  }

  const edges = relationships.map(relationship => {
    const [subject, predicate, object] = relationship;
    const key = labelKey(subject, predicate, object);
    const label = bodies.get(key);
    const line = points(bodies.get(subject), label, bodies.get(object));
    const shape = line.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
    const group = element("g", { class: sharedRelationships?.has(key) ? "edge shared" : "edge" }, [
      element("path", { class: "hit", d: shape }),
      element("path", { class: "line", d: shape }),
      arrow(line),
      box(label, "behind"),
      text(label, predicate),
    ]);
    if (onEdge) button(group, `delete ${subject} ${predicate} ${object}`, () => onEdge(relationship));
    return group;
  });
  const nodes = objects.map(name => {
    const classes = ["node", sharedObjects?.has(name) && "shared", alone?.has(name) && "alone"];
    const body = bodies.get(name);
    const group = element("g", { class: classes.filter(Boolean).join(" ") }, [box(body), text(body, name)]);
    if (onObject) button(group, `delete ${name}`, () => onObject(name));
    return group;
  });
  svg.append(...edges, ...nodes);
  return svg;
}

function box({ x, y, w, h }, name = "") {
  return element("rect", { x: x - w / 2, y: y - h / 2, width: w, height: h, rx: name ? 3 : 8, class: name });
}

function text({ x, y }, content) {
  return element("text", { x, y }, [content]);
}

/** Points of the curve from one box through the label to the other, outside of both boxes. */
function points(from, label, to) {
  const at = curve(from, label, to);
  const inside = ([x, y], { x: cx, y: cy, w, h }) => Math.abs(x - cx) <= w / 2 + 1 && Math.abs(y - cy) <= h / 2 + 1;
  const all = Array.from({ length: POINTS * 4 + 1 }, (_, index) => at(index / (POINTS * 4)));
  const half = POINTS * 2;
  let first = 0;
  while (first < half && inside(all[first], from)) first++;
  let last = POINTS * 4;
  while (last > half && inside(all[last], to)) last--;
  return all.slice(first, last + 1);
}

function curve(from, label, to) {
  if (from !== to) {
    const [cx, cy] = [2 * label.x - (from.x + to.x) / 2, 2 * label.y - (from.y + to.y) / 2];
    return t => {
      const [a, b, c] = [(1 - t) ** 2, 2 * t * (1 - t), t ** 2];
      return [a * from.x + b * cx + c * to.x, a * from.y + b * cy + c * to.y];
    };
  }
  // A loop leaves on one side of its label and returns on the other.
  const [mx, my] = [(4 * label.x - from.x) / 3, (4 * label.y - from.y) / 3];
  const distance = Math.hypot(label.x - from.x, label.y - from.y) + 0.01;
  const [px, py] = [(-28 * (label.y - from.y)) / distance, (28 * (label.x - from.x)) / distance];
  return t => {
    const [a, b, c, d] = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t ** 3];
    return [
      (a + d) * from.x + b * (mx + px) + c * (mx - px),
      (a + d) * from.y + b * (my + py) + c * (my - py),
    ];
  };
}

/** Arrow head at the end of a line. */
function arrow(line) {
  const [tip, before] = [line.at(-1), line.at(-4) ?? line[0]];
  const angle = Math.atan2(tip[1] - before[1], tip[0] - before[0]);
  const corner = turn => `${(tip[0] - 8 * Math.cos(angle + turn)).toFixed(1)} ${(tip[1] - 8 * Math.sin(angle + turn)).toFixed(1)}`;
  return element("path", { class: "line", d: `M${corner(0.45)}L${tip[0].toFixed(1)} ${tip[1].toFixed(1)}L${corner(-0.45)}` });
}

function button(group, label, press) {
  group.setAttribute("role", "button");
  group.setAttribute("tabindex", "0");
  group.setAttribute("aria-label", label);
  group.append(element("title", {}, [label]));
  group.addEventListener("click", press);
  group.addEventListener("keydown", event => {
    if (!["Enter", " ", "Delete", "Backspace"].includes(event.key)) return;
    event.preventDefault();
    press();
  });
}
