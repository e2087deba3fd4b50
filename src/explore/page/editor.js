// Marks behind the lines of the text field. The layer below the field has the same text in the same font, invisible; a marked
// line has a background and an underline there.

/** Returns a function that shows `marks`, a kind ("typing" or "wrong") by line, behind the lines of `field`. */
export function marker(field, layer) {
  const follow = () => {
    layer.scrollTop = field.scrollTop;
    layer.style.width = `${field.clientWidth}px`;
  };
  field.addEventListener("scroll", follow);
  new ResizeObserver(follow).observe(field);
  return marks => {
    const lines = field.value.split("\n").map((line, at) => {
      const span = document.createElement("span");
      Object.assign(span, { textContent: line, className: marks.get(at) ?? "" });
      return [span, "\n"];
    });
    layer.replaceChildren(...lines.flat());
    field.setAttribute("aria-invalid", [...marks.values()].includes("wrong"));
    follow();
  };
}
