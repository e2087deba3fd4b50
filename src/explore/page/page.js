// The page: input changes the state; the state determines the address and the search, whose answer becomes the results.

import { complete } from "./completion.js";
import { drawCurve } from "./curve.js";
import { draw } from "./drawing.js";
import { marker } from "./editor.js";
import { filter } from "./having.js";
import { graphOf, hashOf, lineOf, normal, parse, stateOf, textOf, withoutObject, withoutRelationship, wordsOf } from "./query.js";
import { card, make, rangeOf } from "./results.js";

const TYPING_PAUSE = 150; // ms
const RESULTS = 12;
const MOST_RESULTS = 96;

const $ = id => document.getElementById(id);
const field = $("text");
const earlier = new Map(); // positions of the bodies in the query's drawing
const EMPTY = { text: "", target: null, without: [], having: [] };
const mark = marker(field, $("marks"));
let state = EMPTY;
let isLink = false; // whether the state is of an address that was opened, and unchanged since
let vocabulary = { objects: [], predicates: [], relationships: [], examples: [] };
let known = { objects: new Set(), predicates: new Set() };
let wanted = RESULTS;
let lastRank = null; // {target, rank}
let refused = []; // lines of the latest search with unknown names
let seed = 1;
let curve = null; // {key, of}: the curve of the target, and what it was asked with
let showHaving = () => {};
let asking = null; // the search in flight
let asked = null; // the query of the latest search

async function ask(path, options) {
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw Object.assign(new Error(answer.error), answer, { status: response.status });
  return answer;
}

const isKnown = (name, isPredicate) =>
  isPredicate ? known.predicates.has(name) : known.objects.has(name) || known.objects.has(name.split("#")[0].trim());

/** The line being typed, if any. */
function typedLine() {
  if (document.activeElement !== field) return -1;
  return field.value.slice(0, field.selectionEnd).split("\n").length - 1;
}

const statementsNow = () => parse(state.text, -1, isKnown).statements.map(({ names }) => names);

/** Shows `next`, as a new entry in the browser's history unless it only continues the last one. */
function go(next, { replace = false } = {}) {
  state = next;
  isLink = false;
  const address = hashOf(state);
  if (replace) history.replaceState(null, "", address);
  else if (address !== location.hash) history.pushState(null, "", address);
  if (field.value !== state.text) field.value = state.text;
  wanted = RESULTS;
  search();
}

async function search() {
  const { statements, unread } = parse(state.text, typedLine(), isKnown);
  // Unchanged parts are not redrawn: the user may be about to click them.
  const question = JSON.stringify([statements, unread, state.target, state.without, state.having, wanted]);
  if (question === asked) return showMarks(unread);
  asked = question;
  refused = [];
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const names = statements.map(statement => statement.names);
  drawQuery(names);
  showMarks(unread);
  showHaving(state.having);
  sayUnread(unread);
  $("searched").textContent = names.length ? `Searched: ${wordsOf(names)}` : "";
  $("searched").title = $("searched").textContent;
  $("text-help").hidden = names.length > 0;
  $("target").hidden = state.target === null;
  $("stale").hidden = true;
  $("results").classList.remove("stale");
  $("having").hidden = !names.length && !state.having.length;
  $("examples").hidden = names.length > 0 || state.target !== null;
  if (!names.length) return showNothing();
  const objects = graphOf(names).objects;
  const body = {
    graph: names,
    without_in_image: state.without.filter(name => objects.includes(name)),
    having: state.having,
    target: state.target,
    k: wanted,
  };
  $("results").setAttribute("aria-busy", true);
  try {
    const headers = { "Content-Type": "application/json" };
    show(await ask("/api/search", { method: "POST", headers, body: JSON.stringify(body), signal }), names);
  } catch (error) {
    if (error.name === "AbortError") return;
    $("searched").textContent = "";
    if (isLink && (error.suggestions || error.status === 404)) {
      showStale(error.message);
      markUnknown(statements, unread);
    } else if (!$("found").children.length) {
      showNothing();
      complain(error, statements, unread);
    } else {
      $("results").classList.add("stale");
      $("results-help").textContent = "Not searched; these are the images of the query before.";
      complain(error, statements, unread);
    }
  }
  $("results").setAttribute("aria-busy", false);
}

