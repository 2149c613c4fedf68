// The pages as people meet them: every page in every width and colour, every state of the grain's
// page, without a script, by keyboard alone, and live in two places at once.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { gunzipSync } from "node:zlib";
import { request } from "node:http";
import { DatabaseSync } from "node:sqlite";
import { Server, administrator, appPackage, assertAccessible, cleanUp, eventually, grainFrame, launch, openMenu, packageOf }
  from "./harness.mjs";

let server, browser, context, page, probe;

before(async () => {
  server = await Server.start({ ALLOW_DEV_ACCOUNTS: "true", GRAIN_IDLE_SECONDS: "60" });
  probe = server.install(appPackage("probe"));
  browser = await launch();
  ({ context, page } = await administrator(browser, server));
});
after(cleanUp);

const idOf = (page) => new URL(page.url()).pathname.split("/")[2];

async function makeProbe(on = page) {
  await on.goto(`${server.origin}/apps/${probe.appId}`);
  await on.getByRole("button", { name: "New probe" }).click();
  await on.waitForURL(/\/grain\//);
  await grainFrame(on);
  return idOf(on);
}

const packageThatRuns = (name, ...command) => packageOf(server, name, ...command);

// ---- Every page, in every width and colour ----

const people = { member: "Mem", visitor: "Vic" };
async function signIn(name, role, options = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  await page.goto(`${server.origin}/sign-in`);
  await page.getByLabel("Name").fill(name);
  await page.getByLabel("Role of a new account").selectOption(role);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(`${server.origin}/`);
  return { context, page };
}

async function sweep(cookies, paths) {
  for (const width of [1280, 390, 320]) {
    for (const colorScheme of width === 320 ? ["light"] : ["light", "dark"]) {
      const context = await browser.newContext({ viewport: { width, height: 800 }, colorScheme,
        reducedMotion: "reduce" });
      await context.addCookies(cookies);
      const page = await context.newPage();
      const broken = [];
      page.on("console", (message) => {
        if (/Content Security Policy|Refused/.test(message.text())) broken.push(message.text());
      });
      page.on("pageerror", (error) => broken.push(String(error)));
      for (const path of paths) {
        await page.goto(server.origin + path);
        const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(over <= 0, `${path} scrolls sideways by ${over} at ${width}`);
        await assertAccessible(page, `${path} at ${width}, ${colorScheme}`);
      }
      assert.deepEqual(broken, [], `at ${width}, ${colorScheme}`);
      await context.close();
    }
  }
}

test("every page fits, is accessible, and breaks no rule of its own", async () => {
  const grain = server.create(probe.appId, "--title", "Ein Schulelternbeiratssitzungsprotokoll "
    + "mit_einem_Wort_das_nirgends_umbrochen_werden_kann_und_nicht_endet <b>&amp;\u202e");
  await sweep(await context.cookies(), ["/", "/?show=trash", "/?show=shared", "/?q=nothing+has+this", "/new",
    "/apps", `/apps/${probe.appId}`, "/install", `/install/${"a".repeat(32)}?url=https://example.org/a.spk`,
    `/install/${"b".repeat(32)}`, `/install/${probe.packageId}`, "/notices", "/you", "/about", "/admin",
    "/admin/people", "/admin/packages", "/admin/log", "/gallery", `/grains/${grain}/details`,
    `/grains/${grain}/log`, "/no-such-page", "/link/used"]);
});

test("forced colours, 200 % zoom and reduced motion", async () => {
  const wide = await browser.newContext({ viewport: { width: 640, height: 400 }, deviceScaleFactor: 2,
    forcedColors: "active", reducedMotion: "reduce" });
  await wide.addCookies(await context.cookies());
  const page = await wide.newPage();
  for (const path of ["/", "/new", "/apps", `/apps/${probe.appId}`, "/install", "/admin", "/you"]) {
    await page.goto(server.origin + path);
    const seen = await page.evaluate(() => ({
      over: document.documentElement.scrollWidth - innerWidth,
      sticky: [...document.querySelectorAll("*")].filter((el) =>
        ["fixed", "sticky"].includes(getComputedStyle(el).position) && el.getClientRects().length)
        .map((el) => el.className),
      bare: [...document.querySelectorAll("button, .button, input:not([type=hidden])")].filter((el) => {
        const style = getComputedStyle(el);
        return el.getClientRects().length && style.borderTopWidth === "0px" && el.type !== "checkbox";
      }).map((el) => el.outerHTML),
      moves: getComputedStyle(document.documentElement).getPropertyValue("--fast").trim(),
    }));
    assert.ok(seen.over <= 0, `${path} scrolls sideways by ${seen.over}`);
    assert.deepEqual(seen.sticky, [], `${path}: nothing sticks where the screen is low`);
    assert.deepEqual(seen.bare, [], `${path}: every control has a border`);
    assert.match(seen.moves, /^0m?s$/);
  }
  await wide.close();
});

test("people with nothing see what to do", async () => {
  const member = await signIn(people.member, "member");
  await sweep(await member.context.cookies(), ["/", "/new", "/apps", "/you"]);
  const visitor = await signIn(people.visitor, "visitor");
  await sweep(await visitor.context.cookies(), ["/", "/new", "/apps", "/install"]);
});

/** Bytes of an answer as they travel. */
function travel(path, cookie) {
  return new Promise((resolve, reject) => request({ host: "127.0.0.1", port: server.port, path,
    headers: { Host: new URL(server.origin).host, Cookie: cookie, "Accept-Encoding": "gzip" } }, (answer) => {
    const pieces = [];
    answer.on("data", (piece) => pieces.push(piece));
    answer.on("end", () => resolve({ answer, body: Buffer.concat(pieces) }));
  }).on("error", reject).end());
}

test("a full home page stays within its weight", async () => {
  for (let n = 0; n < 101; n++) server.create(probe.appId, "--title", `Grain number ${n} of a long list`);
  const cookie = (await context.cookies()).map((c) => `${c.name}=${c.value}`).join("; ");
  const { answer, body } = await travel("/", cookie);
  assert.equal(answer.headers["content-encoding"], "gzip");
  const html = gunzipSync(body).toString();
  assert.equal(html.match(/<li class="a\d+">/g).length, 100);
  assert.ok(body.length <= 14_000, `${body.length} bytes of HTML`);
  let all = body.length, parts = "";
  for (const path of new Set(html.match(/\/assets\/[\w.-]+/g))) {
    const asset = await travel(path, "");
    assert.match(asset.answer.headers["cache-control"], /immutable/);
    all += asset.body.length;
    parts += `, ${path.split(".").pop()} ${asset.body.length}`;
  }
  console.log(`# bytes as they travel: html ${body.length}${parts}, all ${all}`);
  assert.ok(all <= 60_000, `${all} bytes in all`);
});

// ---- The grain's page ----

test("the frame has exactly its rights", async () => {
  const [answer] = await Promise.all([
    page.waitForResponse((r) => /\/grain\/\w+$/.test(r.url()) && r.status() === 200),
    makeProbe(),
  ]);
  const frame = page.locator("#frame");
  assert.equal(await frame.getAttribute("sandbox"), "allow-scripts allow-same-origin allow-forms "
    + "allow-modals allow-downloads allow-popups allow-popups-to-escape-sandbox allow-pointer-lock");
  assert.equal(await frame.getAttribute("allow"), "fullscreen; clipboard-write");
  const origin = new URL(await frame.getAttribute("src")).origin;
  const policy = (await answer.allHeaders())["content-security-policy"];
  assert.ok(policy.endsWith(`frame-src ${origin}`), policy);
  assert.notEqual(origin, server.origin);
});

test("a crash under an open page is a strip, with reason, code and way out", async () => {
  const grain = await makeProbe();
  await page.locator("body.shown").waitFor();
  await server.inGrain(grain, "/exit?code=3").catch(() => null);
  const strip = page.locator("#state .strip");
  await strip.waitFor({ timeout: 10_000 });
  assert.match(await strip.textContent(), /The app stopped\..*3.*Your probe is as it was last saved\. Code G-\w+-\w{4}/s);
  assert.ok(await page.locator("#frame").isVisible(), "what was shown can still be copied");
  assert.ok(!(await page.locator("#state .panel").isVisible()));
  await assertAccessible(page, "crash strip");
  await strip.getByRole("button", { name: "Start again" }).click();
  await grainFrame(page);
  await page.locator("body.shown").waitFor();
});

for (const [name, command, reason] of [
  ["missing", ["/bin/nothing-here"], /nothing-here|not (be )?found|No such file|missing/i],
  ["exits", ["/bin/sh", "-c", "echo last words; exit 3"], /3/],
]) {
  test(`a start that fails (${name}) is a page within 5 s: what ended, last lines, a button`, async () => {
    const { appId } = server.install(packageThatRuns(name, ...command));
    await page.goto(`${server.origin}/apps/${appId}`);
    await page.getByRole("button", { name: `New ${name}` }).click();
    const panel = page.locator("#state .panel .problem, #main > .problem").first();
    await panel.waitFor({ timeout: 5000 });
    const text = await panel.textContent();
    assert.match(text, reason);
    assert.match(text, /Code \S+-\w{4}/);
    if (name === "exits") assert.match(text, /last words/);
    await panel.getByRole("button", { name: "Start again" }).waitFor();
    await assertAccessible(page, `failed start: ${name}`);
  });
}

test("the title changes in place, and the frame is not loaded again", async () => {
  await makeProbe();
  const frame = await grainFrame(page);
  await frame.evaluate(() => { globalThis.unsaved = "text"; });
  await page.locator("header.bar a").first().focus();
  await page.keyboard.press("F2");
  await page.locator("#new-title").fill("Q3 <plan>");
  await page.keyboard.press("Enter");
  await eventually("the new title stands in the tab", async () => (await page.title()).startsWith("Q3 <plan>"));
  await page.getByRole("button", { name: "Star" }).click();
  await page.locator("[data-star][aria-pressed=true]").waitFor();
  assert.equal(await frame.evaluate(() => globalThis.unsaved), "text");
  await page.reload();
  assert.match(await page.title(), /^Q3 <plan> - /);
  assert.equal(await page.locator("[data-star]").getAttribute("aria-pressed"), "true");
});

test("a new grain's title can be typed while its app pulls the focus into the frame", async () => {
  await makeProbe();
  const field = page.locator("#new-title");
  await field.waitFor();
  const frame = await grainFrame(page);
  await page.locator("body.shown").waitFor();
  await page.keyboard.type("Sum");
  await frame.evaluate(() => {
    const input = document.body.appendChild(document.createElement("input"));
    input.id = "greedy";
    input.focus();
  });
  await page.waitForTimeout(300);
  assert.ok(await page.evaluate(() => document.activeElement.id === "new-title"), "the field has the focus again");
  await page.keyboard.press("End");
  await page.keyboard.type("mer");
  await page.keyboard.press("Enter");
  await eventually("the title stands in the tab", async () => (await page.title()).startsWith("Summer - "));
  // A press in the frame is the person's wish: it ends the renaming, and the keys are the app's.
  await page.locator("header.bar a").first().focus();
  await page.keyboard.press("F2");
  await field.waitFor();
  await page.waitForTimeout(1100);
  await frame.locator("#greedy").click();
  await field.waitFor({ state: "hidden" });
  await page.keyboard.type("to the app");
  assert.equal(await frame.locator("#greedy").inputValue(), "to the app");
});

test("an app that never answers: wait, start again, log, and after a minute an error", async () => {
  const grain = await makeProbe();
  await page.clock.install();
  await page.goto(`${server.origin}/grain/${grain}/never`, { waitUntil: "commit" });
  const late = page.locator("#state .late");
  await late.getByRole("button", { name: "Wait" }).waitFor({ timeout: 15_000 });
  await late.getByRole("button", { name: "Start again" }).waitFor();
  await late.getByRole("link", { name: "Log" }).waitFor();
  await assertAccessible(page, "late");
  await page.clock.fastForward(61_000);
  const slow = page.locator("#state .slow");
  await slow.getByRole("heading", { name: "The app does not answer" }).waitFor();
  assert.match(await slow.textContent(), /60 seconds.*Code G-SLOW-\w{4}/s);
  assert.match(server.log(), new RegExp(await slow.locator("code").textContent()), "its code is in the log");
  await assertAccessible(page, "an app that does not answer");
  // All of it is freed by leaving.
  await page.clock.resume();
  await page.goto(server.origin);
});

// ---- Errors on a grain's own host ----

test("errors on a grain's host have the pages' look, their words, and the grain's policy", async () => {
  const grain = await makeProbe();
  const origin = new URL(await page.locator("#frame").getAttribute("src")).origin;
  const bare = await browser.newContext();
  const stranger = await bare.newPage();
  for (const [path, status, title, code] of [
    ["/", 403, "This grain is not open here", "S-SESSION"],
    ["/_sandstorm-init?ticket=used", 403, "This way in was used already", "S-TICKET"],
  ]) {
    const answer = await stranger.goto(origin + path);
    assert.equal(answer.status(), status);
    const policy = (await answer.allHeaders())["content-security-policy"];
    assert.match(policy, /default-src 'none';.*frame-ancestors 'self'/);
    assert.equal(await stranger.title(), `Error: ${title}`);
    assert.equal(await stranger.locator("h1").textContent(), title);
    assert.match(await stranger.locator("main").textContent(), new RegExp(`Code ${code}`));
    await stranger.getByRole("link", { name: "My grains" }).waitFor();
    assert.ok(await stranger.evaluate(() => getComputedStyle(document.querySelector("main")).display) === "grid");
    await assertAccessible(stranger, `${code} on a grain's host`);
  }
  // In the frame the bar around leads home; a cookie that does not come back is told as such.
  await stranger.goto(server.adminLink());
  // As where a browser throws the cookie away.
  await bare.route(/\/_sandstorm-init\?/, (route) =>
    route.fulfill({ status: 303, headers: { location: "/" } }));
  await stranger.goto(`${server.origin}/grain/${grain}`);
  const frame = await eventually("the frame tells", () =>
    stranger.frames().find((f) => f !== stranger.mainFrame() && f.url().startsWith("http")));
  await frame.getByRole("heading", { name: "Your browser did not send the grain's cookie back" }).waitFor();
  const text = await frame.locator("main").textContent();
  assert.match(text, /Allow cookies for .*GRAIN_MODE=port or use https.*Code S-COOKIE/s);
  assert.equal(await frame.getByRole("link", { name: "My grains" }).count(), 0);
  await bare.close();
});

test("names and heads that the server does not take are pages too", async () => {
  const { port } = server;
  const ask = (headers) => new Promise((resolve, reject) => request({ host: "127.0.0.1", port,
    headers: { Accept: "text/html", ...headers } }, (answer) => {
    let text = "";
    answer.on("data", (piece) => { text += piece; });
    answer.on("end", () => resolve({ status: answer.statusCode, headers: answer.headers, text }));
  }).on("error", reject).end());
  const host = new URL(server.origin).host;
  for (const [headers, status, words] of [
    [{ Host: "elsewhere.example" }, 421, /Nothing is served under this name.*elsewhere\.example.*S-HOST/s],
    [{ Host: host, "X-Long": "x".repeat(70_000) }, 431, /head is too large.*65536.*S-HEAD/s],
  ]) {
    const answer = await ask(headers);
    assert.equal(answer.status, status);
    assert.match(answer.text, words);
    assert.match(answer.text, /<title>Error: /);
    assert.match(answer.headers["content-security-policy"], /style-src 'sha256-/);
    const plain = await ask({ ...headers, Accept: "*/*" });
    assert.match(plain.headers["content-type"], /^text\/plain/);
  }
});

test("sign out in one tab: the other is emptied within 2 s and says so", async () => {
  const mine = await signIn("Sid", "member");
  await mine.page.goto(`${server.origin}/install/${probe.packageId}`);
  const button = mine.page.getByRole("button", { name: "Install" });
  if (await button.isVisible()) await button.click();
  await makeProbe(mine.page);
  const other = await mine.context.newPage();
  await other.goto(`${server.origin}/you`);
  await other.getByRole("button", { name: "Sign out here" }).click();
  await mine.page.getByRole("heading", { name: "You are signed out" }).waitFor({ timeout: 2000 });
  assert.equal(await mine.page.locator("iframe").count(), 0);
  await assertAccessible(mine.page, "signed out");
  await mine.context.close();
});

test("the connection is lost and comes back: told, and nothing is loaded again", async () => {
  await makeProbe();
  const frame = await grainFrame(page);
  await frame.evaluate(() => { globalThis.unsaved = "text"; });
  await page.locator("body.shown").waitFor();
  await server.kill();
  await page.locator("#lost-strip").waitFor({ timeout: 15_000 });
  assert.match(await page.locator("#lost-strip").textContent(), /may not be saved\. Trying in \d+ s/);
  await assertAccessible(page, "connection lost");
  await server.run();
  await eventually("the strip is gone", async () => await page.locator("#lost-strip").count() === 0, 40);
  assert.equal(await frame.evaluate(() => globalThis.unsaved), "text");
});

test("trash and undo, on the grain's page and on home", async () => {
  const grain = await makeProbe();
  await openMenu(page);
  await page.getByRole("button", { name: "Move to trash" }).click();
  await page.waitForURL(`${server.origin}/`);
  assert.equal(await page.locator(`.grains a[href="/grain/${grain}"]`).count(), 0);
  const refused = await page.goto(`${server.origin}/grain/${grain}`);
  assert.equal(refused.status(), 200);
  assert.equal(await page.locator("iframe").count(), 0, "what is in the trash does not open");
  await page.getByRole("button", { name: "Restore and open" }).click();
  await grainFrame(page);
});

// ---- Live ----

test("an installation shows the same steps in two places", async () => {
  const other = await context.newPage();
  const spk = packageThatRuns("seen", "/bin/sh");
  await page.goto(`${server.origin}/install`);
  await page.locator("input[type=file]").setInputFiles(spk);
  await page.getByRole("button", { name: "Upload" }).click();
  await page.waitForURL(/\/install\/[0-9a-f]{32}$/);
  await other.goto(page.url());
  await page.getByRole("button", { name: "Install" }).waitFor();
  await other.getByRole("button", { name: "Install" }).waitFor();
  await other.close();
});

test("a file that is no package fails at its step, with a reason and a code, and stays failed", async () => {
  const bad = join(server.dir, "bad.spk");
  writeFileSync(bad, "this is no package");
  await page.goto(`${server.origin}/install`);
  await page.locator("input[type=file]").setInputFiles(bad);
  await page.getByRole("button", { name: "Upload" }).click();
  await page.getByRole("heading", { name: "Not installed" }).waitFor();
  await page.reload();
  await page.getByRole("heading", { name: "Not installed" }).waitFor();
  assert.match(await page.locator(".problem").textContent(), /“Unpack” failed\..*Code PKG-\w+-\w{4}/s);
  await assertAccessible(page, "failed installation");
  await page.getByRole("button", { name: "Forget it" }).click();
  await page.waitForURL(/\/apps$/);
});

test("home changes by itself when something is made elsewhere, and the search narrows as typed", async () => {
  await page.goto(server.origin);
  await page.waitForTimeout(300);
  const grain = server.create(probe.appId, "--title", "Zephyr");
  await page.locator(`a[href="/grain/${grain}"]`).waitFor({ timeout: 5000 });
  await page.locator("#q").fill("zephyr");
  await eventually("one row is left", async () => await page.locator(".grains li").count() === 1);
  assert.match(page.url(), /q=zephyr/);
  await eventually("the number is announced", async () => await page.locator("#said").textContent() === "1 found");
});

test("what just happened stays to be read and undone while the list changes, here and in other tabs", async () => {
  const other = await context.newPage();
  await other.goto(server.origin);
  const grain = server.create(probe.appId, "--title", "Mistral");
  await page.goto(`${server.origin}/?q=mistral`);
  await page.locator(`input[value="${grain}"]`).check();
  await page.getByText("1 chosen").waitFor();
  await page.getByRole("button", { name: "Trash" }).click();
  const told = page.locator("#notices .notice").filter({ hasText: "Moved Mistral to the trash." });
  await told.waitFor();
  const more = server.create(probe.appId, "--title", "Mistral again");
  await page.locator(`a[href="/grain/${more}"]`).waitFor({ timeout: 5000 });
  await told.getByRole("button", { name: "Undo" }).click();
  await page.getByText("Restored Mistral.").first().waitFor();
  await other.close();
});

/** The titles of the rows that are seen, and of those that are chosen. */
const rowsOf = (page) => page.locator(".grains li .title").allTextContents();
const chosenOf = (page) => page.locator(".grains li:has(:checked) .title").allTextContents();
const focusOf = (page) => page.evaluate(() => document.activeElement.textContent.trim());

test("Delete trashes its own row, whatever is chosen; the focus stays in the list, the ticks on theirs", async () => {
  for (const letter of "abcd") server.create(probe.appId, "--title", `Monsoon ${letter}`);
  await page.goto(`${server.origin}/?q=monsoon&sort=name`);
  for (const letter of "ad") await page.getByLabel(`Choose Monsoon ${letter}`).check();
  await page.getByRole("link", { name: "Monsoon b", exact: true }).focus();
  await page.keyboard.press("Delete");
  const notice = (text) => page.locator("#notices .notice").filter({ hasText: text });
  await notice("Moved Monsoon b to the trash.").waitFor();
  assert.deepEqual(await rowsOf(page), ["Monsoon a", "Monsoon c", "Monsoon d"]);
  assert.deepEqual(await chosenOf(page), ["Monsoon a", "Monsoon d"]);
  assert.equal(await page.locator("#chosen").textContent(), "2 chosen");
  assert.equal(await focusOf(page), "Monsoon c", "what stands in its place");
  // Where the focus was put by the page, news still come in.
  const more = server.create(probe.appId, "--title", "Monsoon e");
  await page.locator(`a[href="/grain/${more}"]`).waitFor({ timeout: 5000 });
  assert.equal(await focusOf(page), "Monsoon c");
  await notice("Moved Monsoon b").getByRole("button", { name: "Undo" }).focus();
  await page.keyboard.press("Enter");
  await notice("Restored Monsoon b.").waitFor();
  assert.equal(await focusOf(page), "Monsoon b", "what came back");
  assert.equal(await notice("Moved Monsoon b").count(), 0, "what was undone is not offered again");
  assert.deepEqual(await chosenOf(page), ["Monsoon a", "Monsoon d"]);
  assert.match(page.url(), /q=monsoon/, "the list is the one that it was");
  // The last row: the one before it.
  await page.getByRole("link", { name: "Monsoon e", exact: true }).focus();
  await page.keyboard.press("Delete");
  await notice("Moved Monsoon e to the trash.").waitFor();
  assert.equal(await focusOf(page), "Monsoon d");
  // The button: what is chosen, and only that.
  await page.getByRole("button", { name: "Move to trash" }).focus();
  await page.keyboard.press("Enter");
  await notice("Moved 2 grains to the trash.").waitFor();
  assert.deepEqual(await rowsOf(page), ["Monsoon b", "Monsoon c"]);
  assert.equal(await focusOf(page), "Monsoon b");
  assert.ok(!(await page.locator(".chosen").isVisible()), "nothing is chosen any more");
  // No row is left: the heading, and the notice is still there to undo it.
  for (const letter of "bc") await page.getByLabel(`Choose Monsoon ${letter}`).check();
  await page.getByRole("button", { name: "Move to trash" }).focus();
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Nothing has these words" }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "H1");
  await notice("Moved 2 grains to the trash.").last().getByRole("button", { name: "Undo" }).click();
  await notice("Restored 2 grains.").waitFor();
  assert.deepEqual(await rowsOf(page), ["Monsoon b", "Monsoon c"]);
  assert.equal(await focusOf(page), "Monsoon b");
  // In the trash nothing opens: there the arrows lead from box to box.
  await page.goto(`${server.origin}/?show=trash&q=monsoon&sort=name`);
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("x");
  assert.deepEqual(await chosenOf(page), ["Monsoon d"]);
  await page.getByRole("button", { name: "Restore" }).click();
  await notice("Restored Monsoon d.").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.labels[0].textContent), "Choose Monsoon e");
});

