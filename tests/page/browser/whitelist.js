// The whitelist editor: nothing is saved unseen, and nobody's work is lost.
'use strict';

const assert = require('node:assert/strict');

module.exports = async (visit, setting, scene) => {
  const { page } = visit;
  const token = `/tokens/${scene.tokens['shared list']}`;
  const add = page.locator('textarea[name=add]');
  const version = async (of = page) => Number(await of.locator('input[name=version]').first().inputValue());
  const entry = (text, of = page) => of.locator(`input[name=remove][value="${text}"]`);
  await visit.signIn();
  await visit.open(token);
  await visit.follow(visit.main().getByRole('link', { name: /whitelist|addresses/i }).first());
  await visit.at(`${token}/whitelist`);
  assert.equal(await entry('127.0.0.0/8').count(), 1);
  assert.equal(await entry('192.0.2.0/24').count(), 1);
  const first = await version();
  await visit.sound();

  // Pasted in any form: each is understood, or refused with the cure, before anything is saved.
  await add.fill('203.0.113.9\n2001:DB8:0::/48, ::ffff:198.51.100.7\n10.0.0.5/24\nhost.example');
  if (scene.script) {
    // Without a press of any button, where scripts run.
    const preview = page.getByText('10.0.0.0/24').first();
    await preview.waitFor();
    await visit.sound();
  }
  await visit.take('review');
  await visit.shows('203.0.113.9', '2001:db8::/48', '198.51.100.7', '10.0.0.5/24', '10.0.0.0/24', '10.0.0.5', 'host.example');
  assert.match(await add.inputValue(), /10\.0\.0\.5\/24/, 'what was typed is kept');
  assert.equal(await version(), first, 'nothing is saved by looking');
  await visit.sound();
  await visit.picture('whitelist-review');

  // Saving with a bad one changes nothing and says why.
  await visit.take('save');
  await visit.alert(/10\.0\.0\.5\/24|refused|can.?t|not/);
  await visit.shows('10.0.0.0/24');
  await visit.sound();
  const other = await visit.other();
  await other.signIn();
  await other.open(token);
  await other.hides('203.0.113.9');

  // Mended, with one's own address, and an old one removed.
  await add.fill('203.0.113.9\n2001:db8::/48');
  await visit.take('add-mine');
  assert.match(await add.inputValue(), /127\.0\.0\.1/);
  assert.match(await add.inputValue(), /203\.0\.113\.9/);
  await add.fill('203.0.113.9\n2001:db8::/48');
  await entry('192.0.2.0/24').check();
  await visit.take('review');
  assert(await entry('192.0.2.0/24').isChecked(), 'what was ticked is kept');
  await visit.take('save');
  await visit.at(token);
  await visit.shows('203.0.113.9', '2001:db8::/48', '127.0.0.0/8');
  await visit.open(`${token}/whitelist`);
  assert.equal(await version(), first + 1);
  assert.equal(await entry('192.0.2.0/24').count(), 0);

  // Two at once: the later one is told who was faster and what they did, and loses nothing.
  await other.open(`${token}/whitelist`);
  await other.page.locator('textarea[name=add]').fill('198.51.100.77');
  await entry('203.0.113.9', other.page).check();
  await add.fill('198.51.100.1');
  await visit.take('save');
  await visit.at(token);
  await other.take('save');
  await other.alert(/chang|meanwhile|somebody|else/);
  await other.shows('198.51.100.1');
  assert.equal(await other.page.locator('textarea[name=add]').inputValue(), '198.51.100.77');
  assert(await entry('203.0.113.9', other.page).isChecked());
  assert.equal(await entry('198.51.100.1', other.page).count(), 1, 'the other one\'s entry is there now');
  assert.equal(await version(other.page), first + 2);
  await other.sound();
  await other.picture('whitelist-conflict');
  await other.take('save');
  await other.at(token);
  await visit.open(`${token}/whitelist`);
  for (const there of ['198.51.100.1', '198.51.100.77', '127.0.0.0/8']) {
    assert.equal(await entry(there).count(), 1, there);
  }
  assert.equal(await entry('203.0.113.9').count(), 0);

  // Undone by going back to a version; what it would be is shown before it is saved.
  await visit.follow(visit.main().locator(`a[href$="/whitelist?restore=${first}"]`).first());
  await visit.shows('192.0.2.0/24');
  await visit.take('save');
  await visit.at(token);
  await visit.open(`${token}/whitelist`);
  assert.equal(await version(), first + 4);
  const left = await page.locator('input[name=remove]').evaluateAll((boxes) => boxes.map((box) => box.value));
  assert.deepEqual(left.sort(), ['127.0.0.0/8', '192.0.2.0/24']);

  // It can't be left without one, and is told so in words that help.
  await entry('127.0.0.0/8').check();
  await entry('192.0.2.0/24').check();
  await visit.take('save');
  await visit.alert(/whitelist/);
  assert.equal(await page.locator('[name=confirm]').count(), 0, 'there is no way around it');
  await visit.sound();
  await visit.open(token);
  await visit.shows('127.0.0.0/8', '192.0.2.0/24');
  await visit.open(`${token}/whitelist`);
  await visit.tells('portcullis whitelist');

  // Where none is needed, lifting it takes a deliberate yes.
  const lent = `/tokens/${scene.tokens.lent}`;
  await visit.open(`${lent}/whitelist`);
  await entry('192.0.2.1').check();
  await visit.take('save');
  await visit.alert(/any address|lift/);
  await visit.open(`${lent}/whitelist`);
  await page.locator('input[name=confirm]').check();
  await visit.press(/any address/i);
  await visit.at(lent);
  await visit.shows(/any address/i);
};
