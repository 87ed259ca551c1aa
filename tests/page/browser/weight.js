// No page takes more than 50 KB over the wire, with everything that it loads and nothing in the cache.
'use strict';

const assert = require('node:assert/strict');

const MOST = 50_000;

async function weigh(visit, to) {
  const { page } = visit;
  const wire = await visit.context_.newCDPSession(page);
  await wire.send('Network.enable');
  await wire.send('Network.setCacheDisabled', { cacheDisabled: true });
  let [bytes, parts] = [0, 0];
  wire.on('Network.loadingFinished', ({ encodedDataLength }) => {
    bytes += encodedDataLength;
    parts += 1;
  });
  const response = await page.goto(to, { waitUntil: 'networkidle' });
  await wire.detach();
  assert.equal(response.status(), 200, to);
  assert(parts > 1 && bytes > 0, `${to}: nothing was weighed`);
  assert(bytes <= MOST, `${to} takes ${bytes} bytes`);
  return bytes;
}

module.exports = async (visit, setting, scene) => {
  await visit.signIn();
  for (const to of scene.paths) {
    console.log(`    ${await weigh(visit, to)} bytes  ${to}`);
    await visit.fits();
  }
};

module.exports.weigh = weigh;
