// Apps on their way in and out as people meet them: no room left, deleting what nobody uses, what
// others install, and what an administrator sees of grains that ended by an error.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Server, administrator, assertAccessible, cleanUp, eventually, launch, packageOf }
  from "./harness.mjs";

let server, browser, admin, ada, ben;

before(async () => {
  server = await Server.start({ ALLOW_DEV_ACCOUNTS: "true" });
  browser = await launch();
  admin = (await administrator(browser, server)).page;
  ada = await member("Ada");
  ben = await member("Ben");
});
after(cleanUp);

async function member(name) {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(`${server.origin}/sign-in`);
  await page.getByLabel("Name").fill(name);
  await page.getByLabel("Role of a new account").selectOption("member");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(`${server.origin}/`);
  return page;
}

/** Chooses the file on the page; its id. */
async function upload(page, spk) {
  await page.goto(`${server.origin}/install`);
  await page.locator("input[type=file]").setInputFiles(spk);
  await page.getByRole("button", { name: "Upload" }).click();
  await page.waitForURL(/\/install\/[0-9a-f]{32}$/);
  return new URL(page.url()).pathname.split("/")[2];
}

async function install(page, spk) {
  const id = await upload(page, spk);
  await page.getByRole("button", { name: "Install", exact: true }).click();
  await page.waitForURL(/\/apps\/\w{52}$/);
  return { id, path: new URL(page.url()).pathname };
}

