// A new token: the least that does, a whitelist exactly where one is needed, and the secret this once.
'use strict';

const assert = require('node:assert/strict');

// The secret that the page shows.
async function secretOf(page) {
  const secret = page.locator('#secret');
  const text = await secret.evaluate((element) => element.value ?? element.textContent);
  assert.match(text.trim(), /^pcl_t1_[0-9A-Za-z]{63}$/);
  // In letters of one width, so that none is mistaken for another.
  const widths = await secret.evaluate((element) => {
    const pen = document.createElement('canvas').getContext('2d');
    pen.font = getComputedStyle(element).font;
    return ['iiiiiiii', 'WWWWWWWW', '0O1lIoIl'].map((letters) => pen.measureText(letters).width);
  });
  assert.equal(new Set(widths).size, 1, `a secret in a proportional font: ${widths}`);
  return text.trim();
}

// What is wrong with a field stands beside it, and is read out with it.
async function told(page, field, words) {
  assert.equal(await field.getAttribute('aria-invalid'), 'true');
  const ids = ((await field.getAttribute('aria-describedby')) ?? '').split(' ');
  const texts = await Promise.all(ids.map((id) => page.locator(`[id="${id}"]`).innerText()));
  assert.match(texts.join('\n'), words);
}

module.exports = async (visit, setting, scene) => {
  const { page } = visit;
  const name = page.locator('input[name=name]');
  const kind = (value) => page.locator(`input[name=kind][value=${value}], option[value=${value}]`).first();
  const choose = async (value) => {
    const select = page.locator('select[name=kind]');
    if (await select.count()) await select.selectOption(value);
    else await kind(value).check();
  };
  const scope = (value) => page.locator(`input[name=scope][value="${value}"]`);
  const whitelist = page.locator('textarea[name=whitelist]');
  const create = () => visit.press(/create/i);
  const secrets = [];
  await visit.signIn();
  await visit.follow(page.getByRole('link', { name: /new token|create/i }).first());
  await visit.at('/tokens/new');

  // The catalogue with its descriptions, and marks where a whitelist is needed. The least is suggested.
  await visit.shows('transactions.send', /\*/, /least/i);
  assert(!(await kind('READ_WRITE').evaluate((element) => element.checked ?? element.selected)));
  await visit.sound();
  await visit.picture('create');

  // Faults are told together and beside what they are about; what was typed stays.
  await choose('READ_WRITE');
  await name.fill('   ');
  await create();
  await visit.alert();
  await told(page, name, /name/i);
  await told(page, whitelist, /whitelist/i);
  await visit.sound();

  // An expiry is a day to come.
  const expires = page.locator('input[name=expires]');
  for (const [typed, wrong] of [['next week', /no day/i], ['2020-01-01', /future/i]]) {
    await expires.fill(typed);
    await create();
    await visit.alert();
    await told(page, expires, wrong);
    assert.equal(await expires.inputValue(), typed);
  }
  await expires.fill('');

  // Not without a whitelist; and not with a bad one.
  await name.fill('made: writes');
  await choose('READ_WRITE');
  await whitelist.fill('10.0.0.5/24');
  await create();
  await visit.alert();
  await told(page, whitelist, /10\.0\.0\.0\/24/);
  assert.equal(await name.inputValue(), 'made: writes');
  assert.equal(await whitelist.inputValue(), '10.0.0.5/24');
  await whitelist.fill('10.0.0.0/24\n127.0.0.1');
  await create();
  secrets.push(await secretOf(page));
  await visit.shows('made: writes', /once|again/i, 'authorization', 'Bearer');
  await visit.sound();
  if (scene.script) {
    // Copied, and said so.
    await visit.context_.grantPermissions(['clipboard-read', 'clipboard-write']);
    await page.getByRole('button', { name: /copy/i }).click();
    await page.getByText(/copied/i).first().waitFor();
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), secrets[0]);
  } else {
    assert.equal(await page.getByRole('button', { name: /copy/i }).count(), 0, 'a button that does nothing');
  }
  // Not in the address, and not to be had again.
  assert(!page.url().includes(secrets[0]));
  await page.reload().catch(() => {});
  assert(!(await page.content()).includes(secrets[0]), 'shown again');

  // A token that only reads needs none, and isn't asked for one.
  await visit.open('/tokens/new');
  await name.fill('made: reads');
  await choose('READ_ONLY');
  await expires.fill('2099-12-31');
  await create();
  secrets.push(await secretOf(page));

  // Chosen scopes: none is a fault; a sensitive one asks for a whitelist.
  await visit.open('/tokens/new');
  await name.fill('made: chosen');
  await choose('CUSTOM');
  await create();
  await visit.alert();
  await visit.shows(/at least one scope/i);
  await scope('transactions.read').check();
  await scope('cards.reveal').check();
  await whitelist.waitFor();
  await create();
  await visit.alert();
  await told(page, whitelist, /whitelist/i);
  assert(await scope('cards.reveal').isChecked(), 'what was chosen is kept');
  await scope('cards.reveal').uncheck();
  await create();
  secrets.push(await secretOf(page));

  // All three are there, and none of the secrets is anywhere.
  for (const made of ['made: writes', 'made: reads', 'made: chosen']) {
    await visit.open(`/tokens?q=${encodeURIComponent(made)}`);
    await visit.follow(page.getByRole('link', { name: made, exact: true }));
    await visit.shows(made);
    if (made === 'made: reads') await visit.shows(/expires/i, /31 december 2099/i);
    for (const secret of secrets) {
      assert(!(await page.content()).includes(secret.slice(-20)));
    }
  }
  await visit.shows('transactions.read', /any address/i);
  await visit.hides('transactions.send');
};

module.exports.secretOf = secretOf;
