// Layout of the nodes of a graph. The label of an edge takes part as a small node between its ends. Labels are thus kept
// apart like nodes, and parallel edges and loops bend around each other.
//
// Forces act in a space of half the width, because names are wider than high. Overlapping bodies are then pushed apart.

const STEPS = 260;
const APART = 40; // distance at rest between two nodes, in the narrowed space
const NARROW = 0.5;
const MARGIN = { x: 8, y: 9 };

const pen = document.createElement("canvas").getContext("2d");

function width(text, font) {
  pen.font = font;
  return pen.measureText(text).width;
}

/** Bodies of objects and of relationship labels, by name: `{x, y, w, h}` around their centres. */
export function layout(objects, relationships, earlier = new Map()) {
  const bodies = new Map();
  const add = (key, w, h, isLabel) => bodies.set(key, { w, h, isLabel, known: earlier.get(key) });
  for (const name of objects) add(name, width(name, "12px system-ui, sans-serif") + 18, 24, false);
  const links = [];
  relationships.forEach(([subject, predicate, object]) => {
    const key = labelKey(subject, predicate, object);
    add(key, width(predicate, "italic 11px system-ui, sans-serif") + 8, 15, true);
    links.push([bodies.get(subject), bodies.get(key)], [bodies.get(key), bodies.get(object)]);
  });
  const all = [...bodies.values()];
  place(all);
  const warm = all.filter(body => body.known).length > all.length / 2;
  for (let step = warm ? STEPS * 0.7 : 0; step < STEPS; step++) relax(all, links, 1 - step / STEPS);
  for (let pass = 0; pass < 80 && separate(all); pass++);
  return bodies;
}

export const labelKey = (subject, predicate, object) => `${subject}\n${predicate}\n${object}`;

/** Previous position of a body, or else a position on a spiral, so that the same graph always looks the same. */
function place(all) {
  all.forEach((body, index) => {
    const angle = index * 2.4;
    const radius = 26 * Math.sqrt(index + 1);
    [body.x, body.y] = body.known
      ? [body.known.x, body.known.y]
      : [radius * Math.cos(angle), radius * Math.sin(angle)];
  });
}

function relax(all, links, heat) {
  for (const body of all) [body.fx, body.fy] = [-0.07 * body.x, -0.05 * body.y];
  for (let i = 0; i < all.length; i++) {
    for (let j = 0; j < i; j++) {
      const [a, b] = [all[i], all[j]];
      const dx = (a.x - b.x) * NARROW || (i - j) * 0.01;
      const dy = a.y - b.y || 0.01;
      const square = dx * dx + dy * dy + 4;
      const weight = a.isLabel && b.isLabel ? 0.25 : a.isLabel || b.isLabel ? 0.4 : 1;
      const force = (weight * APART * APART) / square;
      a.fx += force * dx * 0.06;
      a.fy += force * dy * 0.06;
      b.fx -= force * dx * 0.06;
      b.fy -= force * dy * 0.06;
    }
  }
  for (const [a, b] of links) {
    const dx = (b.x - a.x) * NARROW;
    const dy = b.y - a.y;
    const distance = Math.hypot(dx, dy) + 0.01;
    const pull = (0.35 * (distance - APART * 0.6)) / distance;
    a.fx += pull * dx;
    a.fy += pull * dy;
    b.fx -= pull * dx;
    b.fy -= pull * dy;
  }
  const most = 2 + 28 * heat;
  for (const body of all) {
    const length = Math.hypot(body.fx, body.fy) + 0.01;
    const step = Math.min(length, most) / length;
    body.x += (body.fx * step) / NARROW;
    body.y += body.fy * step;
  }
}

/** Pushes overlapping bodies apart along the shorter axis; returns whether there were any. */
function separate(all) {
  let any = false;
  for (let i = 0; i < all.length; i++) {
    for (let j = 0; j < i; j++) {
      const [a, b] = [all[i], all[j]];
      const x = (a.w + b.w) / 2 + MARGIN.x - Math.abs(a.x - b.x);
      const y = (a.h + b.h) / 2 + MARGIN.y - Math.abs(a.y - b.y);
      if (x <= 0.5 || y <= 0.5) continue;
      any = true;
      if (x < y) {
        const push = (a.x < b.x ? -x : x) / 2;
        [a.x, b.x] = [a.x + push, b.x - push];
      } else {
        const push = (a.y < b.y ? -y : y) / 2;
        [a.y, b.y] = [a.y + push, b.y - push];
      }
    }
  }
  return any;
}