test("an act on the list that the server refuses is told, and leaves all as it is", async () => {
  server.create(probe.appId, "--title", "Bora");
  await page.goto(`${server.origin}/?q=bora`);
  await page.getByLabel("Choose Bora").check();
  await page.evaluate(() => { document.querySelector("#list [name=act][value=star]").value = "nonsense"; });
  await page.getByRole("button", { name: "Star" }).click();
  await page.locator("#notices .bad").filter({ hasText: "this button is not known here" }).waitFor();
  assert.deepEqual(await chosenOf(page), ["Bora"]);
});

test("an act that takes long takes away neither the focus nor the next act", async () => {
  for (const n of [1, 2, 3, 4]) server.create(probe.appId, "--title", `Levanter ${n}`);
  await page.goto(`${server.origin}/?q=levanter`);
  const rows = await rowsOf(page);
  assert.equal(rows.length, 4);
  await page.route("**/grains/act", async (route) => { await page.waitForTimeout(700); await route.continue(); });
  await page.locator(".grains .open").first().focus();
  for (const key of ["Delete", "ArrowDown", "ArrowDown", "Delete", "/"]) await page.keyboard.press(key);
  await eventually("both are done", async () => (await rowsOf(page)).length === 2);
  assert.deepEqual(await rowsOf(page), [rows[1], rows[3]]);
  assert.equal(await page.evaluate(() => document.activeElement.id), "q");
  // An answer for the list as it was does not take the place of a newer search.
  await page.locator(".grains .open").first().focus();
  await page.keyboard.press("Delete");
  await page.locator("#q").fill(rows[3].toLowerCase());
  await page.getByText(`Moved ${rows[1]} to the trash.`).first().waitFor();
  await page.waitForTimeout(700);
  assert.deepEqual(await rowsOf(page), [rows[3]]);
  assert.equal(new URL(page.url()).searchParams.get("q"), rows[3].toLowerCase());
  await page.unroute("**/grains/act");
});

