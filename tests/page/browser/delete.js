// Nothing is deleted by a slip: what is about to be lost says when it was last used.
'use strict';

const assert = require('node:assert/strict');

module.exports = async (visit, setting, scene) => {
  const { page } = visit;
  const spare = `/tokens/${scene.tokens.spare}`;
  await visit.signIn();
  await visit.open(spare);
  await visit.follow(visit.main().getByRole('link', { name: /delete/i }));
  await visit.at(`${spare}/delete`);
  // What last used it, and when.
  await visit.shows('spare', 'transactions.read', /2 days|\d{4}-\d\d-\d\d/);
  await visit.tells('portcullis token delete');
  await visit.sound();
  await visit.picture('delete');

  // Going back deletes nothing.
  await visit.follow(visit.main().getByRole('link', { name: /cancel|back|keep/i }).first());
  await visit.at(spare);
  await visit.hides(/was deleted/i);

  await visit.open(`${spare}/delete`);
  await visit.press(/delete/i);
  // It is said, and so.
  await page.getByRole('status').filter({ hasText: /deleted/i }).first().waitFor();
  await visit.open('/tokens?q=spare');
  assert.deepEqual(await visit.listed(), []);
  await visit.open(spare);
  await visit.shows(/deleted/i);

  // One that was never used says that.
  await visit.open(`/tokens/${scene.tokens['edge cache']}/delete`);
  await visit.shows(/never/i);
};
