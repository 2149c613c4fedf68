// What the end-to-end tests share: a real installation run by an ordinary user, the real shell, a
// real Chromium. Like tests/src (Rust), for what only a browser can show. Everything that was
// started is ended when the test file is done.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { chmodSync, cpSync, createWriteStream, mkdirSync, mkdtempSync, readdirSync,
  readFileSync, readlinkSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer as createHttpServer, request as httpRequest } from "node:http";
import { createServer } from "node:net";
import { afterEach } from "node:test";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

export const top = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const bin = process.env.SANDSTORM_BIN || join(top, "bin");
const root = process.getuid() === 0;

/** Polls until `probe` gives something truthy; after `seconds` the error names `what`. */
export async function eventually(what, probe, seconds = 30) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const value = await probe();
    if (value) return value;
    if (Date.now() > end) throw new Error(`waited ${seconds} s for this, in vain: ${what}`);
    await sleep(50);
  }
}

/** Path of a built package of tests/apps. */
export function appPackage(name) {
  const [program, ...args] = process.env.SANDSTORM_XTASK
    ? [process.env.SANDSTORM_XTASK]
    : ["cargo", "run", "--release", "--quiet", "--package", "xtask", "--"];
  const done = spawnSync(program, [...args, "app", "build", name], { cwd: top, encoding: "utf8" });
  assert.equal(done.status, 0, `the app ${name} could not be built: ${done.stderr}`);
  return done.stdout.trim();
}

/** A small package that starts by running `command`, which need not exist. */
export function packageOf(server, name, ...command) {
  const dir = join(server.dir, `made-${name}`);
  for (const part of ["", "bin", "dev", "tmp", "var"]) mkdirSync(join(dir, part), { recursive: true });
  const argv = command.map((word) => JSON.stringify(word)).join(", ");
  writeFileSync(join(server.dir, `${name}.capnp`), `@0xf1ddb6d3b831f7${String(name.length).padStart(2, "0")};
using Package = import "/sandstorm/package.capnp";
const manifest :Package.Manifest = (
  appTitle = (defaultText = "${name}"), appVersion = 1, appMarketingVersion = (defaultText = "1"),
  actions = [(input = (none = void), nounPhrase = (defaultText = "${name}"), command = (argv = [${argv}]))],
  continueCommand = (argv = [${argv}]));
`);
  const done = spawnSync("/bin/sh", ["-ec", `
    cp /bin/busybox "${dir}/bin/sh"
    capnp eval -I "${join(top, "schema")}" -b ${name}.capnp manifest > "${dir}/sandstorm-manifest"
    "${bin}/spk" keygen ${name}.key && "${bin}/spk" pack "${dir}" ${name}.key ${name}.spk`],
  { cwd: server.dir, encoding: "utf8" });
  assert.equal(done.status, 0, done.stderr);
  return join(server.dir, `${name}.spk`);
}

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** All processes that are not zombies: pid, parent, command, and their pid namespace. */
export function processes() {
  const found = [];
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
      const tail = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      if (tail[0] === "Z" || tail[0] === "X") continue;
      const command = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
      let namespace = "";
      try { namespace = readlinkSync(`/proc/${pid}/ns/pid`); } catch { /* not ours to see */ }
      found.push({ pid: +pid, parent: +tail[1], command, namespace, uid: statSync(`/proc/${pid}`).uid });
    } catch { /* it has ended */ }
  }
  return found;
}

/** What runs for a grain: its supervisor, what that started, and what shares their namespaces. */
export function processesOfGrain(grain) {
  const all = processes();
  const ours = readlinkSync("/proc/self/ns/pid");
  const pids = new Set(all
    .filter((p) => p.command.includes("sandstorm-supervisor") && p.command.includes(grain))
    .map((p) => p.pid));
  for (let before = -1; before !== pids.size;) {
    before = pids.size;
    const spaces = new Set(all.filter((p) => pids.has(p.pid) && p.namespace && p.namespace !== ours)
      .map((p) => p.namespace));
    for (const p of all) if (pids.has(p.parent) || spaces.has(p.namespace)) pids.add(p.pid);
  }
  return all.filter((p) => pids.has(p.pid));
}