/** The state without a statement: examples to start from. */
function showNothing() {
  $("results").setAttribute("aria-busy", false);
  $("found").replaceChildren();
  $("results-help").textContent = "Enter a graph, or start from an image.";
  $("more").hidden = true;
  $("rank").textContent = state.target === null ? "" : `Image ${state.target}; the query is empty.`;
}

/** Marks the lines that are not understood, and those that the server refused. */
function showMarks(unread) {
  mark(new Map([...unread, ...refused].map(({ line, kind }) => [line, kind])));
}

/** Says what is not understood yet: first a finished line, then the one being typed. */
function sayUnread(unread) {
  const first = unread.find(({ kind }) => kind === "wrong") ?? unread[0];
  say(first ? `Line ${first.line + 1}: ${first.error}.` : "");
  $("message").classList.toggle("typing", first?.kind === "typing");
}

/** Says that the address does not fit the run, and offers the start. */
function showStale(why) {
  asked = null;
  showNothing();
  say("");
  $("rank").textContent = "";
  $("target").hidden = true;
  $("examples").hidden = true;
  $("results-help").textContent = "";
  $("stale-why").textContent = `${why.replace(/^statement (\d+)/, "Line $1").split("; ")[0]}. The link may be of another run, or of another split.`;
  $("drawn").hidden = true;
  $("having").hidden = true;
  $("stale").hidden = false;
}

function say(words) {
  $("message").textContent = words;
  $("message").classList.remove("typing");
}

/** Marks the lines with unknown names, which the server refused. */
function markUnknown(statements, unread) {
  const unknown = statements.filter(({ names }) => names.some((name, at) => !isKnown(name, at === 1)));
  refused = unknown.map(({ line }) => ({ line, kind: "wrong" }));
  showMarks(unread);
}

/** Shows an error of the server; for an unknown name, with suggestions to replace it. */
function complain(error, statements, unread) {
  const statement = statements[error.statement];
  if (!statement) {
    $("rank").textContent = "";
    return say(error.message);
  }
  markUnknown(statements, unread);
  say(error.message.replace(/^statement \d+/, `Line ${statement.line + 1}`));
  const wrong = statement.names.findIndex((name, at) => !isKnown(name, at === 1));
  if (wrong < 0 || !error.suggestions) return;
  const put = name => {
    const lines = state.text.split("\n");
    lines[statement.line] = lineOf(statement.names.map((own, at) => (at === wrong ? name : own)));
    go({ ...state, text: lines.join("\n") });
  };
  const buttons = error.suggestions.map(name => {
    const button = make("button", { type: "button", textContent: name });
    button.addEventListener("click", () => put(name));
    return button;
  });
  // The buttons complete the sentence.
  say(`${$("message").textContent.split(";")[0]}. Closest:`);
  $("message").append(make("div", {}, buttons));
}

function show({ images, matching, target, results }, names) {
  const range = rangeOf(results);
  const context = { target: state.target, range, having: state.having };
  const all = state.having.length ? `${matching} images with ${state.having.join(" and ")}` : `${images} images`;
  $("results-help").textContent = results.length
    ? `${results.length} of ${all}, by cosine; bars from ${range.least.toFixed(2)} to ${range.most.toFixed(2)}`
    : `None of the ${images} images has ${state.having.join(" and ")}.`;
  $("found").replaceChildren(...results.map(found => card(found, context)));
  $("more").hidden = results.length >= Math.min(matching, MOST_RESULTS);
  if (!target) return;
  const rank = $("rank");
  rank.replaceChildren("Image ", String(target.image_id), " has rank ", make("strong", { textContent: target.rank }), ` of ${images}`);
  if (lastRank?.target === target.image_id && lastRank.rank !== target.rank) rank.append(`, before ${lastRank.rank}`);
  rank.append(`; cosine ${target.cosine.toFixed(4)}`);
  lastRank = { target: target.image_id, rank: target.rank };
  showCurve(names);
}