test("what is chosen stays chosen while a search narrows the list, and is counted", async () => {
  for (const n of [1, 2, 3]) server.create(probe.appId, "--title", `Passat ${n}`);
  await page.goto(`${server.origin}/?q=passat`);
  for (const n of [1, 2]) await page.getByLabel(`Choose Passat ${n}`).check();
  const search = async (words, rows) => {
    await page.locator("#q").fill(words);
    await eventually(`${rows} rows for ${words}`, async () =>
      new URL(page.url()).searchParams.get("q") === words && await page.locator(".grains li").count() === rows);
  };
  const told = () => page.locator("#chosen").textContent();
  await search("passat 2", 1);
  assert.equal(await told(), "2 chosen, 1 of them not shown");
  await search("passat 99", 0);
  await search("passat 3", 1);
  assert.equal(await told(), "2 chosen, 2 of them not shown");
  assert.ok(await page.getByRole("button", { name: "Move to trash" }).isVisible());
  await eventually("it is announced", async () =>
    await page.locator("#said").textContent() === "1 found. 2 chosen, 2 of them not shown");
  await search("passat", 3);
  assert.equal(await told(), "2 chosen");
  assert.deepEqual((await chosenOf(page)).sort(), ["Passat 1", "Passat 2"]);
  // None is none, seen or not.
  await search("passat 3", 1);
  await page.getByRole("button", { name: "Choose none" }).click();
  await page.locator(".chosen").waitFor({ state: "hidden", timeout: 5000 });
  await search("passat", 3);
  assert.deepEqual(await chosenOf(page), []);
  // Enter in the box is a search, not another page; the act is done to all that are counted.
  for (const n of [1, 2]) await page.getByLabel(`Choose Passat ${n}`).check();
  await search("passat 2", 1);
  await page.locator("#q").press("Enter");
  await page.waitForTimeout(500);
  assert.equal(await told(), "2 chosen, 1 of them not shown");
  await page.getByRole("button", { name: "Move to trash" }).click();
  await page.getByText("Moved 2 grains to the trash.").first().waitFor();
  await search("passat", 1);
  assert.deepEqual(await rowsOf(page), ["Passat 3"]);
  // What is done is not chosen any more.
  await page.locator(".chosen").waitFor({ state: "hidden", timeout: 5000 });
});

