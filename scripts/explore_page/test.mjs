// Tests the page of `scenerank explore` in headless Chromium: begins with an example, enters a graph, finds images, filters
// them, makes one of them the query, deletes edges and sees its rank change; opens links that do not fit. Checks phone and
// desktop width, in light and dark mode, for what is too wide and, with axe-core, for accessibility. The console must stay free
// of errors.
//
//   npm install --ignore-scripts --prefix target/browser puppeteer-core@24 axe-core@4
//   node scripts/explore_page/test.mjs http://127.0.0.1:7411/ [FOLDER]
//
// Screenshots are saved to FOLDER, or to EXPLORE_SCREENSHOTS. Without a folder, the phone is checked in light mode only and the
// desktop in dark mode only. PAGE=src/explore/page takes the page's files from there instead of from the server, to try
// changes without a build. Prints "skipped" and exits successfully if Chromium (CHROMIUM, or on PATH) or puppeteer-core is not
// installed; without axe-core only its checks are left out.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [url, folder = process.env.EXPLORE_SCREENSHOTS] = process.argv.slice(2);
const root = new URL("../../", import.meta.url).pathname;

function skip(why) {
  console.log(`skipped: ${why}`);
  process.exit(0);
}

function findChromium() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  for (const name of ["chromium", "chromium-browser", "google-chrome"]) {
    for (const path of (process.env.PATH ?? "").split(":")) {
      if (existsSync(join(path, name))) return join(path, name);
    }
  }
  return null;
}

/** What `use` makes of the first place that has the package. */
function findPackage(use) {
  for (const place of [join(root, "target/browser/"), import.meta.url]) {
    try {
      return use(createRequire(place));
    } catch {
      // It may be at the other position.
    }
  }
  return null;
}

const chromium = findChromium() ?? skip("there is no Chromium");
const puppeteer = findPackage(require => require("puppeteer-core"))
  ?? skip("puppeteer-core is not installed: npm install --prefix target/browser puppeteer-core@24 axe-core@4");
const axe = findPackage(require => readFileSync(require.resolve("axe-core/axe.min.js"), "utf8"));
if (!axe) console.log("axe-core is not installed: its checks are left out");