/** Shows the rank of the query's image against the number of removed edges; `names` are the query's statements. */
async function showCurve(names) {
  const edges = $("remove-edges").value;
  const key = `/api/image/${state.target}/ranks?${new URLSearchParams({ edges, seed })}`;
  if (curve?.key !== key) {
    curve = { key, of: ask(key) };
    curve.of.catch(() => {});
  }
  const { of } = curve;
  let found;
  try {
    found = await of;
  } catch {
    // The curve is an extra: without it the rank is still told.
    if (curve.key === key) curve = null;
    $("curve").hidden = true;
    return;
  }
  if (curve?.key !== key) return;
  const { objects, relationships } = graphOf(names);
  const inImage = edges === "augmented" ? objects.filter(name => !state.without.includes(name)).length : 0;
  const removed = found.edges - relationships.length - inImage;
  const fits = removed >= 0 && removed <= found.points.at(-1).removed;
  const now = fits && lastRank?.target === found.image_id ? { removed, rank: lastRank.rank } : null;
  const remove = count => pick(found.image_id, count ? `?${new URLSearchParams({ remove: count, edges, seed })}` : "");
  $("curve").hidden = found.points.length < 2;
  $("curve").querySelector("div").replaceChildren(drawCurve(found, now, remove));
}

/** Draws the query's graph; clicking a part deletes it. */
function drawQuery(statements) {
  const { objects, relationships, lone } = graphOf(statements);
  const drop = () => $("drop").checked;
  const change = next => go({ ...state, text: textOf(next) });
  $("drawn").hidden = !objects.length;
  const alone = new Set(state.without);
  const focused = document.activeElement?.closest("#drawing, #lone")?.id;
  $("drawing").replaceChildren(
    ...(relationships.length
      ? [draw(relationships, {
          alone,
          earlier,
          onEdge: relationship => change(withoutRelationship(statementsNow(), relationship, drop())),
          onObject: name => change(withoutObject(statementsNow(), name, drop())),
        })]
      : []),
  );
  $("lone").replaceChildren(...lone.map(name => {
    const button = make("button", { type: "button", textContent: name, title: `delete ${name}` });
    button.classList.toggle("alone", alone.has(name));
    button.setAttribute("aria-label", `delete ${name}`);
    button.addEventListener("click", () => change(withoutObject(statementsNow(), name, drop())));
    return make("li", {}, [button]);
  }));
  $("in-image").querySelector("ul").replaceChildren(...objects.map(name => {
    const box = make("input", { type: "checkbox", checked: !alone.has(name) });
    box.addEventListener("change", () => {
      const without = state.without.filter(other => other !== name);
      go({ ...state, without: box.checked ? without : [...without, name] });
    });
    return make("li", {}, [make("label", { className: "check" }, [box, name])]);
  }));
  // After a deletion with the keyboard, the focus stays near the deleted part.
  if (focused) $(focused).querySelector("[role=button], button")?.focus();
}

/** Makes an image's graph the query; `options` may remove edges. */
async function pick(id, options = "") {
  try {
    const image = await ask(`/api/image/${encodeURIComponent(id)}${options}`);
    $("pick-list").hidden = true;
    $("pick-words").value = "";
    go({ ...state, text: textOf(image.graph), target: image.image_id, without: image.without_in_image });
    $("target-caption").textContent = image.captions[0] ?? "";
  } catch (error) {
    say(error.message);
  }
}

/** Loads the state of the address, after opening a link or moving in the history. */
async function showAddress() {
  const { problem, ...next } = stateOf(location.hash);
  state = next;
  isLink = true;
  field.value = next.text;
  wanted = RESULTS;
  $("target-caption").textContent = "";
  search();
  if (problem) return showStale(problem);
  if (next.target === null) return;
  try {
    const { captions } = await ask(`/api/image/${next.target}`);
    if (state.target === next.target) $("target-caption").textContent = captions[0] ?? "";
  } catch (error) {
    if (isLink && state.target === next.target) showStale(error.message);
  }
}