test("on a phone the list's order is seen and can be changed, without a script too", async () => {
  for (const name of ["Foehn b", "Foehn a"]) server.create(probe.appId, "--title", name);
  const phone = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };
  const plain = await browser.newContext({ ...phone, javaScriptEnabled: false });
  await plain.addCookies(await context.cookies());
  const hand = await plain.newPage();
  await hand.goto(`${server.origin}/?q=foehn`);
  const order = hand.getByRole("group", { name: "Order" });
  const lit = () => order.locator("[aria-current]").textContent();
  assert.equal(await lit(), "Sort by Opened↓");
  for (const link of await order.getByRole("link").all()) {
    const { width, height } = await link.boundingBox();
    assert.ok(width >= 44 && height >= 44, `${await link.textContent()} is ${width} by ${height}`);
  }
  await order.getByRole("link", { name: "Sort by Name" }).tap();
  await hand.waitForURL(/sort=name/);
  assert.equal(await lit(), "Sort by Name↓");
  assert.deepEqual(await rowsOf(hand), ["Foehn a", "Foehn b"]);
  await order.getByRole("link", { name: "Sort by Name" }).tap();
  await hand.waitForURL(/sort=-name/);
  assert.deepEqual(await rowsOf(hand), ["Foehn b", "Foehn a"]);
  // What it is ordered by is seen in the rows.
  await order.getByRole("link", { name: "Sort by Size" }).tap();
  await hand.waitForURL(/sort=size/);
  assert.ok(await hand.locator(".grains .size").first().isVisible());
  await plain.close();
  const quick = await browser.newContext(phone);
  await quick.addCookies(await context.cookies());
  const seen = await quick.newPage();
  for (const path of ["/?q=foehn", "/?q=foehn&sort=size", "/?show=trash"]) {
    await seen.goto(server.origin + path);
    await assertAccessible(seen, `${path} on a phone`);
  }
  // A finger's targets: the box of a row, and the small question mark with the room around it.
  await seen.goto(`${server.origin}/?q=foehn`);
  assert.ok((await seen.locator(".tick").first().boundingBox()).width >= 44);
  assert.ok(await seen.evaluate(() => {
    const mark = document.querySelector(".help summary"), at = mark.getBoundingClientRect();
    return document.elementFromPoint(at.left - 8, at.top + 12) === mark;
  }));
  await makeProbe(seen);
  const { width, height } = await seen.locator("#new-title").boundingBox();
  assert.ok(width >= 170 && height >= 44, `the title is written in ${width} by ${height}`);
  await quick.close();
});

