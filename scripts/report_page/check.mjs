// Opens a report from disk in headless Chromium, at phone and desktop width, in light and dark mode. It must
// render without console messages and without network requests. Every link must have a target, tables must
// sort, hovering and arrow keys must show exact values, and nothing may be wider than the window: no table on a
// desktop, no figure on a phone. Shared objects of a query's results must be marked. Screenshots of each section are
// saved to a folder for inspection.
//
//   node check.mjs REPORT_FOLDER SCREENSHOT_FOLDER
//
// BROWSER names the browser; otherwise PATH is searched. Without a browser it prints "skipped" and exits
// successfully.
import { access, mkdir } from "node:fs/promises";
import { delimiter, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import assert from "node:assert/strict";

const [report, screenshots] = process.argv.slice(2);
if (!report || !screenshots) {
  console.error("usage: node check.mjs REPORT_FOLDER SCREENSHOT_FOLDER");
  process.exit(2);
}

const exists = path => access(path).then(() => true, () => false);

async function browserPath() {
  if (process.env.BROWSER) return process.env.BROWSER;
  for (const folder of (process.env.PATH ?? "").split(delimiter)) {
    for (const name of ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]) {
      if (await exists(join(folder, name))) return join(folder, name);
    }
  }
}

const executablePath = await browserPath();
const puppeteer = await import("puppeteer-core").then(module => module.default, () => null);
if (!executablePath || !puppeteer) {
  console.log(`skipped: ${executablePath ? "puppeteer-core is not installed (npm ci)" : "no Chromium in PATH, and BROWSER is not set"}`);
  process.exit(0);
}
await mkdir(screenshots, { recursive: true });
// The sandbox needs privileges that containers rarely grant; the only page is our own file.
const browser = await puppeteer.launch({ executablePath, args: ["--no-sandbox"] });

async function open(width, scheme) {
  const page = await browser.newPage();
  const said = [];
  page.on("console", message => said.push(message.text()));
  page.on("pageerror", error => said.push(String(error)));
  page.on("request", request => {
    if (!/^(file|data):/.test(request.url())) said.push(`request to ${request.url()}`);
  });
  await page.emulateMediaFeatures([
    { name: "prefers-color-scheme", value: scheme },
    { name: "prefers-reduced-motion", value: "reduce" },
  ]);
  await page.setViewport({ width, height: 900 });
  await page.goto(pathToFileURL(resolve(report, "report.html")).href);
  return { page, said };
}

async function checkLinks(page) {
  const links = await page.$$eval("a[href]", all => all.map(link => link.getAttribute("href")));
  assert(links.length > 10, `only ${links.length} links`);
  for (const link of new Set(links)) {
    const found = link.startsWith("#")
      ? await page.evaluate(id => document.getElementById(id) !== null, link.slice(1))
      : await exists(join(report, link));
    assert(found, `${link} leads nowhere`);
  }
  const inGallery = await page.$(".strip a");
  if (inGallery) {
    const target = await inGallery.evaluate(link => link.getAttribute("href"));
    await inGallery.evaluate(link => link.click());
    assert.equal(await page.evaluate(() => location.hash), target);
    const shown = await page.$eval(target, article => article.getBoundingClientRect().top < innerHeight);
    assert(shown, `${target} is not brought into view`);
    assert(await page.$eval(`${target} svg`, svg => svg.getBoundingClientRect().width > 100), "no drawing there");
  }
  return links.length;
}

async function checkSorting(page) {
  const values = () => page.$$eval("#table-2 tbody tr", rows =>
    rows.map(row => row.cells[1].querySelector("data.ours")).filter(Boolean).map(cell => Number(cell.dataset.value)));
  const button = await page.$("#table-2 thead button[data-column='1']");
  const order = await values();
  await button.focus();
  await page.keyboard.press("Enter");
  assert.deepEqual(await values(), order.toSorted((a, b) => b - a), "descending");
  await page.keyboard.press("Enter");
  assert.deepEqual(await values(), order.toSorted((a, b) => a - b), "ascending");
  await page.$eval("#table-2 thead button[data-column='0']", first => first.click());
  assert.deepEqual(await values(), order, "as before");
}

async function checkExactValues(page) {
  const cell = await page.$("#table-2 tbody data.ours");
  const exact = await cell.evaluate(data => data.dataset.value);
  await cell.hover();
  assert((await page.$eval("#tooltip", tip => tip.hidden ? "" : tip.textContent)).includes(exact), "hovering");
  await page.$eval("#exact", box => box.click());
  assert.equal(await cell.evaluate(data => data.textContent), exact, "the check box");
  await page.$eval("#exact", box => box.click());
  await page.focus("#figure-2 .panels");
  await page.keyboard.press("ArrowRight");
  const mark = await page.$eval("#figure-2 .marks circle", circle => circle.dataset.value);
  assert((await page.$eval("#tooltip", tip => tip.textContent)).includes(mark), "arrow keys");
  await page.keyboard.press("Escape");
  assert(await page.$eval("#tooltip", tip => tip.hidden), "Escape");
}

async function checkWidths(page, name) {
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert(overflow <= 0, `${name}: ${overflow} pixels wider than the window`);
  const cut = selector => page.$$eval(selector, all =>
    all.filter(one => one.scrollWidth > one.clientWidth).map(one => one.getAttribute("aria-label")));
  assert.deepEqual(await cut(".panels, .strip, .found"), [], `${name}: figures and results that are cut`);
  if (name === "desktop") assert.deepEqual(await cut(".scroll"), [], "tables that scroll");
}

async function checkGallery(page) {
  const [marked, plain] = await page.$eval(".query", query => {
    const fills = [...query.querySelectorAll(".strip use")].flatMap(use => {
      const drawing = document.querySelector(use.getAttribute("href"));
      return [...drawing.querySelectorAll("rect")].map(rect => {
        const kind = [...rect.classList].find(name => /^k\d+$/.test(name));
        return kind !== undefined && getComputedStyle(query).getPropertyValue(`--${kind}`) !== "";
      });
    });
    return [fills.filter(Boolean).length, fills.length];
  });
  assert(marked > 0 && marked < plain, `${marked} of ${plain} objects are marked`);
}

async function checkCommand(page) {
  await page.focus("#about pre");
  assert(await page.$eval("#about pre", block => document.activeElement === block), "the command has the focus");
}

try {
  for (const [name, width] of [["phone", 390], ["desktop", 1280]]) {
    for (const scheme of ["light", "dark"]) {
      const { page, said } = await open(width, scheme);
      await checkWidths(page, name);
      await checkGallery(page);
      await checkCommand(page);
      for (const section of ["header", "#expectations", "#table-2", "#figures", "#gallery", "#runs", "#about"]) {
        const part = section === "#gallery" ? "#gallery .query" : section;
        const element = await page.$(part);
        if (element) await element.screenshot({ path: join(screenshots, `${name}-${scheme}-${section.replace("#", "")}.png`) });
      }
      const links = await checkLinks(page);
      await checkSorting(page);
      await checkExactValues(page);
      assert.deepEqual(said, [], "console and requests");
      console.log(`${name}, ${scheme}: ${links} links, sorting, exact values: good`);
      await page.close();
    }
  }
} finally {
  await browser.close();
}