/** Shows the example queries, and gives the fields placeholders of the data's own names. */
function showExamples() {
  const { examples } = vocabulary;
  $("examples").querySelector("ul").replaceChildren(...examples.map(graph => {
    const { relationships } = graphOf(graph);
    const link = make("a", { href: hashOf({ ...EMPTY, text: textOf(graph) }) }, [make("span", { textContent: wordsOf(graph) })]);
    if (relationships.length) link.prepend(draw(relationships, { title: wordsOf(graph) }));
    return make("li", {}, [link]);
  }));
  if (!examples.length) return;
  field.placeholder = textOf(examples[0]);
  const [[subject, predicate, object]] = examples.at(-1);
  $("pick-words").placeholder = object ? `${subject} ${object}` : subject;
  $("sentence-words").placeholder = object ? `${subject} ${predicate} ${object}` : subject;
}

async function list(words) {
  const { images } = await ask(`/api/images?${new URLSearchParams({ caption: words })}`);
  const items = images.map(({ image_id, caption }) => {
    const button = make("button", { type: "button" }, [make("small", { textContent: `${image_id} ` }), caption]);
    button.addEventListener("click", () => pick(image_id));
    return make("li", {}, [button]);
  });
  $("pick-list").replaceChildren(...(items.length ? items : [make("li", { textContent: "No caption has all of these words." })]));
  $("pick-list").hidden = false;
}

/** Makes what is understood of a sentence the query. */
async function read(words) {
  const { graph, not_understood } = await ask(`/api/sentence?${new URLSearchParams({ text: words })}`);
  if (!graph.length) return say("The sentence names no object of the data.");
  go({ ...state, text: textOf(graph), without: [] });
  if (not_understood.length) say(`Not understood: ${not_understood.join(", ")}.`);
}

function listen() {
  let pause;
  field.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(() => go({ ...state, text: field.value }, { replace: true }), TYPING_PAUSE);
  });
  field.addEventListener("input", () => showMarks(parse(field.value, typedLine(), isKnown).unread));
  // A line is only complete, and its names checked, once the cursor leaves it. A click that left it is handled first.
  field.addEventListener("blur", () => setTimeout(() => go({ ...state, text: field.value }, { replace: true }), TYPING_PAUSE));
  complete(field, $("completions"), vocabulary, () => go({ ...state, text: field.value }, { replace: true }));
  $("pick").addEventListener("submit", event => {
    event.preventDefault();
    const words = $("pick-words").value.trim();
    if (/^\d+$/.test(words)) pick(words);
    else list(words).catch(error => say(error.message));
  });
  $("sentence").addEventListener("submit", event => {
    event.preventDefault();
    read($("sentence-words").value).catch(error => say(error.message));
  });
  $("random").addEventListener("click", () => {
    ask("/api/random").then(({ image_id }) => pick(image_id), error => say(error.message));
  });
  $("whole").addEventListener("click", () => pick(state.target));
  $("forget").addEventListener("click", () => go({ ...state, target: null }));
  $("remove-edges").addEventListener("change", () => showCurve(statementsNow()));
  $("start").addEventListener("click", event => {
    event.preventDefault();
    go(EMPTY);
    field.focus();
  });
  $("remove").addEventListener("submit", event => {
    event.preventDefault();
    const options = { remove: $("remove-count").value, edges: $("remove-edges").value, seed: ++seed };
    pick(state.target, `?${new URLSearchParams(options)}`);
  });
  $("more").addEventListener("click", () => {
    wanted = Math.min(wanted + RESULTS, MOST_RESULTS);
    search();
  });
  showHaving = filter({
    objects: vocabulary.objects,
    isKnown,
    add: name => state.having.includes(name) || go({ ...state, having: [...state.having, name] }),
    remove: name => go({ ...state, having: state.having.filter(other => other !== name) }),
  });
  window.addEventListener("hashchange", showAddress);
}

try {
  vocabulary = await ask("/api/vocabulary");
  known = { objects: new Set(vocabulary.objects.map(normal)), predicates: new Set(vocabulary.predicates.map(normal)) };
  $("collection").textContent = `${vocabulary.images} ${vocabulary.split} images, ${vocabulary.objects.length} object and ` +
    `${vocabulary.predicates.length} predicate types`;
  showExamples();
  listen();
  showAddress();
} catch (error) {
  say(`The server does not answer: ${error.message}`);
}
