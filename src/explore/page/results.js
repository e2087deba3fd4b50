// The nearest images, one card each.

import { draw } from "./drawing.js";
import { labelKey } from "./layout.js";
import { graphOf, hashOf, textOf } from "./query.js";

// Number of shared relationships named in a card; the drawing shows all.
const MOST_NAMED = 4;

// Positions of the bodies in each image's drawing, so that a drawing looks the same when it is shown again.
const drawings = new Map();

export function make(name, properties = {}, children = []) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

export function card(found, target) {
  const own = found.image_id === target;
  const bar = make("i");
  bar.style.width = `${Math.max(0, Math.min(1, found.cosine)) * 100}%`;
  const { relationships, lone } = graphOf(found.graph);
  const { shared } = found;
  const sharedObjects = new Set(shared.objects);
  const [first, ...others] = found.captions;
  const link = hashOf({ text: textOf(found.graph), target: found.image_id, without: [] });
  return make("li", { className: own ? "card own" : "card" }, [
    make("h3", {}, [
      make("span", { className: "place", textContent: found.rank }),
      make("span", { textContent: `image ${found.image_id}` }),
      make("span", { className: "score", textContent: found.cosine.toFixed(4), title: "cosine" }),
    ]),
    make("div", { className: "bar" }, [bar]),
    ...(own ? [make("p", { className: "own-mark", textContent: "The query's own image" })] : []),
    ...(found.drawing ? [picture(found, sharedObjects)] : relationships.length ? [drawing(found, relationships, sharedObjects)] : []),
    make("ul", { className: "chips" }, (found.drawing ? [] : lone).map(name =>
      make("li", { textContent: name, className: sharedObjects.has(name) ? "shared" : "" }))),
    make("p", { className: shared.objects.length ? "shares" : "help", textContent: shares(shared) }),
    make("blockquote", {}, [
      make("p", { textContent: first ?? "" }),
      ...others.map(caption => make("p", { textContent: caption })),
    ]),
    ...(found.caption_similarity === null || own ? [] : [
      make("p", { className: "help", textContent: `caption similarity ${found.caption_similarity.toFixed(3)}` }),
    ]),
    ...(found.url ? [make("a", { className: "help", href: found.url, rel: "noreferrer", target: "_blank", textContent: "Photograph" })] : []),
    ...(own ? [] : [make("a", { className: "as-query", href: link, textContent: "Use this as the query" })]),
  ]);
}

/** The image's boxes, as drawn by the server, with the names shared with the query highlighted. */
function picture({ image_id, drawing, graph }, sharedObjects) {
  const holder = make("template");
  const { width, height, elements } = drawing;
  holder.innerHTML = `<svg class="scene" viewBox="0 0 ${width} ${height}" role="img" aria-label="boxes of image ${image_id}">${elements}</svg>`;
  const names = graph.filter(names => names.length === 1).map(([name]) => name);
  for (const part of holder.content.querySelectorAll("[data-object]")) {
    part.classList.toggle("shared", sharedObjects.has(names[part.dataset.object]));
  }
  return holder.content.firstChild;
}

function drawing({ image_id, shared }, relationships, sharedObjects) {
  if (!drawings.has(image_id)) drawings.set(image_id, new Map());
  return draw(relationships, {
    sharedObjects,
    sharedRelationships: new Set(shared.relationships.map(names => labelKey(...names))),
    earlier: drawings.get(image_id),
    title: relationships.map(names => names.join(" ")).join("; "),
  });
}

function shares({ relationships, objects }) {
  const words = relationships.slice(0, MOST_NAMED).map(names => names.join(" "));
  if (relationships.length > MOST_NAMED) words.push(`${relationships.length - MOST_NAMED} more relationships`);
  const related = new Set(relationships.flatMap(([subject, , object]) => [subject, object]));
  const others = objects.filter(name => !related.has(name));
  if (others.length) words.push(others.join(", "));
  return words.length ? `Shares ${words.join("; ")}` : "Shares no name with the query";
}