test("details and log say of which grain, in the tab and on the page, and what it is in the trash", async () => {
  const grain = server.create(probe.appId, "--title", "Khamsin");
  await page.goto(`${server.origin}/grains/${grain}/details`);
  assert.match(await page.title(), /^Khamsin: details - /);
  assert.equal(await page.locator("h1").textContent(), "Details of Khamsin");
  assert.equal((await page.locator(".places [aria-current]").textContent()), "Grains");
  await page.goto(`${server.origin}/grains/${grain}/log`);
  assert.match(await page.title(), /^Khamsin: log - /);
  await page.goto(`${server.origin}/grains/${grain}/details`);
  await page.getByRole("button", { name: "Move to trash" }).click();
  await page.waitForURL(`${server.origin}/`);
  await page.goto(`${server.origin}/grains/${grain}/details`);
  assert.match(await page.locator(".facts").textContent(), /State\s*In the trash/);
});

test("the overview says what was checked, and what was not", async () => {
  await page.goto(`${server.origin}/admin`);
  assert.equal(await page.locator("h1").textContent(), "Nothing needs you");
  assert.match(await page.locator(".strip.good").textContent(), /Checked just now.*database.*Not checked: your backups/s);
});

test("a file dropped on any page is uploaded and leads to its steps", async () => {
  const spk = readFileSync(packageThatRuns("dropped", "/bin/sh"));
  await page.goto(`${server.origin}/you`);
  const drop = (type) => page.evaluate(([type, base64]) => {
    const data = new DataTransfer();
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    data.items.add(new File([bytes], "dropped.spk"));
    document.body.dispatchEvent(new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer: data }));
  }, [type, spk.toString("base64")]);
  await drop("dragenter");
  assert.ok(await page.evaluate(() => document.body.classList.contains("dragging")), "the page says what to do");
  await drop("drop");
  await page.waitForURL(/\/install\/[0-9a-f]{32}$/);
  await page.getByRole("button", { name: "Install", exact: true }).waitFor();
});

