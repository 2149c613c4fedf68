// The main job, as a person does it: upload a package, install it, make a grain, write in it, close
// the tab, come back, find it.

import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { Server, administrator, appPackage, assertAccessible, cleanUp, eventually, grainFrame, launch,
  nameGrain, processesOfGrain } from "./harness.mjs";

let server, browser, context, page, appId;
const grains = [];

before(async () => {
  server = await Server.start({ GRAIN_IDLE_SECONDS: "2" });
  browser = await launch();
  ({ context, page } = await administrator(browser, server));
});
after(cleanUp);

const idOf = (page) => new URL(page.url()).pathname.split("/")[2];

/** Writes a note in TiddlyWiki and waits until its server has it. */
async function writeNote(page, grain, title, text) {
  const wiki = await grainFrame(page);
  await wiki.getByTitle("Create a new tiddler").first().click();
  const editor = wiki.locator(".tc-tiddler-edit-frame").first();
  await editor.locator("input.tc-titlebar").fill(title);
  await editor.frameLocator(".tc-tiddler-frame iframe, iframe").first().locator("textarea").fill(text);
  await editor.getByTitle(/^Confirm changes/).click();
  await eventually(`the note ${title} is on the server's disk`, () => {
    const dir = join(server.grainDir(grain), "wiki/tiddlers");
    return existsSync(dir) && readdirSync(dir).some((name) =>
      name.startsWith(title) && readFileSync(join(dir, name), "utf8").includes(text));
  });
}

async function makeWiki() {
  await page.goto(`${server.origin}/apps/${appId}`);
  await page.getByRole("button", { name: "New wiki" }).click();
  await page.waitForURL(/\/grain\//);
  const grain = idOf(page);
  grains.push(grain);
  await nameGrain(page, `Wiki ${grains.length}`);
  const wiki = await grainFrame(page);
  await wiki.getByTitle("Create a new tiddler").first().waitFor();
  return grain;
}

test("a new server says what to do first", async () => {
  await assertAccessible(page, "empty home");
  assert.match(await page.title(), /Grains/);
});

test("upload a package, say yes, see the app", async () => {
  await page.goto(`${server.origin}/install`);
  await assertAccessible(page, "install");
  await page.locator("input[type=file]").setInputFiles(appPackage("tiddlywiki"));
  const upload = page.getByRole("button", { name: "Upload" });
  if (await upload.isVisible()) await upload.click();
  await page.waitForURL(/\/install\/[0-9a-f]{32}$/, { timeout: 60_000 });
  const install = page.getByRole("button", { name: "Install", exact: true });
  await install.waitFor({ timeout: 60_000 });
  await assertAccessible(page, "confirm");
  await install.click();
  await page.waitForURL(/\/apps\/[0-9a-z]{52}$/);
  appId = new URL(page.url()).pathname.split("/")[2];
  await assertAccessible(page, "app page");
  assert.match(await page.locator("h1").textContent(), /TiddlyWiki/);
});

test("make a grain, write in it, close the tab: nothing of it runs on", async () => {
  const grain = await makeWiki();
  await writeNote(page, grain, "Shopping", "bread and dates");
  await assertAccessible(page, "grain page");
  assert.ok(processesOfGrain(grain).length >= 3, "supervisor, bridge and app run");
  assert.equal(server.state(grain), "running");
  await page.close();
  await eventually("no process of the grain is left", () => processesOfGrain(grain).length === 0, 30);
  assert.equal(server.state(grain), "asleep");
});

test("open it again, find the note, and go on writing", async () => {
  page = await context.newPage();
  await page.goto(`${server.origin}/grain/${grains[0]}`);
  const wiki = await grainFrame(page);
  await wiki.getByRole("tab", { name: "Recent" }).click();
  await wiki.getByRole("link", { name: "Shopping" }).first().click();
  await wiki.getByText("bread and dates").first().waitFor();
  assert.match((await server.inGrain(grains[0], "/recipes/default/tiddlers/Shopping")).text, /bread and dates/);
  await writeNote(page, grains[0], "Trip", "to the sea");
});

test("the person is signed in inside the app by header", async () => {
  const status = JSON.parse((await server.inGrain(grains[0], "/status")).text);
  assert.equal(status.anonymous, false);
});

test("two grains of one app see nothing of each other", async () => {
  const other = await makeWiki();
  await writeNote(page, other, "Secret", "of the second wiki");
  const first = await server.inGrain(grains[0], "/recipes/default/tiddlers/Secret");
  assert.equal(first.status, 404);
  const second = await server.inGrain(other, "/recipes/default/tiddlers/Shopping");
  assert.equal(second.status, 404);
  // The key of one is no key to the other.
  const key = server.json("grain", "session", grains[0]);
  const foreign = await server.inGrain(other, "/status", { headers: { Cookie: key.cookie } });
  assert.ok([401, 403].includes(foreign.status), `a foreign cookie got ${foreign.status}`);
});

test("both stand in the list, and home is accessible with them", async () => {
  await page.goto(server.origin);
  assert.equal(await page.locator(`a[href="/grain/${grains[0]}"]`).count(), 1);
  assert.equal(await page.locator(`a[href="/grain/${grains[1]}"]`).count(), 1);
  await assertAccessible(page, "home");
});

test("the shell is started anew: open tabs go on, sessions stay", async () => {
  await page.goto(`${server.origin}/grain/${grains[0]}`);
  await grainFrame(page);
  await server.terminate();
  await server.run();
  await eventually("the page can write again", async () => {
    await writeNote(page, grains[0], `After${Date.now()}`, "the restart").catch(() => null);
    return readdirSync(join(server.grainDir(grains[0]), "wiki/tiddlers"))
      .some((name) => name.startsWith("After"));
  }, 60);
  await page.goto(server.origin);
  assert.match(await page.title(), /Grains/, "still signed in");
});

test("every other page passes axe", async () => {
  const grain = grains[0];
  for (const path of ["/new", "/apps", "/notices", "/you", "/about", "/admin", "/admin/people",
    "/admin/packages", "/admin/log", `/grains/${grain}/details`, `/grains/${grain}/log`, "/?show=trash",
    "/no-such-page", "/grain/nosuchgrain2222222222", "/install/00000000000000000000000000000000"]) {
    await page.goto(server.origin + path);
    await assertAccessible(page, path);
  }
  const stranger = await (await browser.newContext()).newPage();
  await stranger.goto(server.origin);
  await assertAccessible(stranger, "sign-in");
});