const browser = await puppeteer.launch({ executablePath: chromium, args: ["--no-sandbox", "--disable-gpu"] });
try {
  const complaints = [];
  const page = await browser.newPage();
  page.on("console", message => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", error => complaints.push(error.message));
  page.on("request", request => {
    if (!request.url().startsWith(url) && !request.url().startsWith("data:")) complaints.push(`asked for ${request.url()}`);
  });
  if (process.env.PAGE) await serveFrom(page, process.env.PAGE);
  await start(page);
  await mainPath(page);
  await typing(page);
  await results(page);
  await curve(page);
  await staleLinks(page);
  await screens(page);
  // A refused query is an answer, of which the browser reports the status.
  assert.deepEqual(complaints.filter(text => !/status of (404|422)/.test(text)), [], "no console errors");
  console.log("the page works in Chromium");
} finally {
  await browser.close();
}

/** Answers requests for the page's files from a folder, with the headers of the server. */
async function serveFrom(page, folder) {
  await page.setRequestInterception(true);
  page.on("request", async request => {
    const name = new URL(request.url()).pathname.slice(1) || "page.html";
    const file = join(folder, name);
    if (!request.url().startsWith(url) || !existsSync(file)) return request.continue();
    const { headers } = await fetch(request.url(), { method: "HEAD" });
    const kept = ["content-type", "content-security-policy"].map(header => [header, headers.get(header)]);
    request.respond({ headers: Object.fromEntries(kept.filter(([, value]) => value)), body: readFileSync(file) });
  });
}

/** Opens the page at an address, as a new visit. */
async function open(page, hash = "") {
  await page.goto("about:blank");
  await page.goto(url + hash, { waitUntil: "networkidle0" });
}

/** Fails if axe finds something in the present state of the page. */
async function accessible(page, state) {
  if (!axe) return;
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run());
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join(" | ")}`);
  assert.deepEqual(found, [], `axe, ${state}`);
}

function shown(page, selector) {
  return page.$eval(selector, node => node.checkVisibility());
}

/** Waits for the results of the last action. */
async function settled(page) {
  await new Promise(done => setTimeout(done, 250)); // longer than the pause after typing
  await page.waitForSelector("#results[aria-busy=false]");
}

function textOf(page, selector) {
  return page.$eval(selector, node => node.textContent);
}

async function rankOf(page) {
  return Number(await textOf(page, "#rank strong"));
}

function names(page) {
  return page.evaluate(() => fetch("/api/vocabulary").then(answer => answer.json()));
}

/** Replaces the text of the query, key by key. */
async function enter(page, text) {
  await page.$eval("#text", field => field.select());
  await page.keyboard.press("Delete");
  await page.type("#text", text);
}

/** The empty page offers queries of the data's own names; each finds images. */
async function start(page) {
  await page.setViewport({ width: 1280, height: 800 });
  await open(page);
  const { examples } = await names(page);
  const texts = await page.$$eval("#examples a", links => links.map(link => new URLSearchParams(link.hash.slice(1)).get("q")));
  assert.deepEqual(texts, examples.map(graph => graph.map(([subject, predicate, object]) => `${subject} - ${predicate} -> ${object}`).join("\n")));
  assert.equal(texts.length, 3);
  assert.ok(texts.includes(await page.$eval("#text", field => field.placeholder)), "the placeholder is an example");
  for (let example = 0; example < 3; example++) {
    await open(page);
    assert.equal(await shown(page, "#examples"), true);
    await page.click(`#examples li:nth-child(${example + 1}) a`);
    await settled(page);
    assert.equal(await page.$eval("#text", field => field.value), texts[example]);
    assert.equal(await textOf(page, "#searched"), `Searched: ${examples[example].map(names => names.join(" ")).join("; ")}`);
    assert.equal(await shown(page, "#examples"), false);
    assert.equal((await page.$$("#found .card")).length, 12);
  }
}

/** What is typed: the searched part is named, the rest is marked; each completion leaves a valid line. */
async function typing(page) {
  const { objects, predicates } = await names(page);
  const marks = kind => page.$$eval(`#marks .${kind}`, spans => spans.map(span => span.textContent));
  const value = () => page.$eval("#text", field => field.value);
  await open(page);
  await page.focus("#text");
  const typed = `${objects[0]} - ${predicates[0].slice(0, 1)}`;
  await enter(page, typed);
  await page.keyboard.press("Escape");
  await settled(page);
  assert.deepEqual(await marks("typing"), [typed]);
  assert.equal(await textOf(page, "#searched"), `Searched: ${objects[0]}`);
  assert.match(await textOf(page, "#message"), /^Line 1: /);
  // The cursor leaves the line.
  await page.keyboard.type("\n");
  await settled(page);
  assert.deepEqual(await marks("wrong"), [typed]);
  assert.equal(await page.$eval("#text", field => field.getAttribute("aria-invalid")), "true");

  // A name that the data lacks stays marked when the field is left.
  await enter(page, `${objects[2]}x\n`);
  await settled(page);
  assert.deepEqual(await marks("wrong"), [`${objects[2]}x`]);
  await page.$eval("#text", field => field.blur());
  await settled(page);
  assert.deepEqual(await marks("wrong"), [`${objects[2]}x`]);

  // By keyboard alone: a subject, then a predicate with an object, then another object.
  const valid = async step => {
    await settled(page);
    assert.deepEqual([await marks("typing"), await marks("wrong"), await textOf(page, "#message")], [[], [], ""], `${step}: ${await value()}`);
  };
  await enter(page, objects[0].slice(0, 2));
  await page.waitForSelector("#completions:not([hidden]) [aria-selected=true]");
  const subject = await page.$eval("#completions [aria-selected=true]", item => item.textContent);
  await page.keyboard.press("Enter");
  await valid("subject");
  assert.equal(await value(), subject);
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Tab");
  await valid("predicate");
  const [, predicate, object] = /^.+ - (.+) -> (.+)$/.exec(await value());
  assert.ok(predicates.includes(predicate) && objects.includes(object), await value());
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await valid("object");
  const [line] = [await value()];
  assert.notEqual(line, `${subject} - ${predicate} -> ${object}`);
  assert.ok(line.startsWith(`${subject} - ${predicate} -> `));
  assert.equal(await textOf(page, "#searched"), `Searched: ${line.replace(" - ", " ").replace(" -> ", " ")}`);
  await page.$eval("#text", field => field.blur());
  await valid("left");
}