test("a list of 2,014: its figures", async () => {
  const db = new DatabaseSync(join(server.home, "sandstorm.sqlite"));
  db.exec("PRAGMA busy_timeout = 10000; BEGIN");
  const row = db.prepare("SELECT * FROM grains WHERE trashed_at IS NULL ORDER BY created DESC LIMIT 1").get();
  const have = db.prepare("SELECT COUNT(*) AS n FROM grains WHERE owner = ? AND trashed_at IS NULL").get(row.owner).n;
  const names = Object.keys(row);
  const add = db.prepare(`INSERT INTO grains (${names}) VALUES (${names.map(() => "?")})`);
  for (let n = have; n < 2014; n++) {
    const title = `Row ${n} of a very long list`;
    Object.assign(row, { id: `Row${n}`.padEnd(22, "x"), title, search: title.toLowerCase(), last_used: row.last_used - 1000 });
    add.run(...names.map((name) => row[name]));
  }
  db.exec("COMMIT");
  db.close();
  const cookie = (await context.cookies()).map((c) => `${c.name}=${c.value}`).join("; ");
  const timed = async (path) => {
    const times = [];
    let bytes = 0;
    for (let n = 0; n < 5; n++) {
      const begin = performance.now();
      bytes = (await travel(path, cookie)).body.length;
      times.push(performance.now() - begin);
    }
    return { ms: times.sort((a, b) => a - b)[2], bytes };
  };
  const home = await timed("/"), search = await timed("/?q=1234"), all = await timed("/?all=1");
  await page.goto(server.origin);
  await eventually("all are counted", async () => await page.locator("#count").textContent() === "2,014");
  const seen = await page.evaluate(() => new Promise((resolve) => {
    const field = document.querySelector("#q");
    const begin = performance.now();
    new MutationObserver((_, observer) => {
      if (document.querySelectorAll(".grains li").length !== 1) return;
      observer.disconnect();
      requestAnimationFrame(() => resolve(performance.now() - begin));
    }).observe(document.querySelector("main"), { childList: true, subtree: true });
    field.value = "1234";
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }));
  console.log(`# 2,014 grains: home ${home.ms.toFixed(0)} ms, ${home.bytes} bytes; a search ${search.ms.toFixed(0)} ms; `
    + `all rows ${all.ms.toFixed(0)} ms, ${all.bytes} bytes; filter seen ${seen.toFixed(0)} ms after the last key (150 of them it waits)`);
  assert.ok(home.bytes <= 14_000, `${home.bytes} bytes of HTML`);
  await assertAccessible(page, "a list of 2,014");
});