/** The real shell, installed in its own directory and run by an ordinary user. */
export class Server {
  /** `env`: settings of the shell, e.g. { GRAIN_IDLE_SECONDS: "2" }. */
  static async start(env = {}) {
    const server = new Server();
    const parent = [tmpdir(), "/var/tmp"].find((dir) =>
      !spawnSync("findmnt", ["-n", "-o", "OPTIONS", "-T", dir], { encoding: "utf8" }).stdout
        .includes("nosuid"));
    server.dir = mkdtempSync(join(parent ?? tmpdir(), "sandstorm-e2e-"));
    chmodSync(server.dir, 0o755);
    server.uid = root ? 65_000 + (process.pid % 500) : process.getuid();
    server.home = join(server.dir, "var/sandstorm");
    if (root) {
      const done = spawnSync(join(top, "deploy/scripts/install.sh"), ["install"], {
        encoding: "utf8",
        env: { ...process.env, PREFIX: "/usr", DESTDIR: server.dir, SANDSTORM_BIN: bin,
          SANDSTORM_USER: `${server.uid}:${server.uid}` },
      });
      assert.equal(done.status, 0, done.stderr);
      server.program = join(server.dir, "usr/bin/sandstorm");
    } else {
      mkdirSync(server.home, { recursive: true });
      server.program = join(bin, "shell");
    }
    server.env = env;
    server.port = await freePort();
    server.origin = env.ROOT_URL || `http://sandstorm.localhost:${server.port}`;
    started.add(server);
    await server.run();
    return server;
  }