/** Bars, the number of cards in a laptop's window, the filter, and the large view. */
async function results(page) {
  const { examples } = await names(page);
  await page.setViewport({ width: 1280, height: 800 });
  await open(page);
  await page.click("#examples a");
  await settled(page);
  const bars = await page.$$eval("#found .bar i", all => all.map(bar => parseFloat(bar.style.width)));
  const cosines = await page.$$eval("#found .score", all => all.map(score => Number(score.textContent)));
  const [most, least] = [cosines[0], cosines.at(-1)];
  assert.deepEqual([bars[0], bars.at(-1)], [100, 4]);
  bars.forEach((bar, at) => assert.ok(Math.abs(bar - 4 - (96 * (cosines[at] - least)) / (most - least)) < 2, `bar ${at}: ${bar}`));
  assert.match(await textOf(page, "#results-help"), new RegExp(`bars from ${least.toFixed(2)} to ${most.toFixed(2)}`));
  const whole = await page.$$eval("#found .card", cards => cards.filter(card => card.getBoundingClientRect().bottom <= innerHeight).length);
  assert.ok(whole >= 6, `${whole} whole cards in 1280 x 800`);

  // The filter, by keyboard. Ranks are those among all images.
  const ranks = () => page.$$eval("#found .place", all => all.map(place => Number(place.textContent)));
  const [[, , object]] = examples[1];
  await page.focus("#having-name");
  await page.keyboard.type(`${object}x`);
  await page.keyboard.press("Enter");
  assert.match(await textOf(page, "#having-wrong"), /^The data has no object/);
  await page.keyboard.press("Backspace");
  await page.keyboard.press("Enter");
  await settled(page);
  assert.equal(await textOf(page, "#having-wrong"), "");
  assert.match(await textOf(page, "#results-help"), new RegExp(`images with ${object}`));
  assert.match(page.url(), /having=/);
  const filtered = await ranks();
  assert.ok(filtered.length >= 1 && filtered.every((rank, at) => at === 0 || rank > filtered[at - 1]), `${filtered}`);
  assert.notDeepEqual(filtered, cosines.map((_, at) => at + 1), "some images lack the object");
  await page.click("#having-chips button");
  await settled(page);
  assert.deepEqual(await ranks(), cosines.map((_, at) => at + 1));

  // The large view, by keyboard; the focus returns.
  await page.focus("#found .enlarge");
  await page.keyboard.press("Enter");
  assert.ok(await page.$eval("#large", dialog => dialog.open));
  assert.ok((await page.$$("#large .captions p")).length > 1);
  await accessible(page, "large view");
  await page.keyboard.press("Escape");
  assert.ok(!(await page.$eval("#large", dialog => dialog.open)));
  assert.equal(await page.evaluate(() => document.activeElement.className), "enlarge");
}

