// The nearest images: a card for each, and the large view of one.

import { draw } from "./drawing.js";
import { labelKey } from "./layout.js";
import { graphOf, hashOf, textOf } from "./query.js";

// Number of shared relationships named in a card; the drawing shows all.
const MOST_NAMED = 4;
// Part of a bar that the last of the shown results has, so that it is visible.
const LEAST_BAR = 0.04;

// Positions of the bodies in each image's drawing, so that a drawing looks the same when it is shown again.
const drawings = new Map();

export function make(name, properties = {}, children = []) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

/** The range of the cosines of the results, over which bars extend. */
export function rangeOf(results) {
  const cosines = results.map(found => found.cosine);
  return { least: Math.min(...cosines), most: Math.max(...cosines) };
}

/** The card of one result; `context` has the query's image, the range of the bars, and the objects of the filter. */
export function card(found, context) {
  const own = found.image_id === context.target;
  const [caption] = found.captions;
  return make("li", { className: own ? "card own" : "card" }, [
    heading("h3", found),
    bar(found, context.range),
    pictureButton(found, context),
    sharesOf(found),
    make("p", { className: "caption", textContent: caption ?? "" }),
    make("div", { className: "foot" }, [
      own ? make("span", { className: "own-mark", textContent: "The query's own image" }) : queryLink(found, context),
      ...captionsAgree(found, own),
    ]),
  ]);
}

/** Shows one result large, with all its captions. */
function enlarge(found, context) {
  const own = found.image_id === context.target;
  const dialog = document.getElementById("large");
  const close = make("button", { type: "button", textContent: "Close" });
  close.addEventListener("click", () => dialog.close());
  const link = queryLink(found, context);
  link.addEventListener("click", () => dialog.close());
  const { lone } = graphOf(found.graph);
  const shared = new Set(found.shared.objects);
  dialog.replaceChildren(
    make("div", { className: "row between" }, [Object.assign(heading("h2", found), { id: "large-title" }), close]),
    drawingOf(found),
    make("ul", { className: "chips" }, (found.drawing ? [] : lone).map(name =>
      make("li", { textContent: name, className: shared.has(name) ? "shared" : "" }))),
    sharesOf(found),
    make("div", { className: "captions" }, found.captions.map(caption => make("p", { textContent: caption }))),
    make("div", { className: "foot" }, [
      ...(own ? [] : [link]),
      ...(found.url ? [make("a", { href: found.url, rel: "noreferrer", target: "_blank", textContent: "Photograph" })] : []),
      ...captionsAgree(found, own),
    ]),
  );
  dialog.showModal();
}

function heading(level, found) {
  return make(level, { className: "heading" }, [
    make("span", { className: "place", textContent: found.rank, title: "rank among all images" }),
    make("span", { textContent: `image ${found.image_id}` }),
    make("span", { className: "score", textContent: found.cosine.toFixed(4), title: "cosine" }),
  ]);
}

function bar(found, { least, most }) {
  const part = most > least ? (found.cosine - least) / (most - least) : 1;
  const filled = make("i");
  filled.style.width = `${(LEAST_BAR + (1 - LEAST_BAR) * part) * 100}%`;
  return make("div", { className: "bar" }, [filled]);
}

/** The drawing, below a button that enlarges it. */
function pictureButton(found, context) {
  const button = make("button", { type: "button", className: "enlarge", title: "enlarge" });
  button.setAttribute("aria-label", `enlarge image ${found.image_id}`);
  button.addEventListener("click", () => enlarge(found, context));
  return make("div", { className: "picture" }, [drawingOf(found), button]);
}

function queryLink(found, { having }) {
  const hash = hashOf({ text: textOf(found.graph), target: found.image_id, without: [], having });
  return make("a", { className: "as-query", href: hash, textContent: "Use as query" });
}

function captionsAgree(found, own) {
  if (found.caption_similarity === null || own) return [];
  return [make("span", {
    className: "help agree",
    textContent: `captions ${found.caption_similarity.toFixed(2)}`,
    title: "similarity to the captions of the query's image",
  })];
}

function sharesOf({ shared }) {
  return make("p", { className: shared.objects.length ? "shares" : "shares none", textContent: shares(shared) });
}

function drawingOf(found) {
  const sharedObjects = new Set(found.shared.objects);
  if (found.drawing) return picture(found, sharedObjects);
  const { relationships, lone } = graphOf(found.graph);
  if (!relationships.length) return make("p", { className: "help", textContent: lone.join(", ") });
  return drawing(found, relationships, sharedObjects);
}

/** The image's boxes, as drawn by the server, with the names shared with the query highlighted. */
function picture({ image_id, drawing, graph }, sharedObjects) {
  const holder = make("template");
  const { width, height, elements } = drawing;
  holder.innerHTML = `<svg class="scene" viewBox="0 0 ${width} ${height}" role="img" aria-label="boxes of image ${image_id}">${elements}</svg>`;
  const names = graph.filter(names => names.length === 1).map(([name]) => name);
  for (const part of holder.content.querySelectorAll("[data-object]")) {
    if (!sharedObjects.has(names[part.dataset.object])) continue;
    part.classList.add("shared");
    // The name follows its background.
    if (!part.classList.contains("box")) part.nextElementSibling.classList.add("shared");
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
  // Several objects of a type are counted.
  const others = new Map();
  for (const name of objects.filter(name => !related.has(name))) {
    const type = name.split("#")[0];
    others.set(type, (others.get(type) ?? 0) + 1);
  }
  if (others.size) words.push([...others].map(([type, count]) => (count > 1 ? `${count} × ${type}` : type)).join(", "));
  return words.length ? `Shares ${words.join("; ")}` : "Shares no name with the query";
}
