// The porting guide's seven steps with their very commands, and then as people install: by the form,
// by a link without an address, by a link with one.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { Server, administrator, cleanUp, fileServer, grainFrame, launch, nameGrain, top } from "./harness.mjs";

let server, browser, admin, work, hash;

before(async () => {
  server = await Server.start({ ALLOW_DEV_ACCOUNTS: "true", ALLOW_PRIVATE_DOWNLOADS: "true" });
  browser = await launch();
  admin = await administrator(browser, server);
  work = join(server.dir, "work");
  mkdirSync(work);
});
after(cleanUp);

/** Runs a line of the guide in the work directory. */
function sh(line) {
  const bin = process.env.SANDSTORM_BIN || join(top, "bin");
  const done = spawnSync("/bin/sh", ["-ec", line], { cwd: work, encoding: "utf8",
    env: { ...process.env, PATH: `${bin}:${process.env.PATH}` } });
  assert.equal(done.status, 0, `${line}\n${done.stdout}${done.stderr}`);
  return done.stdout;
}

// The manifest of 2014, letter for letter.
const manifest = `@0xf1ddb6d3b831f794;  # Generate with \`capnp id\`

using Package = import "/sandstorm/package.capnp";

const manifest :Package.Manifest = (
  # Increment this whenever you distribute a new update to users.
  # Sandstorm will know to replace older versions of the app.
  appVersion = 0,
  
  actions = [(
    # Defines a "new document" action to add to the main menu.
    input = (none = void),
    title = (defaultText = "New Widget"),
    
    # This command will run when a new instance of the app
    # is created after the user clicks on "New Widget".
    command = (
      executablePath = "/legacy-bridge",
      args = ["127.0.0.1:8080", "/run-first-time.sh"]
    )
  )],
  
  # This command runs when the user opens a pre-existing instance
  # of the app.
  continueCommand = (
    executablePath = "/legacy-bridge",
    args = ["127.0.0.1:8080", "/run-continue.sh"]
  )
);
`;

test("steps 1 to 3: a chroot by hand, its placeholders, the bridge", () => {
  sh("mkdir -p my-pkg/bin");
  sh("cp /bin/busybox my-pkg/bin/sh");
  sh("ln -s sh my-pkg/bin/httpd");
  sh("cd my-pkg && mkdir dev tmp var");
  sh(`cp "$(command -v legacy-bridge)" my-pkg/`);
  writeFileSync(join(work, "my-pkg/run-first-time.sh"), `#!/bin/sh
mkdir -p /var/www
echo '<!DOCTYPE html><html lang="en"><title>Widget</title><h1>A new widget</h1>' > /var/www/index.html
exec /run-continue.sh
`);
  writeFileSync(join(work, "my-pkg/run-continue.sh"), `#!/bin/sh
echo started >> /var/starts
exec /bin/httpd -f -p 127.0.0.1:8080 -h /var/www
`);
  sh("chmod +x my-pkg/*.sh");
});

test("step 4: the manifest of 2014 compiles", () => {
  writeFileSync(join(work, "manifest.capnp"), manifest);
  const include = join(top, "schema/sandstorm-2014");
  sh(`capnp eval -I ${include} -b manifest.capnp manifest > my-pkg/sandstorm-manifest`);
});

test("steps 5 and 6: key and package", () => {
  sh("spk keygen secret.key");
  const printed = sh("spk pack my-pkg secret.key");
  assert.match(printed, /^[0-9a-z]{52} .*my-pkg\.spk\n$/);
  hash = sh("echo `sha256sum my-pkg.spk | head -c 32`").trim();
  assert.match(hash, /^[0-9a-f]{32}$/);
});

test("step 7: upload at /install, confirm, open", async () => {
  const { page } = admin;
  await page.goto(`${server.origin}/install`);
  await page.locator("input[type=file]").setInputFiles(join(work, "my-pkg.spk"));
  const upload = page.getByRole("button", { name: "Upload" });
  if (await upload.isVisible()) await upload.click();
  await page.waitForURL(`**/install/${hash}`);
  await confirmAndOpen(page);
});

async function confirmAndOpen(page) {
  await page.getByRole("button", { name: "Install", exact: true }).click();
  await page.waitForURL(/\/apps\//);
  await page.getByRole("button", { name: /^New / }).click();
  await page.waitForURL(/\/grain\//);
  await nameGrain(page, "My widget");
  const frame = await grainFrame(page);
  await frame.getByRole("heading", { name: "A new widget" }).waitFor();
}

/** A second person, in a browser profile of their own. */
async function person(at, name) {
  const page = await (await browser.newContext()).newPage();
  await page.goto(`${at.origin}/sign-in`);
  await page.getByLabel("Name").fill(name);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(`${at.origin}/`);
  return page;
}

test("a second person installs by the bare link", async () => {
  const page = await person(server, "Ben");
  await page.goto(`${server.origin}/install/${hash}`);
  await confirmAndOpen(page);
});

test("on another server, by a link with an address", async () => {
  const second = await Server.start({ ALLOW_DEV_ACCOUNTS: "true", ALLOW_PRIVATE_DOWNLOADS: "true" });
  const files = await fileServer(join(work, "my-pkg.spk"));
  const page = await person(second, "Cam");
  await page.goto(`${second.origin}/install/${hash}?url=${encodeURIComponent(files.url)}`);
  await page.getByRole("button", { name: "Download" }).click();
  await page.getByRole("link", { name: "Go on" })
    .or(page.getByRole("button", { name: "Install", exact: true })).first().waitFor();
  await page.goto(`${second.origin}/install/${hash}`);
  await confirmAndOpen(page);
});

test("an address with another file is refused, and says so", async () => {
  const second = await Server.start({ ALLOW_DEV_ACCOUNTS: "true", ALLOW_PRIVATE_DOWNLOADS: "true" });
  const files = await fileServer(join(work, "my-pkg/sandstorm-manifest"));
  const page = await person(second, "Cam");
  await page.goto(`${second.origin}/install/${hash}?url=${encodeURIComponent(files.url)}`);
  await page.getByRole("button", { name: "Download" }).click();
  await page.getByText("Not installed").or(page.getByText(/It failed at/)).first().waitFor();
});
