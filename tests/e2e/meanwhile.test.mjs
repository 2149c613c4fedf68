// What happens to a page while it stands open: its sign-in ends, its grain is thrown away in another
// tab, the network is slow, the browser keeps no cookies. And texts that are hard to show.

import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { DatabaseSync } from "node:sqlite";
import { Server, administrator, appPackage, assertAccessible, cleanUp, eventually, grainFrame, launch,
  launchProfile, nameGrain, openMenu, processesOfGrain } from "./harness.mjs";

let server, browser, context, page, probe;

before(async () => {
  server = await Server.start({ ALLOW_DEV_ACCOUNTS: "true" });
  probe = server.install(appPackage("probe"));
  browser = await launch();
  ({ context, page } = await administrator(browser, server));
});
after(cleanUp);

const idOf = (page) => new URL(page.url()).pathname.split("/")[2];
const titleOf = async (page) => (await page.title()).replace(/ - Sandstorm$/, "");

async function makeProbe(on, title) {
  await on.goto(`${server.origin}/apps/${probe.appId}`);
  await on.getByRole("button", { name: "New probe" }).click();
  await on.waitForURL(/\/grain\//);
  await grainFrame(on);
  await on.locator("body.shown").waitFor();
  await nameGrain(on, title);
  return idOf(on);
}

async function person(name) {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(`${server.origin}/sign-in`);
  await page.getByLabel("Name").fill(name);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(`${server.origin}/`);
  return { context, page };
}

/** Lets every sign-in of this person end, as it does after thirty days without use. */
function expire(name) {
  const db = new DatabaseSync(join(server.home, "sandstorm.sqlite"));
  db.exec("PRAGMA busy_timeout = 10000");
  db.prepare("UPDATE login_sessions SET expires = 1 WHERE account IN "
    + "(SELECT id FROM accounts WHERE display_name = ?)").run(name);
  db.close();
}

/** A form's request as the browser would send it; where its answer leads. */
const send = (headers, body) => new Promise((resolve, reject) => request({ host: "127.0.0.1", port: server.port,
  method: "POST", path: "/new", headers: { ...headers, host: new URL(server.origin).host } },
(answer) => { answer.resume(); resolve(answer.headers.location); }).on("error", reject).end(body));

async function rename(page, title) {
  await page.locator("header.bar a").first().focus();
  await page.keyboard.press("F2");
  await page.locator("#new-title").fill(title);
}

// ---- The sign-in ended ----

test("a form of somebody who is signed out leads, by the sign-in, back to the page where it stood", async () => {
  const gone = await person("Gone");
  await gone.page.goto(`${server.origin}/you`);
  expire("Gone");
  await gone.page.getByRole("button", { name: "Dark" }).click();
  await gone.page.getByRole("heading", { name: "You are signed out" }).waitFor();
  assert.match(await gone.page.locator("main").textContent(), /nothing was changed.*Code S-SIGNIN/s);
  await assertAccessible(gone.page, "a form after the sign-in ended");
  await gone.page.locator("main").getByRole("link", { name: "Sign in" }).click();
  await gone.page.getByLabel("Name").fill("Gone");
  await gone.page.getByRole("button", { name: "Sign in" }).click();
  await gone.page.waitForURL(`${server.origin}/you`);
  await gone.page.getByRole("button", { name: "Dark" }).waitFor();
  await gone.context.close();
});

test("an open grain whose sign-in ended says so, and no other page is put into it", async () => {
  const gone = await person("Ended");
  await makeProbe(gone.page, "Left open");
  expire("Ended");
  await gone.page.getByRole("button", { name: "Star" }).click();
  await gone.page.locator("#state").getByRole("heading", { name: "You are signed out" }).waitFor({ timeout: 5000 });
  assert.equal(await gone.page.locator("iframe").count(), 0);
  assert.equal(await gone.page.getByLabel("Name").count(), 0, "the sign-in form is not in the midst of this page");
  assert.equal(await gone.page.locator("[data-star]").getAttribute("aria-pressed"), "false");
  await gone.context.close();
});

test("a browser that keeps no cookies is told so, and what to do", async () => {
  const profile = join(server.dir, "profile");
  mkdirSync(join(profile, "Default"), { recursive: true });
  writeFileSync(join(profile, "Default/Preferences"),
    JSON.stringify({ profile: { default_content_setting_values: { cookies: 2 } } }));
  const strict = await launchProfile(profile);
  const page = await strict.newPage();
  const broken = [];
  page.on("pageerror", (error) => broken.push(String(error)));
  const told = async (where) => {
    await page.getByRole("heading", { name: "Your browser did not send the sign-in cookie back" }).waitFor();
    assert.match(await page.locator("main").textContent(), /Allow cookies for sandstorm\.localhost.*Code S-COOKIE/s, where);
  };
  await page.goto(server.adminLink());
  await told("a link");
  await assertAccessible(page, "without cookies");
  await page.goto(`${server.origin}/sign-in`);
  await page.getByLabel("Name").fill("Crumbless");
  await page.getByRole("button", { name: "Sign in" }).click();
  await told("a form");
  assert.deepEqual(broken, []);
  await strict.close();
});

// ---- The grain was thrown away elsewhere ----

test("a grain that is moved to the trash in another tab tells the one in which it is open", async () => {
  const grain = await makeProbe(page, "Doomed");
  const frame = await grainFrame(page);
  await frame.evaluate(() => { globalThis.unsaved = "text"; });
  const other = await context.newPage();
  await other.goto(`${server.origin}/?q=doomed`);
  await other.locator(`input[value="${grain}"]`).check();
  await other.getByRole("button", { name: "Trash" }).click();
  const strip = page.locator("#state .strip");
  await strip.waitFor({ timeout: 5000 });
  assert.match(await strip.textContent(), /This probe was moved to the trash\. What you type here is not saved/);
  assert.equal(await frame.evaluate(() => globalThis.unsaved), "text", "what was typed can still be copied");
  await assertAccessible(page, "trashed elsewhere");
  // Taken back elsewhere: this frame is still cut off, and its strip still has the way on.
  await other.locator("#notices").getByRole("button", { name: "Undo" }).click();
  await other.getByText("Restored Doomed.").first().waitFor();
  await page.waitForTimeout(1000);
  await strip.getByRole("button", { name: "Restore and open" }).click();
  await page.locator("body.shown").waitFor();
  await grainFrame(page);
  assert.equal(await strip.count(), 0);
  // Deleted for good by an operator: nothing is left to show.
  server.json("grain", "delete", grain, "--now");
  await page.getByRole("heading", { name: "Not here for you" }).waitFor({ timeout: 10_000 });
  await other.close();
});

test("Back to a grain that was stopped meanwhile shows it as it was", async () => {
  await makeProbe(page, "Stopped");
  await openMenu(page);
  await page.getByRole("button", { name: "Stop" }).click();
  await page.waitForURL(/\/details$/);
  await page.goBack();
  await grainFrame(page);
  // Else the frame has the page's own colours behind it, which an app does not expect, and what is
  // told later would cover it.
  await page.locator("body.shown").waitFor({ timeout: 10_000 });
});

// ---- A slow network ----

test("a second press on a slow network makes no second grain", async () => {
  const slow = await person("Slow");
  // Each request reaches the server at once; the first one's answer takes seven seconds to come back.
  let posts = 0;
  await slow.context.route("**/new", async (route) => {
    const asked = route.request();
    if (asked.method() !== "POST") return route.continue();
    const first = ++posts === 1;
    const answer = await send(await asked.allHeaders(), asked.postData());
    if (first) await new Promise((go) => setTimeout(go, 7000));
    await route.fulfill({ status: 303, headers: { location: answer } }).catch(() => { /* the page left */ });
  });
  await slow.page.goto(`${server.origin}/new`);
  const button = await slow.page.getByRole("button", { name: "New probe" }).boundingBox();
  const press = () => slow.page.mouse.click(button.x + 20, button.y + 20);
  await press();
  await slow.page.waitForTimeout(5000);
  await press();
  await slow.page.waitForURL(/\/grain\//);
  assert.equal(posts, 1, "the second press sent nothing");
  await slow.context.unrouteAll({ behavior: "ignoreErrors" });
  await slow.page.goto(server.origin);
  assert.equal(await slow.page.locator(".grains li").count(), 1);
  await slow.context.close();
});

// ---- Titles ----

test("a title of any characters is shown as it was typed, in the tab, too", async () => {
  await makeProbe(page, "S");
  // The first is a piece of the server's name, the others mean something to patterns.
  for (const title of ["Cost $& and $' more", "$1 $$", "S", "<b>&amp;", "👩‍👩‍👧 قائمة"]) {
    await rename(page, title);
    await page.keyboard.press("Enter");
    await eventually(`the tab shows ${title}`, async () => await page.title() === `${title} - Sandstorm`, 5);
    await page.locator("#new-title").waitFor({ state: "hidden" });
  }
});

test("an emptied title is no trap: leaving the field keeps the old one", async () => {
  await makeProbe(page, "Kept");
  await rename(page, "");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Tab");
  await page.locator("#new-title").waitFor({ state: "hidden" });
  assert.equal(await titleOf(page), "Kept");
  assert.ok(await page.evaluate(() => document.activeElement.id !== "new-title"));
});

test("a title that is cut loses its end, whichever way it is written", async () => {
  const grain = server.create(probe.appId, "--title", "قائمة المشتريات الأسبوعية للمطبخ الكبير ".repeat(4));
  const narrow = await browser.newContext({ viewport: { width: 390, height: 800 } });
  await narrow.addCookies(await context.cookies());
  const page = await narrow.newPage();
  await page.goto(server.origin);
  const shown = (selector) => page.evaluate((selector) => {
    const el = document.querySelector(selector);
    const range = document.createRange();
    range.setStart(el.firstChild, 0);
    range.setEnd(el.firstChild, 1);
    const first = range.getBoundingClientRect(), box = el.getBoundingClientRect();
    return { cut: el.scrollWidth > el.clientWidth, begins: first.left >= box.left - 1 && first.right <= box.right + 1 };
  }, selector);
  assert.deepEqual(await shown(`.grains a[href="/grain/${grain}"] bdi`), { cut: true, begins: true });
  await page.goto(`${server.origin}/grain/${grain}`);
  assert.deepEqual(await shown("h1 #title"), { cut: true, begins: true });
  await narrow.close();
});

// ---- Long names and narrow screens ----

test("long names leave the buttons of their rows in sight", async () => {
  const name = "Wolfeschlegelsteinhausenbergerdorffvoralternwarengewissenhaft";
  const long = await person(name.slice(0, 60));
  await makeProbe(long.page, "Of a long name");
  await page.setViewportSize({ width: 1280, height: 800 });
  await page.goto(`${server.origin}/admin`);
  const stop = page.locator("tr").filter({ hasText: name.slice(0, 60) }).getByRole("button", { name: "Stop" });
  const box = await stop.boundingBox();
  const edge = await page.locator(".scroll").first().boundingBox();
  assert.ok(box.x + box.width <= edge.x + edge.width, "the button is inside of the table's box");
  await long.context.close();
});

test("on a phone the lit place is in sight", async () => {
  const phone = await browser.newContext({ viewport: { width: 390, height: 800 } });
  await phone.addCookies(await context.cookies());
  const page = await phone.newPage();
  for (const path of ["/?show=trash", `/?app=${probe.appId}`, "/admin/log"]) {
    await page.goto(server.origin + path);
    const box = await page.locator(".rail [aria-current]").boundingBox();
    assert.ok(box.x >= 0 && box.x + box.width <= 390, `${path}: ${JSON.stringify(box)}`);
  }
  await phone.close();
});

// ---- Keys ----

test("F2 on a row leads to its title; walking out of a menu closes it", async () => {
  const grain = await makeProbe(page, "Keyed");
  await page.locator(".title-menu summary").focus();
  await page.keyboard.press("Enter");
  assert.ok(await page.locator(".title-menu").evaluate((el) => el.open));
  await page.keyboard.press("Shift+Tab");
  assert.ok(!await page.locator(".title-menu").evaluate((el) => el.open));
  await page.goto(`${server.origin}/?q=keyed`);
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("F2");
  await page.waitForURL(`${server.origin}/grains/${grain}/details#title-field`);
  await eventually("the title has the focus", () => page.evaluate(() => document.activeElement.id === "title-field"), 5);
  await page.keyboard.type("Keyed anew");
  await page.keyboard.press("Enter");
  await page.getByText("Renamed to Keyed anew.").first().waitFor();
});

test("Escape out of renaming leaves the focus where the next letter is no shortcut", async () => {
  await makeProbe(page, "Renamed not");
  await page.locator("header.bar a").first().focus();
  await page.keyboard.press("F2");
  await page.keyboard.type("thrown away");
  await page.keyboard.press("Escape");
  const focused = () => page.evaluate(() => document.activeElement.matches("iframe, .title-menu summary"));
  await eventually("the focus is on the app or the title's menu", focused, 5);
  const before = page.url();
  await page.keyboard.type("new");
  assert.equal(page.url(), before);
  assert.equal(await titleOf(page), "Renamed not");
});

test("what is typed after full screen or a star is the app's", async () => {
  await makeProbe(page, "Written in");
  const before = page.url();
  await page.getByRole("button", { name: "Star" }).click();
  await page.keyboard.type("hello nice");
  assert.equal(page.url(), before);
  await page.locator("header.bar").getByLabel("More").click();
  await page.getByText("Full screen").click();
  assert.ok(await page.evaluate(() => document.activeElement.matches("iframe")), "the app has the focus");
  await page.keyboard.type("and now more");
  assert.equal(page.url(), before);
});

test("a page of the list that has gone shows the last one, and an act stays on its page", async () => {
  await page.goto(`${server.origin}/?page=7`);
  assert.ok(await page.locator(".grains li").count() > 0);
  const to = await page.goto(`${server.origin}/?all=1`).then(() => page.locator("#list input[name=to]").inputValue());
  assert.equal(to, "/?all=1");
  for (const width of [1280, 959, 768, 640, 639, 390]) {
    await page.setViewportSize({ width, height: 800 });
    const doors = await page.locator("a[href='/new'], [data-make], button.new").evaluateAll((all) => all.filter((el) => el.checkVisibility()).length);
    assert.ok(doors > 0, `nothing leads to a new grain at ${width}`);
  }
  await page.setViewportSize({ width: 1280, height: 800 });
});

test("Enter in the palette opens what was asked for, not what was shown before", async () => {
  const wanted = await makeProbe(page, "Protokoll");
  await makeProbe(page, "Another one");
  await page.goto(server.origin);
  await page.route("**/palette?*", async (route) => {
    await new Promise((done) => setTimeout(done, 400));
    await route.continue();
  });
  await page.keyboard.press("Control+k");
  await page.locator(".palette li").first().waitFor();
  await page.keyboard.type("zzqq");
  await page.keyboard.press("Enter");
  await page.locator(".palette").getByText("Nothing found.").waitFor();
  assert.equal(new URL(page.url()).pathname, "/");
  await page.locator(".palette input").fill("Protokoll");
  await page.keyboard.press("Enter");
  await page.waitForURL(`${server.origin}/grain/${wanted}`);
  await page.unroute("**/palette?*");
});

// ---- Long names ----

test("a long name of an app leaves the column of the list, and a name in a table, readable", async () => {
  await page.goto(server.origin);
  const long = "Ein sehr langer Anwendungsname mit vielen Wörtern für Elternbeiratssitzungen";
  const widths = await page.evaluate((long) => {
    const names = document.querySelectorAll(".rail a > bdi");
    names.forEach((name) => { name.textContent = long; });
    return { names: names.length, new: document.querySelector(".rail .new").getBoundingClientRect().width };
  }, long);
  assert.ok(widths.names > 0 && widths.new <= 220, JSON.stringify(widths));
  const phone = await browser.newContext({ viewport: { width: 390, height: 800 }, storageState: await context.storageState() });
  const small = await phone.newPage();
  await small.goto(`${server.origin}/admin/people`);
  for (const box of await small.locator("td > bdi, th bdi").all()) {
    const { width, height } = await box.boundingBox(), name = await box.textContent();
    assert.ok(width >= 100 && (name.length > 12 || height < 60), `${name}: ${width} by ${height}`);
  }
  await phone.close();
});

test("a limit that cannot be set is told beside what was typed", async () => {
  await page.goto(`${server.origin}/admin/limits`);
  for (const [name, value, words] of [["memory", "1", /at least 16777216 bytes/], ["pids", "lots", /number/],
    ["running", "5", /one person/]]) {
    await page.getByLabel("Whose").selectOption({ label: "App Probe" });
    await page.getByLabel("Limit", { exact: true }).selectOption(name);
    await page.getByLabel("Value").fill(value);
    await page.getByRole("button", { name: "Make an exception" }).click();
    await page.locator("#value-error").waitFor();
    assert.match(await page.locator("#value-error").textContent(), words);
    assert.equal(await page.getByLabel("Value").inputValue(), value);
    assert.equal(await page.getByLabel("Limit", { exact: true }).inputValue(), name);
    await assertAccessible(page, `limits with a wrong ${name}`);
  }
  await page.getByLabel("Limit", { exact: true }).selectOption("memory");
  await page.getByLabel("Value").fill("512M");
  await page.getByRole("button", { name: "Make an exception" }).click();
  await page.getByText("The exception holds from the next start of a grain on.").first().waitFor();
});

test("a script that comes after the app has loaded shows it all the same", async () => {
  await makeProbe(page, "Before the script");
  const script = /\.js$/;
  await page.route(script, async (route) => {
    await page.frameLocator("#frame").locator("body").waitFor();
    // Its page is there; its `load` follows at once.
    await page.waitForTimeout(500);
    await route.continue();
  });
  await page.reload({ waitUntil: "commit" });
  await page.locator("body.shown").waitFor();
  assert.equal(await page.locator("#state .waking").count(), 0);
  await page.unroute(script);
});

test("a grain that went to the trash and was still running when the server ended is ended by the next", async () => {
  const grain = await makeProbe(page, "Thrown away");
  await server.kill();
  assert.ok(processesOfGrain(grain).length > 0);
  const db = new DatabaseSync(join(server.home, "sandstorm.sqlite"));
  assert.equal(db.prepare("UPDATE grains SET trashed_at = ? WHERE id = ?").run(Date.now(), grain).changes, 1);
  db.close();
  await server.run();
  await eventually("it has ended", () => processesOfGrain(grain).length === 0, 20);
  assert.equal(server.state(grain), "trash");
});
