// Completion of names in the text field, from the vocabulary. Matches at the beginning of a name come first, then at the
// beginning of a word, then anywhere. Among equals, names that occur with the rest of the line come first, then the more
// frequent name.
//
// Every choice leaves a valid line: a predicate comes with an object, which is selected, so that typing replaces it.

const MOST = 8;

/**
 * The name at the cursor: its kind, the typed part, its position in the text, and
 * the names before it in its line.
 */
export function nameAt(text, cursor) {
  const start = text.lastIndexOf("\n", cursor - 1) + 1;
  const before = text.slice(start, cursor);
  const arrow = before.lastIndexOf("->");
  const dash = /\s-(?!>)/.exec(before);
  let from = 0;
  let kind = "subject";
  if (arrow >= 0) [from, kind] = [arrow + 2, "object"];
  else if (dash) [from, kind] = [dash.index + 2, "predicate"];
  const typed = before.slice(from);
  const name = part => part.trim().toLowerCase();
  return {
    kind,
    typed: typed.trimStart().toLowerCase(),
    start: start + from + (typed.length - typed.trimStart().length),
    subject: name(before.slice(0, dash?.index ?? 0)).split("#")[0].trim(),
    predicate: arrow >= 0 && dash ? name(before.slice(dash.index + 2, arrow)) : "",
  };
}

export function completions(typed, names) {
  const ranked = [[], [], []];
  for (const name of names) {
    const at = name.indexOf(typed);
    if (at === 0) ranked[0].push(name);
    else if (at > 0) ranked[name[at - 1] === " " ? 1 : 2].push(name);
    if (ranked[0].length >= MOST) break;
  }
  return ranked.flat().slice(0, MOST);
}

/** The names that follow a subject, or a subject and a predicate, in frequent relationships; the most frequent first. */
export function following({ objects, predicates, relationships }) {
  const found = new Map();
  const add = (key, name) => found.get(key)?.add(name) ?? found.set(key, new Set([name]));
  for (const [subject, predicate, object] of relationships) {
    add(objects[subject], predicates[predicate]);
    add(`${objects[subject]}\n${predicates[predicate]}`, objects[object]);
  }
  return (...names) => [...(found.get(names.join("\n")) ?? [])];
}

/** Shows completions below `field` in `list`; calls `changed` after inserting one. */
export function complete(field, list, vocabulary, changed) {
  const after = following(vocabulary);
  const [predicates, objects] = [vocabulary.predicates, vocabulary.objects];
  let place = null;
  let selected = -1;

  const first = (some, all) => [...some, ...all.filter(name => !some.includes(name))];
  const predicatesAfter = subject => first(after(subject), predicates);
  const objectsAfter = (subject, predicate) => first(after(subject, predicate), objects);
  const items = () => [...list.children];
  const close = () => {
    list.hidden = true;
    field.removeAttribute("aria-activedescendant");
  };
  const select = index => {
    selected = index;
    items().forEach((item, at) => item.setAttribute("aria-selected", at === index));
    if (index < 0) return field.removeAttribute("aria-activedescendant");
    field.setAttribute("aria-activedescendant", items()[index].id);
    items()[index].scrollIntoView({ block: "nearest" });
  };
  /** Replaces the name at the cursor up to its end. */
  const accept = name => {
    const rest = /^[^\n]*/.exec(field.value.slice(field.selectionEnd))[0];
    const { kind, start, subject } = place;
    if (kind === "subject") {
      const own = rest.split(/\s-/)[0];
      field.setRangeText(name, start, field.selectionEnd + own.length, "end");
      changed();
      if (own === rest) return show({ kind: "next", typed: "", start: field.selectionEnd, subject: name.split("#")[0] });
      return close();
    }
    if (kind === "object") {
      field.setRangeText(name, start, field.selectionEnd + rest.length, "end");
      changed();
      return close();
    }
    const [own, object] = rest.split("->");
    const put = kind === "next" ? ` - ${name} -> ` : `${name} -> `;
    if (object?.trim()) {
      field.setRangeText(put.trimEnd(), start, field.selectionEnd + own.length, "end");
      changed();
      return close();
    }
    const suggested = objectsAfter(subject, name).find(other => other !== subject) ?? objects[0];
    field.setRangeText(put + suggested, start, field.selectionEnd + rest.length, "end");
    field.setSelectionRange(start + put.length, start + put.length + suggested.length);
    changed();
    show();
  };
  const show = (next = null) => {
    // A selected name is a suggestion: what is typed replaces it.
    place = next ?? nameAt(field.value, field.selectionStart);
    const names = {
      subject: () => objects,
      next: () => predicatesAfter(place.subject),
      predicate: () => predicatesAfter(place.subject),
      object: () => objectsAfter(place.subject, place.predicate).filter(name => name !== place.subject || place.typed),
    }[place.kind]();
    const found = place.typed || place.kind !== "subject" ? completions(place.typed, names) : [];
    // A complete name without longer matches needs no list.
    if (!found.length || (found.length === 1 && found[0] === place.typed)) return close();
    list.replaceChildren(
      ...found.map((name, index) => {
        const item = document.createElement("li");
        Object.assign(item, { id: `completion-${index}`, textContent: place.kind === "next" ? `– ${name}` : name, role: "option" });
        item.addEventListener("pointerdown", event => {
          event.preventDefault();
          accept(name);
        });
        item.dataset.name = name;
        return item;
      }),
    );
    list.hidden = false;
    const isSuggestion = field.selectionStart < field.selectionEnd;
    select(isSuggestion || (place.typed && !names.includes(place.typed)) ? 0 : -1);
  };

  field.addEventListener("input", () => show());
  field.addEventListener("blur", close);
  field.addEventListener("keydown", event => {
    if (list.hidden || event.isComposing) return;
    const count = list.children.length;
    if (event.key === "ArrowDown") select((selected + 1) % count);
    else if (event.key === "ArrowUp") select((Math.max(selected, 0) + count - 1) % count);
    else if (event.key === "Escape") {
      field.setSelectionRange(field.selectionEnd, field.selectionEnd);
      close();
    } else if ((event.key === "Enter" || event.key === "Tab") && selected >= 0) accept(items()[selected].dataset.name);
    else return;
    event.preventDefault();
  });
}
