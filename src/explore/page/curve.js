// The rank of the query's image against the number of removed edges, as a small curve. Rank 1 is at the top; ranks are on a
// logarithmic scale.

import { element } from "./drawing.js";

const [WIDTH, HEIGHT] = [320, 112];
const [LEFT, RIGHT, TOP, BOTTOM] = [42, 10, 12, 30];

/**
 * Draws `points`, each `{removed, rank}`, among `images`. `now`, or null, is the point of the present query. `remove` is called
 * with the number of edges of a clicked point.
 */
export function drawCurve({ image_id, images, points }, now, remove) {
  const most = Math.max(1, points.at(-1).removed);
  const x = removed => LEFT + ((WIDTH - LEFT - RIGHT) * removed) / most;
  const depth = Math.log(Math.max(2, images));
  const y = rank => TOP + ((HEIGHT - TOP - BOTTOM) * Math.log(rank)) / depth;
  const text = (left, top, words, anchor) => element("text", { x: left, y: top, "text-anchor": anchor }, [words]);
  const ticks = [...new Set([1, ...[10, 100, 1000, 10000, 100000].filter(rank => rank < images / 2), images])];
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  svg.setAttribute("aria-label", `Rank of image ${image_id} by number of removed edges: ` +
    points.map(({ removed, rank }) => `${removed} removed, rank ${rank}`).join("; "));
  svg.append(
    ...ticks.flatMap(rank => [
      element("path", { class: "grid", d: `M${LEFT} ${y(rank)}H${WIDTH - RIGHT}` }),
      text(LEFT - 12, y(rank) + 4, String(rank), "end"),
    ]),
    text(LEFT, HEIGHT - BOTTOM + 16, "0", "middle"),
    text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, "edges removed", "middle"),
    text(x(most), HEIGHT - BOTTOM + 16, String(most), "middle"),
    element("path", { class: "curve", d: points.map(({ removed, rank }, at) => `${at ? "L" : "M"}${x(removed)} ${y(rank)}`).join("") }),
    ...(now ? [element("circle", { class: "now", cx: x(now.removed), cy: y(now.rank), r: 5.5 })] : []),
    ...points.map(({ removed, rank }) => {
      const place = { cx: x(removed), cy: y(rank) };
      const point = element("g", { class: "point" }, [
        element("title", {}, [`${removed} removed: rank ${rank}`]),
        element("circle", { ...place, r: 2.6 }),
        element("rect", { x: place.cx - 6, y: TOP - 6, width: 12, height: HEIGHT - TOP - BOTTOM + 12, class: "hit" }),
      ]);
      point.addEventListener("click", () => remove(removed));
      return point;
    }),
  );
  return svg;
}
