// The query as text, as statements and as an address. The text is the source of the others.
//
//   man - throwing -> frisbee     a relationship
//   tree                          an object without a relationship
//
// A state is {text, target, without, having}: `target` is the id of the image from which the query started, or null; `without`
// holds the names of the objects whose edge to the image node is deleted, `having` those that every result must have.

const LINE = /^(.*?)\s-\s*(.*?)\s*(?:->\s*(.*))?$/;

export const normal = name => name.trim().toLowerCase();

/** Names in a line: none, one, or three; the last two may be empty while they are being typed. */
export function namesOfLine(line) {
  const text = line.replaceAll("→", "->").replaceAll("–", "-");
  if (!text.trim()) return [];
  const match = LINE.exec(text.trimStart());
  if (!match) return [normal(text)];
  const [, subject, predicate, object] = match;
  if (!predicate && !object) return [normal(subject)];
  return [normal(subject), normal(predicate), normal(object ?? "")];
}

export const lineOf = names => (names.length === 1 ? names[0] : `${names[0]} - ${names[1]} -> ${names[2]}`);

/** A query in words, such as "man riding horse; tree". */
export function wordsOf(statements) {
  const { relationships, lone } = graphOf(statements);
  return [...relationships.map(names => names.join(" ")), ...lone].join("; ");
}

/** What a line lacks to be understood, in words; null if it lacks nothing. */
function lack(names, isKnown) {
  const [, predicate, object] = names;
  const unknown = names.findIndex((name, at) => name && !isKnown(name, at === 1));
  if (unknown >= 0) return `the data has no ${unknown === 1 ? "predicate" : "object"} "${names[unknown]}"`;
  if (!names[0]) return "a name is missing before the dash";
  if (predicate === "") return "a predicate is missing after the dash";
  if (object === "") return "an object is missing at the end";
  return null;
}

/**
 * Parses the statements of a text, each with its line. The line being typed counts as far as it is valid: only its
 * subject until the relationship is complete, nothing until the subject is a known name. `unread` has the lines that are
 * not understood, or not wholly, with what they lack. An unknown name in another line is a statement, so that the server
 * suggests names.
 */
export function parse(text, typedLine, isKnown) {
  const statements = [];
  const unread = [];
  text.split("\n").forEach((line, index) => {
    let names = namesOfLine(line);
    if (!names.length) return;
    const error = lack(names, isKnown);
    const typing = index === typedLine;
    if (error && (typing || names.some(name => !name))) {
      unread.push({ line: index, error, kind: typing ? "typing" : "wrong" });
      if (!typing || !isKnown(names[0], false)) return;
      names = names.slice(0, 1);
    }
    statements.push({ line: index, names });
  });
  return { statements: statements.filter(unseen()), unread };
}

function unseen() {
  const seen = new Set();
  return ({ names }) => {
    const key = names.join("\n");
    return !seen.has(key) && seen.add(key);
  };
}

/** Objects in the order of their first mention, relationships, and objects without a relationship. */
export function graphOf(statements) {
  const objects = [...new Set(statements.flatMap(names => (names.length === 1 ? names : [names[0], names[2]])))];
  const relationships = statements.filter(names => names.length === 3);
  const related = new Set(relationships.flatMap(([subject, , object]) => [subject, object]));
  return { objects, relationships, lone: objects.filter(name => !related.has(name)) };
}

/** Text of statements; objects that occur in a relationship get no line of their own. */
export function textOf(statements) {
  const { relationships, lone } = graphOf(statements);
  return [...relationships, ...lone.map(name => [name])].map(lineOf).join("\n");
}

/** Removes one relationship. With `drop`, objects that have no other relationship are removed too. */
export function withoutRelationship(statements, relationship, drop) {
  const key = lineOf(relationship);
  const rest = statements.filter(names => lineOf(names) !== key);
  const ends = [relationship[0], relationship[2]];
  if (!drop) return [...rest, ...ends.map(name => [name])];
  const { lone } = graphOf([...rest, ...ends.map(name => [name])]);
  return rest.filter(names => names.length === 3 || !(ends.includes(names[0]) && lone.includes(names[0])));
}

/** Removes one object and its relationships. With `drop`, objects left without a relationship are removed too. */
export function withoutObject(statements, object, drop) {
  const touches = names => names.length === 3 && (names[0] === object || names[2] === object);
  let rest = statements.filter(names => !(names.length === 1 && names[0] === object));
  for (const relationship of rest.filter(touches)) rest = withoutRelationship(rest, relationship, drop);
  return rest.filter(names => !(names.length === 1 && names[0] === object));
}

/** Encodes a state as the fragment of an address, so that it can be shared. */
export function hashOf({ text, target, without, having }) {
  const parts = new URLSearchParams();
  if (text.trim()) parts.set("q", text);
  if (target !== null) parts.set("image", target);
  for (const name of without) parts.append("without", name);
  for (const name of having) parts.append("having", name);
  return `#${parts}`;
}

/** Decodes the state from the fragment of an address; `problem` says what it has that no state can have. */
export function stateOf(hash) {
  const parts = new URLSearchParams(hash.replace(/^#/, ""));
  const target = parts.get("image");
  const isId = target !== null && /^\d{1,15}$/.test(target);
  return {
    text: parts.get("q") ?? "",
    target: isId ? Number(target) : null,
    without: parts.getAll("without"),
    having: parts.getAll("having"),
    problem: target !== null && !isId ? `"${target}" is no id of an image` : null,
  };
}
