// Strangers are asked who they are, and led where they wanted to go; whoever leaves is gone.
'use strict';

const assert = require('node:assert/strict');

module.exports = async (visit, setting, scene) => {
  const { page } = visit;
  const token = `/tokens/${scene.tokens.payments}`;
  await page.goto(token);
  await visit.at('/sign-in');
  const field = page.getByLabel(/credential/i);
  assert.equal(await field.getAttribute('type'), 'password');
  assert.equal(await field.getAttribute('autocomplete'), 'current-password');
  await visit.sound();

  // A slip is told beside the field, and what was typed is not shown.
  await field.fill('pcl_c1_wrong');
  await visit.press(/sign in/i);
  await visit.at('/sign-in');
  await visit.alert(/credential/);
  assert.equal(await page.locator('input[name=credential]').inputValue(), '');
  assert(!(await page.content()).includes('pcl_c1_wrong'));
  await visit.sound();

  await page.locator('input[name=credential]').fill(scene.admin);
  await page.keyboard.press('Enter');
  await page.waitForURL((url) => url.pathname === token);
  await visit.shows('payments');
  assert(!page.url().includes(scene.admin));
  // Who is signed in stands on each page.
  assert((await page.getByRole('banner').innerText()).length > 0);

  // Signed out, nothing is left behind to go back to.
  await visit.press(/sign out/i, page.getByRole('banner'));
  await visit.at('/sign-in');
  await page.goBack().catch(() => {});
  await page.reload();
  await visit.at('/sign-in');
  await page.goto('/pending');
  await visit.at('/sign-in');

  // A form of a session that is over says so, and does nothing.
  const late = await visit.other();
  await late.signIn();
  await late.open(`/tokens/${scene.tokens['lent']}/whitelist`);
  const elsewhere = await visit.other();
  await elsewhere.context_.addCookies(await late.context_.cookies());
  await elsewhere.open('/tokens');
  await elsewhere.press(/sign out/i, elsewhere.page.getByRole('banner'));
  await late.page.locator('textarea[name=add]').fill('203.0.113.200');
  await late.take('save');
  await late.shows(/sign in/i);
  await visit.signIn();
  await visit.open(`/tokens/${scene.tokens['lent']}`);
  await visit.hides('203.0.113.200');
};
