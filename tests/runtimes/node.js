// Threads, processes, files, sockets, interfaces, compression: what servers written for Node use.
const assert = require('assert'), fs = require('fs'), http = require('http'), net = require('net');
const os = require('os'), zlib = require('zlib'), crypto = require('crypto'), path = require('path');
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const { spawn, execFileSync } = require('child_process');

if (!isMainThread) {
  const cells = new Int32Array(workerData);
  for (let n = 0; n < 10000; n++) Atomics.add(cells, 0, 1);
  parentPort.postMessage('done');
} else if (process.argv[2] === 'child') {
  process.stdin.pipe(process.stdout);
} else {
  main().then(() => console.log('RUNTIME OK node', process.version), (e) => { console.log('RUNTIME FAILED', e.stack); })
    .finally(() => process.exit());
}

async function main() {
  const shared = new SharedArrayBuffer(4);
  await Promise.all([1, 2, 3].map(() => new Promise((done, fail) => {
    const w = new Worker(__filename, { workerData: shared });
    w.on('message', done); w.on('error', fail);
  })));
  assert.strictEqual(new Int32Array(shared)[0], 30000);

  const child = spawn(process.execPath, [__filename, 'child']);
  let echoed = '';
  child.stdout.on('data', (d) => { echoed += d; });
  child.stdin.end('through a child');
  await new Promise((done) => child.on('close', done));
  assert.strictEqual(echoed, 'through a child');
  assert.match(execFileSync(process.execPath, ['-p', '6 * 7']).toString(), /^42/);

  const dir = fs.mkdtempSync('/var/node-');
  let seen = false;
  const watcher = fs.watch(dir, () => { seen = true; });
  const file = path.join(dir, 'a');
  await fs.promises.writeFile(file, crypto.randomBytes(300000));
  await fs.promises.copyFile(file, file + '2');
  await new Promise((d) => fs.createReadStream(file).pipe(zlib.createGzip()).pipe(fs.createWriteStream(file + '.gz')).on('finish', d));
  assert.strictEqual(zlib.gunzipSync(fs.readFileSync(file + '.gz')).length, 300000);
  fs.fsyncSync(fs.openSync(file, 'r+'));
  await new Promise((d) => setTimeout(d, 50));
  watcher.close();
  assert(seen, 'fs.watch saw nothing');
  fs.rmSync(dir, { recursive: true });

  const lo = os.networkInterfaces().lo;
  assert(lo && lo.some((a) => a.address === '127.0.0.1'), JSON.stringify(os.networkInterfaces()));
  assert(os.cpus && os.totalmem() > 0 && os.hostname() === 'sandbox');

  for (const where of [{ port: 0, host: '127.0.0.1' }, { port: 0, host: '::1' }, { path: '/var/node.sock' }]) {
    const server = http.createServer((q, s) => q.pipe(s)).listen(where);
    await new Promise((d) => server.on('listening', d));
    const at = where.path ? { socketPath: where.path } : { port: server.address().port, host: where.host };
    const answer = await new Promise((done, fail) => {
      const q = http.request({ ...at, method: 'POST' }, (s) => {
        let all = 0; s.on('data', (d) => { all += d.length; }); s.on('end', () => done(all));
      }).on('error', fail);
      q.end(Buffer.alloc(200000));
    });
    assert.strictEqual(answer, 200000);
    server.close();
  }
}