/** A grain, made on the app's page; the app of these packages ends at once, the grain stays. */
async function make(page, appId) {
  await page.goto(`${server.origin}/apps/${appId}`);
  await page.getByRole("button", { name: /^New / }).click();
  await page.waitForURL(/\/grain\//);
  return new URL(page.url()).pathname.split("/")[2];
}

/** In both widths and colours: nothing sticks out, and axe finds nothing. */
async function fits(page, where) {
  const before = page.viewportSize();
  for (const width of [1280, 390]) {
    for (const colorScheme of ["light", "dark"]) {
      await page.setViewportSize({ width, height: 800 });
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(over <= 0, `${where} scrolls sideways by ${over} at ${width}`);
      await assertAccessible(page, `${where} at ${width}, ${colorScheme}`);
    }
  }
  await page.setViewportSize(before);
}

test("nobody is told what others install", async () => {
  const told = [];
  ben.on("websocket", (socket) => socket.on("framereceived", ({ payload }) => told.push(String(payload))));
  const opened = ben.waitForEvent("websocket");
  await ben.goto(`${server.origin}/apps`);
  await opened;
  const { id } = await install(ada, packageOf(server, "private", "/bin/sh"));
  // Something that he is told, after which the other would have come.
  const other = await ben.context().newPage();
  await other.goto(`${server.origin}/install/${id}`);
  await other.getByRole("button", { name: "Install", exact: true }).click();
  await eventually("news of his own", () => told.includes("account"));
  await other.close();
  assert.deepEqual(told.filter((text) => text.includes("install") || text.includes(id)), []);
});

test("an app is deleted when no grain uses it, by keyboard, after a question", async () => {
  const { id, path } = await install(ada, packageOf(server, "boards", "/bin/sh"));
  const appId = path.split("/")[2];
  await ben.goto(`${server.origin}/install/${id}`);
  await ben.getByRole("button", { name: "Install", exact: true }).click();
  const grain = await make(ben, appId);
  // In use: no button, and of others only that there are some.
  await ada.goto(server.origin + path);
  const here = ada.locator("section", { has: ada.getByRole("heading", { name: "On this server" }) });
  assert.match(await here.textContent(), /Used by: grains of other people\./);
  assert.equal(await here.getByRole("button").count(), 0);
  await fits(ada, "an app in use");
  // What a page of before asks for is refused with words.
  server.json("grain", "delete", grain, "--now");
  await ada.reload();
  assert.match(await here.textContent(), /Used by: no grain, but in the lists of others\./);
  assert.equal(await here.getByRole("button").count(), 0);
  await ben.goto(server.origin + path);
  await ben.getByRole("button", { name: "Remove app" }).click();
  await ben.waitForURL(`${server.origin}/apps`);
  await ada.reload();
  const button = here.getByRole("button", { name: "Delete version 1" });
  await button.waitFor();
  await fits(ada, "an app that can be deleted");
  await ben.goto(`${server.origin}/install/${id}`);
  await ben.getByRole("button", { name: "Install", exact: true }).click();
  await ben.waitForURL(server.origin + path);
  await button.click();
  await ada.getByText("“boards” is in the list of apps of other people here").waitFor();
  await fits(ada, "a deletion that is refused");
  await ben.getByRole("button", { name: "Remove app" }).click();
  await ben.waitForURL(`${server.origin}/apps`);

  await ada.getByRole("link", { name: "Show the app" }).click();
  await ada.waitForURL(server.origin + path);
  await button.focus();
  await ada.keyboard.press("Enter");
  const question = ada.getByRole("heading", { name: "Delete boards 1?" });
  await question.waitFor();
  assert.match(await ada.locator(".problem").textContent(), /taken from your list of apps/);
  await fits(ada, "the question");
  await ada.getByRole("link", { name: "Keep" }).press("Enter");
  await ada.waitForURL(server.origin + path);
  await button.click();
  await ada.getByRole("button", { name: "Delete" }).press("Enter");
  await ada.waitForURL(`${server.origin}/apps`);
  await ada.getByText("Deleted boards 1 from this server.").first().waitFor();
  const gone = await ada.goto(server.origin + path);
  assert.equal(gone.status(), 404);
});

test("an administrator deletes it for all, and they are told", async () => {
  const { id, path } = await install(ben, packageOf(server, "lists", "/bin/sh"));
  await admin.goto(`${server.origin}/admin/packages`);
  await admin.getByRole("link", { name: "lists" }).click();
  await admin.waitForURL(server.origin + path);
  const here = admin.locator("section", { has: admin.getByRole("heading", { name: "On this server" }) });
  assert.match(await here.textContent(), /brought by Ben .*Used by: no grain, but in the list of 1 person\./s);
  await here.getByRole("button", { name: "Delete version 1" }).click();
  assert.match(await admin.locator(".problem").textContent(), /in the list of apps of 1 person\. It will be taken/);
  await fits(admin, "an administrator's question");
  await admin.getByRole("button", { name: "Delete" }).click();
  await admin.waitForURL(`${server.origin}/admin/packages`);
  await ben.goto(`${server.origin}/apps`);
  await ben.getByText("lists was removed from this server by an administrator.").first().waitFor();
  const there = await ben.goto(`${server.origin}/install/${id}`);
  assert.equal(there.status(), 200);
  await ben.getByText("is not on this server").waitFor();
});

test("without room an app is refused with one's own numbers, and comes when there is room", async () => {
  server.json("limit", "set", "--account", "ada", "installed=4100");
  const spk = packageOf(server, "large", "/bin/sh");
  // What she has already is more than that.
  await ada.goto(`${server.origin}/install`);
  await ada.locator("input[type=file]").setInputFiles(spk);
  await ada.getByRole("button", { name: "Upload" }).click();
  await ada.locator("#upload-error").getByText("You have no room for another app.").waitFor();
  await fits(ada, "no room at all");

  server.json("limit", "set", "--account", "ben", "installed=4100");
  await upload(ben, spk);
  await ben.getByRole("heading", { name: "Not installed" }).waitFor();
  assert.match(await ben.locator(".problem").textContent(),
    /“Unpack” failed\. This app takes [\d.]+ [kM]B .*You may bring apps of 4\.1 kB .*Code PKG-BUDGET-\w{4}/s);
  await fits(ben, "no room for this app");
  await ada.goto(ben.url());
  const hers = await ada.locator(".problem").textContent();
  assert.match(hers, /that you may have/);
  assert.equal(await ada.getByRole("button", { name: "Forget it" }).count(), 0, "it is not hers");

  server.json("limit", "set", "--account", "ben", "installed=1G");
  await ben.getByRole("button", { name: "Try again" }).click();
  await ben.getByRole("button", { name: "Install", exact: true }).click();
  await ben.waitForURL(/\/apps\/\w{52}$/);
  await ben.goto(`${server.origin}/apps`);
  await ben.getByRole("heading", { name: /What you brought/ }).waitFor();
  await fits(ben, "what one brought");
});

test("a grain that ended by an error stands apart from what runs, with its reason", async () => {
  const { appId } = server.install(packageOf(server, "ends", "/bin/sh", "-c", "exit 3"));
  await make(ben, appId);
  await ben.getByRole("heading", { name: "The app stopped" }).waitFor();
  await ben.goto(server.origin);
  await admin.goto(`${server.origin}/admin`);
  const failed = admin.locator("section", { has: admin.getByRole("heading", { name: /Ended by an error/ }) });
  const row = failed.getByRole("row").filter({ hasText: "ends" });
  assert.match(await row.textContent(), /Ben.*3.*G-\w+-\w{4}/s);
  assert.equal(await row.getByRole("button").count(), 0, "there is nothing to stop");
  assert.ok(!(await admin.content()).includes("Untitled ends"), "titles are their owners'");
  await fits(admin, "the overview");
});

test("limits of an app that was deleted can be taken back", async () => {
  const { appId, packageId } = server.install(packageOf(server, "limited", "/bin/sh"));
  server.json("limit", "set", "--app", appId, "memory=512M");
  server.json("app", "delete", packageId);
  await admin.goto(`${server.origin}/admin/limits`);
  const row = admin.getByRole("row").filter({ hasText: `${appId.slice(0, 4)} ${appId.slice(4, 8)}…` });
  assert.match(await row.textContent(), /\(deleted\)/);
  await fits(admin, "limits");
  await row.getByRole("button", { name: "Remove exception" }).click();
  await admin.getByText("The exception is removed.").first().waitFor();
  assert.equal(await admin.getByRole("row").filter({ hasText: `${appId.slice(0, 4)} ${appId.slice(4, 8)}…` }).count(), 0);
});
