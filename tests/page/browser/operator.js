// What operators see besides: accounts and their admins, mail that doesn't get through, and replicas.
'use strict';

const assert = require('node:assert/strict');

module.exports = async (visit, setting, scene) => {
  const { page } = visit;
  await visit.signIn(setting.operator);
  await visit.follow(page.getByRole('navigation').getByRole('link', { name: /accounts/i }).first());
  await visit.at('/accounts');
  await visit.shows(scene.account_name, 'Quay Holdings', setting.admins[0]);
  await visit.sound();
  await visit.tells('portcullis account list');
  await visit.follow(visit.main().getByRole('link', { name: scene.account_name, exact: true }));
  await visit.at(`/accounts/${scene.account}`);
  await visit.shows(scene.account_name, scene.account, ...setting.admins);
  await visit.sound();
  // From an account to its tokens.
  await visit.follow(visit.main().getByRole('link', { name: /tokens/i }).first());
  assert.equal(new URL(page.url()).searchParams.get('account'), scene.account);
  assert((await visit.listed()).includes('nightly export'));

  await visit.follow(page.getByRole('navigation').getByRole('link', { name: /status/i }).first());
  await visit.at('/status');
  await visit.shows(setting.held_admins[1], 'no such user here', /replica|server/i);
  await visit.hides(setting.held_admins[0]);
  await visit.sound();
  await visit.picture('status');

  // A token for an account of one's choice.
  await visit.open(`/tokens/new?account=${scene.account}`);
  assert.equal(await page.locator('[name=account]').inputValue(), scene.account);
  await page.locator('input[name=name]').fill('made by an operator');
  await page.locator('input[name=kind][value=READ_ONLY]').check();
  await visit.press(/create/i);
  assert.equal(await page.locator('#secret').count(), 1);
  await visit.open(`/tokens?account=${scene.account}&q=operator`);
  assert.deepEqual(await visit.listed(), ['made by an operator']);
};
