// The filter of the results: objects that every image must have.

import { make } from "./results.js";

/**
 * Connects the form of the filter. `add` and `remove` take a name; `isKnown` tells whether the data has an object. Returns a
 * function that shows the names of the filter.
 */
export function filter({ objects, isKnown, add, remove }) {
  const [form, field, chips, wrong] = ["having", "having-name", "having-chips", "having-wrong"].map(id => document.getElementById(id));
  document.getElementById("having-names").replaceChildren(...objects.map(name => make("option", { value: name })));
  const enter = () => {
    const name = field.value.trim().toLowerCase();
    const known = !name || isKnown(name, false);
    wrong.textContent = known ? "" : `The data has no object "${name}".`;
    field.setAttribute("aria-invalid", !known);
    if (!name || !known) return;
    field.value = "";
    add(name);
  };
  form.addEventListener("submit", event => {
    event.preventDefault();
    enter();
  });
  // A name chosen from the list is complete.
  field.addEventListener("input", event => {
    if (!(event instanceof InputEvent) || event.inputType === "insertReplacementText") enter();
  });
  return names => chips.replaceChildren(...names.map(name => {
    const button = make("button", { type: "button", textContent: `${name} ×` });
    button.setAttribute("aria-label", `no longer only images with ${name}`);
    button.addEventListener("click", () => {
      remove(name);
      field.focus();
    });
    return make("li", {}, [button]);
  }));
}
