// Completion of names in the text field, from the vocabulary. Matches at the beginning of a name come first, then at the
// beginning of a word, then anywhere; among equals, the more frequent name comes first.

const MOST = 8;

/** The name at the cursor: its kind, the typed part, and its position in the text. */
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
  return { kind, typed: typed.trimStart().toLowerCase(), start: start + from + (typed.length - typed.trimStart().length) };
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

/** Shows completions below `field` in `list`; calls `changed` after inserting one. */
export function complete(field, list, vocabulary, changed) {
  let place = null;
  let selected = -1;

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
  const accept = name => {
    const after = field.value.slice(field.selectionEnd);
    // Replaces the name at the cursor up to its end.
    const rest = /^[^\n]*/.exec(after)[0];
    const own = place.kind === "predicate" ? rest.split("->")[0] : rest.split(/\s-/)[0];
    const following = after.slice(own.length);
    const glue = { subject: " - ", predicate: " -> ", object: "" }[place.kind];
    const put = name + (following.trimStart().startsWith("-") ? " " : glue);
    field.setRangeText(put, place.start, field.selectionEnd + own.length, "end");
    changed();
    show();
  };
  const show = () => {
    place = nameAt(field.value, field.selectionEnd);
    const names = place.kind === "predicate" ? vocabulary.predicates : vocabulary.objects;
    const found = place.typed || place.kind !== "subject" ? completions(place.typed, names) : [];
    // A complete name without longer matches needs no list.
    if (!found.length || (found.length === 1 && found[0] === place.typed)) return close();
    list.replaceChildren(
      ...found.map((name, index) => {
        const item = document.createElement("li");
        Object.assign(item, { id: `completion-${index}`, textContent: name, role: "option" });
        item.addEventListener("pointerdown", event => {
          event.preventDefault();
          accept(name);
        });
        return item;
      }),
    );
    list.hidden = false;
    select(place.typed && !names.includes(place.typed) ? 0 : -1);
  };

  field.addEventListener("input", show);
  field.addEventListener("blur", close);
  field.addEventListener("keydown", event => {
    if (list.hidden || event.isComposing) return;
    const count = list.children.length;
    if (event.key === "ArrowDown") select((selected + 1) % count);
    else if (event.key === "ArrowUp") select((Math.max(selected, 0) + count - 1) % count);
    else if (event.key === "Escape") close();
    else if ((event.key === "Enter" || event.key === "Tab") && selected >= 0) accept(items()[selected].textContent);
    else return;
    event.preventDefault();
  });
}