  #options() {
    return {
      cwd: this.dir,
      env: { PATH: "/usr/local/bin:/usr/bin:/bin", SANDSTORM_HOME: this.home, PORT: `${this.port}`,
        ...this.env },
      ...(root ? { uid: this.uid, gid: this.uid } : {}),
    };
  }

  /** Starts the shell (again) and waits until it answers. */
  async run() {
    const log = createWriteStream(join(this.dir, "shell.log"), { flags: "a" });
    await new Promise((resolve) => log.on("open", resolve));
    this.child = spawn(this.program, ["serve"], { ...this.#options(), stdio: ["ignore", log, log] });
    this.child.on("exit", () => { this.ended = true; });
    this.ended = false;
    await eventually("the shell answers", () => {
      assert.ok(!this.ended, `the shell ended at once:\n${this.log()}`);
      return this.command(["app", "list"]).status === 0;
    }, 60);
  }

  log() { return readFileSync(join(this.dir, "shell.log"), "utf8"); }

  command(args) {
    return spawnSync(this.program, args, { ...this.#options(), encoding: "utf8" });
  }

  /** `shell ARGS… --json`, parsed. */
  json(...args) {
    const done = this.command([...args, "--json"]);
    assert.equal(done.status, 0, `shell ${args.join(" ")}: ${done.stderr}`);
    return JSON.parse(done.stdout);
  }

  adminLink() { return this.json("admin-link").url; }

  install(path) {
    const copy = join(this.dir, "install.spk");
    cpSync(path, copy);
    chmodSync(copy, 0o644);
    return this.json("app", "install", copy);
  }

  create(appId, ...more) { return this.json("grain", "create", "--app", appId, ...more).grainId; }

  state(grain) {
    return this.json("grain", "list").find((entry) => entry.grainId === grain)?.state;
  }

  /** A request to an open grain, as its owner, without a browser: { status, headers, text }. */
  async inGrain(grain, path, { method = "GET", headers = {}, body = "" } = {}) {
    const { origin, cookie } = this.json("grain", "session", grain);
    const host = new URL(origin).host;
    return new Promise((resolve, reject) => {
      const request = httpRequest({ host: "127.0.0.1", port: this.port, method, path,
        headers: { Host: host, Cookie: cookie, Origin: origin, ...headers } }, (answer) => {
        let text = "";
        answer.setEncoding("utf8");
        answer.on("data", (piece) => { text += piece; });
        answer.on("end", () => resolve({ status: answer.statusCode, headers: answer.headers, text }));
      });
      request.on("error", reject);
      request.end(body);
    });
  }

  /** The directory that is the grain's /var. */
  grainDir(grain) { return join(this.home, "grains", grain, "sandbox"); }

  async terminate() {
    this.child.kill("SIGTERM");
    await eventually("the shell ends after SIGTERM", () => this.ended, 30);
  }

  async kill() {
    this.child.kill("SIGKILL");
    await eventually("the shell is gone", () => this.ended, 10);
  }

  async stop() {
    if (!this.ended) await this.kill();
    await eventually("all processes of the test are gone", () => {
      const left = processes().filter((p) =>
        p.pid !== process.pid && (p.command.includes(this.dir) || (root && p.uid === this.uid)));
      for (const { pid } of left) try { process.kill(pid, "SIGKILL"); } catch { /* gone */ }
      return left.length === 0;
    }, 10);
    rmSync(this.dir, { recursive: true, force: true });
    started.delete(this);
  }
}

const started = new Set();

/** Ends everything that the file started; call it in `after`. */
export async function cleanUp() {
  for (const thing of [...started].reverse()) {
    if (thing instanceof Server) await thing.stop();
    else { await thing.close(); started.delete(thing); }
  }
}

/** A web server of somebody else's, that remembers every request: nothing of a grain may reach it. */
export async function stranger() {
  const seen = [];
  const server = createHttpServer((request, answer) => {
    seen.push(`${request.method} ${request.url}`);
    answer.setHeader("Access-Control-Allow-Origin", "*");
    answer.end("/* hello */");
  });
  server.on("upgrade", (request, socket) => { seen.push(`UPGRADE ${request.url}`); socket.destroy(); });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const thing = {
    origin: `http://stranger.localhost:${server.address().port}`,
    seen,
    close: () => new Promise((resolve) => { server.closeAllConnections(); server.close(resolve); }),
  };
  started.add(thing);
  return thing;
}

/** Serves one file; for `/install/HASH?url=`. */
export async function fileServer(path) {
  const server = createHttpServer((_request, answer) => answer.end(readFileSync(path)));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const thing = {
    url: `http://127.0.0.1:${server.address().port}/${basename(path)}`,
    close: () => new Promise((resolve) => { server.closeAllConnections(); server.close(resolve); }),
  };
  started.add(thing);
  return thing;
}

const chromiumOptions = {
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: [...(root ? ["--no-sandbox"] : []), "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"],
};

/** Headless Chromium from Debian. */
export async function launch() {
  const browser = await chromium.launch(chromiumOptions);
  started.add(browser);
  const newContext = browser.newContext.bind(browser);
  browser.newContext = async (options) => {
    const context = await newContext(options);
    await observe(context);
    return context;
  };
  return browser;
}

/** Requests without an answer, by context. */
const unanswered = new Map();

/** Remembers what tells a press that was lost from a server that did not answer. */
async function observe(context) {
  const open = new Map();
  unanswered.set(context, open);
  context.on("request", (request) => open.set(request, Date.now()));
  for (const over of ["requestfinished", "requestfailed"]) context.on(over, (request) => open.delete(request));
  context.on("close", () => unanswered.delete(context));
  await context.addInitScript(() => {
    if (window !== top) return;
    const seen = [];
    window.e2eEvents = () => seen;
    for (const kind of ["mousedown", "mouseup", "click", "keydown", "submit", "focusin", "blur", "toggle"]) {
      addEventListener(kind, (event) => {
        const on = event.target.tagName ?? "window";
        const text = event.target.tagName === "BUTTON" ? ` "${event.target.textContent}"` : "";
        seen.push(`${Math.round(performance.now())} ${kind} ${on}${text}`);
        if (seen.length > 40) seen.shift();
      }, true);
    }
  });
}

/** After a test that failed: what its pages and its servers were doing, for whoever reads the log. */
async function tell() {
  for (const [context, open] of unanswered) {
    for (const page of context.pages()) {
      const events = await Promise.race([page.evaluate(() => window.e2eEvents?.()).catch(String), sleep(2000, "it does not answer")]);
      console.log(`page ${page.url()}: ${JSON.stringify(events)}`);
    }
    for (const [request, since] of open) {
      console.log(`no answer for ${Date.now() - since} ms: ${request.method()} ${request.url().split("?")[0]}`);
    }
  }
  for (const server of started) {
    if (server instanceof Server) console.log(`${server.origin} said last:\n${server.log().slice(-4000)}`);
  }
}
afterEach(async (test) => { if (test.passed === false) await tell(); });

/** The same with a profile whose settings were written before: `{profile}/Default/Preferences`. */
export async function launchProfile(profile) {
  const context = await chromium.launchPersistentContext(profile, chromiumOptions);
  started.add(context);
  return context;
}

/** A person: a browser profile of their own, signed in as an administrator by a one-time link. */
export async function administrator(browser, server, options = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  await page.goto(server.adminLink());
  return { context, page };
}

/** A new grain asks for its title first: give it one, as a person does, and press Enter. */
export async function nameGrain(page, title) {
  const field = page.locator("#new-title");
  await field.fill(title);
  await field.press("Enter");
  await field.waitFor({ state: "hidden" });
  await eventually(`the bar shows ${title}`, async () =>
    (await page.locator("h1").first().textContent()).trim() === title, 10);
}

/** The frame of the open grain, once the app has answered in it. */
export async function grainFrame(page, seconds = 30) {
  return eventually("the grain's frame shows the app", () => page.frames().find((frame) =>
    frame !== page.mainFrame() && /^https?:/.test(frame.url()) && !frame.url().includes("_sandstorm")),
  seconds);
}

/** Opens the menu of the grain's bar. It lies over the app's frame, which has a process of its own, and
 *  the browser gives a press to what it has drawn last: one that comes before the menu is drawn goes to
 *  the app. The driver is that fast; people are not. */
export async function openMenu(page) {
  await page.locator(".bar .menu:not(.title-menu) summary").click();
  await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
  await sleep(200);
}

const axe = readFileSync(join(dirname(fileURLToPath(import.meta.url)),
  "node_modules/axe-core/axe.min.js"), "utf8");

/** Fails with a readable list when axe-core finds any violation in the page's own frame (an app's
 *  content is the app's). */
export async function assertAccessible(page, where) {
  // As the page's own script would be refused by its policy, in an isolated world by the driver.
  const session = await page.context().newCDPSession(page);
  const { frameTree } = await session.send("Page.getFrameTree");
  const { executionContextId } = await session.send("Page.createIsolatedWorld",
    { frameId: frameTree.frame.id, worldName: "axe" });
  const evaluate = async (expression) => {
    const { result, exceptionDetails } = await session.send("Runtime.evaluate",
      { expression, contextId: executionContextId, awaitPromise: true, returnByValue: true });
    assert.ok(!exceptionDetails, JSON.stringify(exceptionDetails));
    return result.value;
  };
  await evaluate(`${axe}; 0`);
  const violations = await evaluate(`axe.run(document, { iframes: false })
    .then((found) => found.violations
      .map((v) => v.id + ": " + v.help + " " + v.nodes.map((n) => n.html).join(" | ")))`);
  await session.detach();
  assert.deepEqual(violations, [], `axe on ${where}`);
}