/** The rank against removed edges: a point of the curve is the rank of a search. */
async function curve(page) {
  await open(page);
  await page.click("#examples a");
  await settled(page);
  await page.click("#found .as-query");
  await settled(page);
  await page.waitForSelector("#curve .now");
  const points = async () => {
    const label = await page.$eval("#curve svg", svg => svg.getAttribute("aria-label"));
    return [...label.matchAll(/(\d+) removed, rank (\d+)/g)].map(([, removed, rank]) => [Number(removed), Number(rank)]);
  };
  const all = await points();
  assert.ok(all.length > 2 && all[0][0] === 0);
  assert.equal(all[0][1], await rankOf(page));
  const middle = Math.floor(all.length / 2);
  const before = await partsOf(page);
  await page.$eval(`#curve .point:nth-of-type(${middle + 1})`, point => point.dispatchEvent(new MouseEvent("click")));
  await settled(page);
  assert.equal(await rankOf(page), all[middle][1]);
  assert.ok((await partsOf(page)) < before);
  assert.deepEqual(await points(), all, "the same curve");
  // The form does the same by keyboard, with other edges: those of a new curve.
  const seeds = { ranks: null, remove: null };
  page.on("request", request => {
    const { pathname, searchParams } = new URL(request.url());
    if (pathname.endsWith("/ranks")) seeds.ranks = searchParams.get("seed");
    else if (searchParams.has("remove")) seeds.remove = searchParams.get("seed");
  });
  await page.$eval("#remove-count", field => (field.value = "3"));
  await page.focus("#remove-count");
  await page.keyboard.press("Enter");
  await settled(page);
  await page.waitForSelector("#curve .now");
  const [, rank] = (await points()).find(([removed]) => removed === 3);
  assert.equal(await rankOf(page), rank);
  assert.ok(seeds.remove !== null && seeds.ranks === seeds.remove, JSON.stringify(seeds));
}

/** Links that do not fit the run say so, and lead to the start. */
async function staleLinks(page) {
  const { objects } = await names(page);
  for (const [hash, words] of [
    ["#q=quixotry", "no object \"quixotry\""],
    [`#q=${objects[0]}&image=999999999`, "no image 999999999"],
    ["#image=999999999", "no image 999999999"],
    ["#image=abc", "\"abc\" is no id"],
    [`#q=${objects[0]}&having=quixotry`, "no object \"quixotry\""],
  ]) {
    await open(page, hash);
    await settled(page);
    assert.equal(await shown(page, "#stale"), true, hash);
    assert.ok((await textOf(page, "#stale-why")).includes(words), await textOf(page, "#stale-why"));
    assert.equal((await page.$$("#found .card")).length, 0);
    await accessible(page, `stale link ${hash}`);
    await page.focus("#start");
    await page.keyboard.press("Enter");
    await settled(page);
    assert.deepEqual([await shown(page, "#stale"), await shown(page, "#examples")], [false, true], hash);
    assert.equal(new URL(page.url()).hash, "");
  }
}

/** Edges of the query, and its objects without an edge. */
async function partsOf(page) {
  return (await page.$$("#drawing .edge, #lone button")).length;
}

