// Tests the page of `scenerank explore` in headless Chromium: enters a graph, finds images, makes one of them
// the query, deletes an edge and sees its rank change. Runs at phone and desktop width, in light and dark
// mode; the console must stay free of errors.
//
//   npm install --prefix target/browser puppeteer-core@24
//   node scripts/explore_page/test.mjs http://127.0.0.1:7411/ [FOLDER]
//
// Screenshots are saved to FOLDER. Prints "skipped" and exits successfully if Chromium (CHROMIUM, or on PATH)
// or puppeteer-core is not installed.

import assert from "node:assert/strict";
import { existsSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [url, folder] = process.argv.slice(2);
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

function findPuppeteer() {
  for (const place of [join(root, "target/browser/"), import.meta.url]) {
    try {
      return createRequire(place)("puppeteer-core");
    } catch {
      // It may be at the other position.
    }
  }
  return null;
}

const chromium = findChromium() ?? skip("there is no Chromium");
const puppeteer = findPuppeteer() ?? skip("puppeteer-core is not installed: npm install --prefix target/browser puppeteer-core@24");

const browser = await puppeteer.launch({ executablePath: chromium, args: ["--no-sandbox", "--disable-gpu"] });
try {
  const complaints = [];
  const page = await browser.newPage();
  page.on("console", message => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", error => complaints.push(error.message));
  page.on("request", request => {
    if (!request.url().startsWith(url) && !request.url().startsWith("data:")) complaints.push(`asked for ${request.url()}`);
  });
  await mainPath(page);
  await screens(page);
  assert.deepEqual(complaints.filter(text => !text.includes("422")), [], "no console errors");
  console.log("the page works in Chromium");
} finally {
  await browser.close();
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

/** Edges of the query, and its objects without an edge. */
async function partsOf(page) {
  return (await page.$$("#drawing .edge, #lone button")).length;
}

async function mainPath(page) {
  await page.setViewport({ width: 1280, height: 900 });
  await page.goto(url, { waitUntil: "networkidle0" });
  const { objects, predicates } = await page.evaluate(() => fetch("/api/vocabulary").then(answer => answer.json()));
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
  assert.match(await page.$eval("#text", field => field.value), / -> $/);
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

/** Checks both widths in both colour schemes; nothing may be wider than the window. */
async function screens(page) {
  if (folder) mkdirSync(folder, { recursive: true });
  for (const [name, width, height] of [["phone", 390, 844], ["desktop", 1280, 900]]) {
    for (const scheme of ["light", "dark"]) {
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await page.setViewport({ width, height });
      const wider = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      assert.ok(wider <= 0, `${name}: ${wider} pixels too wide`);
      if (!folder) continue;
      for (const [part, selector] of [["query", "header"], ["results", "#results"]]) {
        await page.$eval(selector, node => node.scrollIntoView());
        await page.screenshot({ path: join(folder, `${name}_${scheme}_${part}.png`) });
      }
    }
  }
}
