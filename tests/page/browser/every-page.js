// Every page there is, as it should be: nothing for axe to find, no wider than the screen, light over the
// wire, and quiet. The main ones are pictured.
'use strict';

const assert = require('node:assert/strict');
const { weigh } = require('./weight');

module.exports = async (visit, setting, scene) => {
  const { page } = visit;
  const token = (name) => `/tokens/${scene.tokens[name]}`;
  const look = async (who, to, picture) => {
    const bytes = await weigh(who, to);
    await who.sound();
    assert.equal(await who.page.locator('h1').count(), 1, `${to} has one heading`);
    assert((await who.page.title()).length > 0);
    assert.equal(await who.page.locator('html').getAttribute('lang'), 'en');
    await colours(who, scene);
    if (picture) await who.picture(picture);
    console.log(`    ${bytes} bytes  ${to}`);
  };
  await look(visit, '/sign-in', 'sign-in');
  await visit.signIn();
  await look(visit, '/tokens', 'tokens');
  for (const query of ['?page=2', '?q=none', '?show=pending', '?show=unrestricted', '?show=deleted', '?sort=name']) {
    await look(visit, `/tokens${query}`);
  }
  await look(visit, token('payments'), 'token');
  await look(visit, token('cards service'), 'token-custom');
  for (const name of ['nightly export', 'old sync', 'edge cache', 'retired', 'lent']) {
    await look(visit, token(name));
  }
  await look(visit, `${token('payments')}/whitelist`, 'whitelist');
  await look(visit, `${token('nightly export')}/whitelist`);
  await look(visit, `${token('payments')}/delete`);
  await look(visit, `${token('payments')}/denials`);
  await look(visit, `${token('payments')}/expire`, 'expire');
  await visit.page.locator('[name=expires]').fill('30d');
  await visit.press(/go on/i);
  await visit.sound();
  await visit.picture('expire-confirm');
  await look(visit, '/tokens/new', 'create');
  await look(visit, '/pending', 'pending');
  await look(visit, '/pending?type=DOWNGRADE');
  // What is not there.
  await visit.open('/nothing-here', 404);
  await visit.sound();

  const operator = await visit.other();
  await operator.signIn(setting.operator);
  await look(operator, '/tokens');
  await look(operator, '/tokens/new');
  await look(operator, '/pending');
  await look(operator, '/accounts', 'accounts');
  await look(operator, `/accounts/${scene.account}`, 'account');
  await look(operator, `/accounts/${scene.account}/credentials`, 'account-credentials');
  await look(operator, '/credentials', 'credentials');
  const revoke = await operator.main().getByRole('link', { name: /revoke/i }).last().getAttribute('href');
  await look(operator, revoke, 'credential-revoke');
  await look(operator, '/status', 'status');

  // On paper, and with very large letters, nothing is lost either.
  await page.setViewportSize({ width: 320, height: 640 });
  await visit.open('/tokens');
  await visit.fits();
  await visit.open(token('payments'));
  await visit.fits();
};

// That the page follows the reader's wish for light or dark.
async function colours(visit, scene) {
  const luminance = await visit.page.evaluate(() => {
    const colour = (element) => getComputedStyle(element).backgroundColor.match(/[\d.]+/g).map(Number);
    const [r, g, b, a = 1] = [document.body, document.documentElement].map(colour).find((c) => c[3] !== 0) ?? [255, 255, 255];
    return a === 0 ? 255 : (r + g + b) / 3;
  });
  assert.equal(luminance < 128 ? 'dark' : 'light', scene.scheme, `a background of ${luminance}`);
}