// ---- By keyboard ----

test("by keyboard alone: find, open, choose, trash, undo", async () => {
  server.create(probe.appId, "--title", "Sirocco");
  await page.goto(server.origin);
  await page.keyboard.press("Control+k");
  await eventually("the palette's field has the focus", () => page.evaluate(() =>
    document.activeElement.getAttribute("role") === "combobox"), 5);
  await page.keyboard.type("Sirocco");
  await eventually("Sirocco is all that is found", async () =>
    await page.locator("#found li").count() === 1
      && (await page.locator("#found li").textContent()).includes("Sirocco"), 5);
  await assertAccessible(page, "palette");
  // The audit may have moved the focus: it goes back to the field, as a press of a key would.
  await page.locator("dialog[open] input").first().focus();
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/grain\//, { waitUntil: "commit" });
  const grain = idOf(page);
  await page.goto(server.origin);
  await page.keyboard.press("/");
  assert.equal(await page.evaluate(() => document.activeElement.id), "q");
  await page.keyboard.type("sirocco");
  await eventually("one row is left", async () => await page.locator(".grains li").count() === 1);
  await page.locator(".grains .open").focus();
  await page.keyboard.press("x");
  await page.getByText("1 chosen").waitFor();
  await page.keyboard.press("Delete");
  await page.getByText("Moved Sirocco to the trash.").first().waitFor();
  await page.getByRole("button", { name: "Undo" }).focus();
  await page.keyboard.press("Enter");
  await page.getByText("Restored Sirocco.").first().waitFor();
  assert.equal(await page.locator(`a[href="/grain/${grain}"]`).count(), 1);
});

