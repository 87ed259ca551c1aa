// What is about to be taken, who was told of it, and what would keep it.
'use strict';

const assert = require('node:assert/strict');

module.exports = async (visit, setting, scene) => {
  const { page } = visit;
  await visit.signIn();
  await visit.follow(page.getByRole('navigation').getByRole('link', { name: /pending/i }).first());
  await visit.at('/pending');
  await visit.shows('nightly export', 'payments', 'cards service', ...setting.admins, /accepted/i);
  await visit.shows('cards.reveal');
  await visit.hides('forgotten', 'Quay Holdings', ...setting.held_admins);
  const entry = visit.main().locator('tr, li, article').filter({ hasText: 'nightly export' }).first();
  assert.match(await entry.innerText(), /\b[34] days?\b/i);
  assert.match(await visit.words(), /keep/i);
  await visit.sound();
  await visit.picture('pending');
  await visit.tells('portcullis pending');
  await visit.open('/pending?type=DELETION');
  await visit.shows('nightly export');
  await visit.hides('payments');
  await visit.open('/pending?type=DOWNGRADE');
  await visit.hides('nightly export');
  await visit.shows('payments', 'cards service');

  // Operators see those of all accounts, also one that is held since an admin can't be told.
  const operator = await visit.other();
  await operator.signIn(setting.operator);
  await operator.open('/pending');
  await operator.shows('forgotten', 'nightly export', ...setting.held_admins, 'no such user here');
  await operator.shows(/not taken by the mail server|does not take the mail/i, /held|waits/i);
  await operator.sound();
  await operator.open(`/pending?account=${scene.account}`);
  await operator.shows('nightly export');
  await operator.hides('forgotten');
};