async function mainPath(page) {
  await page.setViewport({ width: 1280, height: 900 });
  await open(page);
  const { objects, predicates } = await names(page);
  assert.match(await textOf(page, "#collection"), /^\d+ \w+ images/);

  // Enters a graph with completion, by keyboard only.
  await page.focus("#text");
  await page.keyboard.type(objects[0].slice(0, 2));
  await page.waitForSelector("#completions:not([hidden]) [aria-selected=true]");
  await page.keyboard.press("Escape");
  assert.ok(await page.$eval("#completions", list => list.hidden));
  await page.$eval("#text", field => field.select());
  await page.keyboard.type(`${objects[0]} - ${predicates[0].slice(0, 1)}`);
  await page.waitForSelector("#completions:not([hidden]) [aria-selected=true]");
  await page.keyboard.press("Enter");
  assert.match(await page.$eval("#text", field => field.value), / -> .+$/);
  await page.keyboard.type(objects[1]);
  await settled(page);
  assert.equal((await page.$$("#found .card")).length, 12);
  assert.equal((await page.$$("#drawing .edge")).length, 1);

  // An unknown name gives a sentence with suggestions.
  await page.keyboard.press("Escape");
  await page.keyboard.type(`\n${objects[2]}x\n`);
  await settled(page);
  assert.match(await textOf(page, "#message"), /^Line 2: the data has no object/);
  await page.click("#message button");
  await settled(page);
  assert.equal(await textOf(page, "#message"), "");

  // The address holds the query.
  const typed = await page.$eval("#text", field => field.value);
  await page.reload({ waitUntil: "networkidle0" });
  assert.equal(await page.$eval("#text", field => field.value), typed);

  // An image becomes the query and finds itself.
  await page.click("#found .as-query");
  await settled(page);
  const before = await rankOf(page);
  assert.equal(await page.$eval("#target", box => box.hidden), false);
  assert.ok(before >= 1);

  // Deletes edges, and then objects, until its rank changes; Back restores the last one.
  const [address, count] = [page.url(), await partsOf(page)];
  await page.click("#drop");
  let rank = before;
  let parts = count;
  while (rank === before && parts > 1) {
    await page.$eval("#drawing .edge, #lone button", part => part.dispatchEvent(new MouseEvent("click")));
    await settled(page);
    const left = await partsOf(page);
    assert.ok(left < parts, "something less");
    [parts, rank] = [left, await rankOf(page)];
  }
  assert.notEqual(page.url(), address);
  assert.notEqual(rank, before, "the rank changes with the query");
  assert.match(await textOf(page, "#rank"), /, before \d+/);
  await page.click("#whole");
  await settled(page);
  assert.deepEqual([await rankOf(page), await partsOf(page)], [before, count]);
  await page.goBack();
  await settled(page);
  assert.deepEqual([await rankOf(page), await partsOf(page)], [rank, parts]);

  // By keyboard: the first edge or object has the focus and a name.
  await page.click("#whole");
  await settled(page);
  assert.ok((await page.$eval("#drawing [role=button]", node => node.getAttribute("aria-label"))).startsWith("delete "));
  await page.$eval("#drawing [role=button]", part => part.focus());
  await page.keyboard.press("Delete");
  await settled(page);
  assert.ok((await partsOf(page)) < count);

  // Searches by words of a caption, and by an id that does not exist.
  await page.type("#pick-words", "a");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#pick-list button");
  await page.click("#pick-list button");
  await settled(page);
  assert.ok((await rankOf(page)) >= 1);
}

/** Checks each state at both widths in both colour schemes; nothing may be wider than the window. */
async function screens(page) {
  if (folder) mkdirSync(folder, { recursive: true });
  const { objects, predicates, examples } = await names(page);
  const [[subject, predicate, object]] = examples[0];
  const query = `#${new URLSearchParams({ q: `${subject} - ${predicate} -> ${object}` })}`;
  const states = {
    start: () => open(page),
    results: () => open(page, query),
    typing: async () => {
      await open(page, query);
      await enter(page, `${objects[1]}x\n${objects[0]} - ${predicates[0].slice(0, 1)}`);
    },
    filter: () => open(page, `${query}&${new URLSearchParams({ having: object })}`),
    image: async () => {
      await open(page, query);
      await page.$eval("#found .as-query", link => link.click());
      await page.waitForSelector("#curve .now");
    },
    large: async () => {
      await open(page, query);
      await page.$eval("#found .enlarge", button => button.click());
    },
    stale: () => open(page, "#q=quixotry"),
  };
  for (const [name, width, height, short] of [["phone", 375, 812, "light"], ["desktop", 1280, 800, "dark"]]) {
    for (const scheme of folder ? ["light", "dark"] : [short]) {
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await page.setViewport({ width, height });
      for (const [state, show] of Object.entries(states)) {
        await show();
        await settled(page);
        const wider = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
        assert.ok(wider <= 0, `${name}, ${state}: ${wider} pixels too wide`);
        const fonts = await page.$$eval("#text, #marks", nodes => nodes.map(node => getComputedStyle(node).font));
        assert.equal(fonts[0], fonts[1], `${name}: marks lie behind their lines`);
        await accessible(page, `${name}, ${scheme}, ${state}`);
        if (!folder) continue;
        await page.evaluate(() => scrollTo(0, 0));
        await page.screenshot({ path: join(folder, `${name}_${scheme}_${state}.png`) });
        if (name !== "phone" || !["results", "image"].includes(state)) continue;
        await page.$eval("#results", node => node.scrollIntoView());
        await page.screenshot({ path: join(folder, `${name}_${scheme}_${state}_found.png`) });
      }
    }
  }
}