test("by keyboard alone, from the sign-in page: make, name, open, rename, trash, undo", async () => {
  const mine = await browser.newContext();
  const page = await mine.newPage();
  const { keyboard } = page;
  const focused = () => page.evaluate(() => {
    const el = document.activeElement;
    return (el.getAttribute("aria-label") || el.labels?.[0]?.textContent || el.textContent || el.tagName)
      .trim().replace(/\s+/g, " ");
  });
  /** Presses Tab until what has this name has the focus, as somebody does who looks or listens. */
  const tabTo = async (name, most = 40) => {
    for (let n = 0; n < most; n++) {
      await keyboard.press("Tab");
      if (name.test(await focused())) return;
    }
    assert.fail(`${most} tabs do not lead to ${name} on ${page.url()}; the last is ${await focused()}`);
  };
  await page.goto(`${server.origin}/sign-in`);
  await tabTo(/^Name$/);
  await keyboard.type("Keya");
  await tabTo(/^Sign in$/);
  await keyboard.press("Enter");
  await page.waitForURL(`${server.origin}/`);
  await page.getByRole("heading", { name: "You have no grains yet" }).waitFor();
  await page.waitForTimeout(200);
  await keyboard.press("n");
  await page.waitForURL(/\/new$/);
  // The skip link is the first stop and leads to the content.
  await keyboard.press("Tab");
  assert.equal(await focused(), "Skip to the content");
  await keyboard.press("Enter");
  await tabTo(/^New probe/, 20);
  await keyboard.press("Enter");
  await page.waitForURL(/\/grain\//);
  await eventually("the title is chosen", () => page.evaluate(() => document.activeElement.id === "new-title"));
  await keyboard.type("By keys");
  await keyboard.press("Enter");
  await eventually("it has its title", async () => (await page.title()).startsWith("By keys - "));
  await page.locator("body.shown").waitFor();
  // Out of the frame, into the bar.
  await page.locator("header.bar a").first().focus();
  await tabTo(/^More$/);
  await keyboard.press("Enter");
  await tabTo(/^Details$/);
  await keyboard.press("Escape");
  assert.equal(await focused(), "More");
  await keyboard.press("F2");
  await keyboard.type("By keys alone");
  await keyboard.press("Enter");
  await eventually("it has its new title", async () => (await page.title()).startsWith("By keys alone - "));
  await page.locator("header.bar a").first().focus();
  await tabTo(/^More$/);
  await keyboard.press("Space");
  await tabTo(/^Move to trash$/);
  await keyboard.press("Enter");
  await page.waitForURL(`${server.origin}/`);
  await page.getByText("Moved By keys alone to the trash.").first().waitFor();
  await tabTo(/^Undo$/);
  await keyboard.press("Enter");
  await page.getByText("Restored By keys alone.").first().waitFor();
  await tabTo(/By keys alone/);
  await mine.close();
});

test("what a screen reader meets: one heading of the first rank, named landmarks, live regions, and an order that makes sense",
  async () => {
    const grain = await makeProbe();
    for (const path of ["/", "/new", "/apps", "/install", "/notices", "/you", "/admin", "/admin/people",
      `/grain/${grain}`, `/grains/${grain}/details`, `/grains/${grain}/log`, "/no-such-page"]) {
      await page.goto(server.origin + path);
      const met = await page.evaluate(() => ({
        title: document.title,
        first: [...document.querySelectorAll("h1")].filter((el) => el.checkVisibility()).length,
        main: document.querySelectorAll("main").length,
        unnamed: [...document.querySelectorAll("nav, [role=region], iframe")]
          .filter((el) => !el.getAttribute("aria-label") && !el.title).map((el) => el.outerHTML.slice(0, 80)),
        live: [document.querySelector("#said")?.getAttribute("role"), document.querySelector("#alarm")?.getAttribute("role")],
        skip: document.querySelector("a")?.getAttribute("href"),
        moved: [...document.querySelectorAll("[tabindex]")].filter((el) => el.tabIndex > 0).length,
        ranks: [...document.querySelectorAll("h1, h2, h3, h4")].filter((el) => el.checkVisibility())
          .map((el) => +el.tagName[1]),
      }));
      assert.match(met.title, path === "/no-such-page" ? /^Error: .+ - / : /^.+ - /, path);
      assert.equal(met.first, 1, `${path} has ${met.first} headings of the first rank`);
      assert.equal(met.main, 1, path);
      assert.deepEqual(met.unnamed, [], path);
      assert.deepEqual(met.live, ["status", "alert"], path);
      assert.equal(met.skip, "#main", path);
      assert.ok(met.ranks.every((rank, n) => rank <= (met.ranks[n - 1] ?? 0) + 1), `${path}: ${met.ranks}`);
      assert.equal(met.moved, 0, `${path}: the order is the document's`);
    }
    // The row's parts, in the order in which they are read.
    await page.goto(server.origin);
    const row = await page.locator(".grains li").first().ariaSnapshot();
    assert.match(row, /checkbox "Choose .*[\s\S]*link ".+"[\s\S]*link "More about .+"/, row);
  });

test("what has the focus shows it", async () => {
  await page.goto(`${server.origin}/you`);
  for (let n = 0; n < 12; n++) {
    await page.keyboard.press("Tab");
    const outline = await page.evaluate(() => {
      const style = getComputedStyle(document.activeElement);
      return `${style.outlineStyle} ${style.outlineWidth}`;
    });
    assert.match(outline, /solid 2px/, `after ${n + 1} tabs`);
  }
});

// ---- Without a script ----

test("everything works without a script", async () => {
  const quiet = await browser.newContext({ javaScriptEnabled: false });
  const page = await quiet.newPage();
  await page.goto(server.adminLink());
  await page.goto(`${server.origin}/install`);
  await page.locator("input[type=file]").setInputFiles(packageThatRuns("plainly", "/bin/sh", "-c", "exit 0"));
  await page.getByRole("button", { name: "Upload" }).click();
  await page.waitForURL(/\/install\/[0-9a-f]{32}$/);
  // The page loads itself again each 2 s.
  await page.getByRole("button", { name: "Install" }).click({ timeout: 20_000 });
  await page.waitForURL(/\/apps\//);
  await page.goto(`${server.origin}/new`);
  await page.getByRole("button", { name: "New probe" }).click();
  await page.waitForURL(/\/grain\//);
  const grain = idOf(page);
  const frame = await grainFrame(page);
  await frame.locator("body").waitFor();
  assert.ok(!(await page.locator(".panel").isVisible()), "nothing covers the frame for good");
  await page.goto(`${server.origin}/grains/${grain}/details`);
  await page.getByLabel("Title").fill("Without script");
  await page.getByRole("button", { name: "Rename" }).click();
  await page.getByText("Renamed to Without script.").waitFor();
  await page.getByRole("button", { name: "Star", exact: true }).click();
  await page.getByRole("button", { name: "Remove the star" }).waitFor();
  await page.goto(`${server.origin}/?q=without`);
  await page.locator(`input[value="${grain}"]`).check();
  await page.getByRole("button", { name: "Trash" }).click();
  await page.getByText("Moved Without script to the trash.").waitFor();
  await page.getByRole("button", { name: "Undo" }).click();
  await page.getByText("Restored Without script.").waitFor();
  await page.goto(`${server.origin}/you`);
  await page.getByRole("button", { name: "Dark" }).click();
  assert.equal(await page.locator("html").getAttribute("data-theme"), "dark");
  await page.getByRole("button", { name: "Sign out here" }).click();
  await page.waitForURL(/\/sign-in/);
  await quiet.close();
});
