// The list tells at a glance what needs attention; each token tells all there is to know of it.
'use strict';

const assert = require('node:assert/strict');

const DAYS_LEFT = /\b(\d+) days?\b/i;
// A bar or a chart, which says in words what it shows.
const PICTURE = 'meter, progress, svg[role=img], [role=meter], [role=progressbar], [role=img]';

module.exports = async (visit, setting, scene) => {
  const { page } = visit;
  await visit.signIn();

  // What is pending stands first, the soonest at the top, with the days left and a bar.
  const names = await visit.listed();
  assert.deepEqual(names.slice(0, 3).sort(), ['cards service', 'nightly export', 'payments']);
  assert.equal(names[0], 'nightly export');
  assert.equal(names.length, 25, 'rows of a page');
  assert(!names.includes('retired'), 'what is deleted is not listed unless asked for');
  for (const [name, days] of [['nightly export', [3, 4]], ['payments', [6, 7]]]) {
    const entry = visit.entry(name);
    const words = await entry.innerText();
    const left = DAYS_LEFT.exec(words);
    assert(left && days.includes(Number(left[1])), `${name}: ${words}`);
    assert((await entry.locator(PICTURE).count()) > 0, `${name} has no bar: ${await entry.innerHTML()}`);
  }
  // The bar is about what is pending: what falls due was not used for that long, whatever else was.
  const bar = visit.entry('payments').locator(PICTURE).first();
  assert.match(await bar.getAttribute('aria-label'), /41 days/);
  // What it may do, from where, and when it was last used.
  assert.match(await visit.entry('nightly export').innerText(), /read[\s-]?only/i);
  assert.match(await visit.entry('nightly export').innerText(), /any address/i);
  assert.match(await visit.entry('nightly export').innerText(), /42 days|6 weeks|\d{4}-\d\d-\d\d/i);
  assert.match(await visit.entry('payments').innerText(), /read (and )?write/i);
  assert.match(await visit.entry('cards service').innerText(), /custom|3 scopes/i);

  // Pages: as many as are needed, and a way to each.
  await visit.shows(/\b38\b/);
  await visit.follow(visit.main().getByRole('link', { name: /next/i }).first());
  assert.equal(new URL(page.url()).searchParams.get('page'), '2');
  const second = await visit.listed();
  assert.equal(second.length, 13);
  assert(second.every((name) => !names.includes(name)), 'a token stands on two pages');
  await visit.follow(visit.main().getByRole('link', { name: /previous/i }).first());
  assert.deepEqual(await visit.listed(), names);

  // Search: part of a name, whatever its case; or an id.
  const search = async (text) => {
    await page.locator('[name=q]').fill(text);
    await visit.follow(page.locator('form:has([name=q])').getByRole('button').first());
    await visit.at('/tokens');
  };
  await search('NIGHT');
  assert.deepEqual(await visit.listed(), ['nightly export']);
  assert.equal(await page.locator('[name=q]').inputValue(), 'NIGHT', 'what was searched for is kept');
  await search(scene.tokens.payments);
  assert.deepEqual(await visit.listed(), ['payments']);
  await search('no such name');
  assert.deepEqual(await visit.listed(), []);
  await visit.shows(/\bno tokens?\b/i);
  await visit.sound();

  // Filters and orders, by the form that has them, together with a search.
  await visit.open('/tokens');
  const choose = async (field, value) => {
    const select = page.locator(`select[name=${field}]`);
    if (await select.count()) await select.selectOption(value);
    else await page.locator(`input[name=${field}][value="${value}"]`).check();
  };
  await choose('kind', 'CUSTOM');
  await search('');
  assert.deepEqual(await visit.listed(), ['cards service']);
  await visit.open('/tokens');
  await choose('show', 'deleted');
  await search('ret');
  assert.deepEqual(await visit.listed(), ['retired']);
  await visit.open('/tokens?show=pending&sort=name');
  assert.deepEqual(await visit.listed(), ['cards service', 'nightly export', 'payments']);
  await visit.open('/tokens?show=unrestricted&sort=name');
  assert.deepEqual(await visit.listed(), ['edge cache', 'nightly export', 'spare']);
  await visit.open('/tokens?sort=created&q=s');
  assert.equal((await visit.listed()).at(-1), 'old sync', 'the newest first');
  await visit.open('/tokens?sort=last-use');
  assert(!['payments', 'cards service'].includes((await visit.listed())[0]), 'never used ones first');

  await visit.open('/tokens');
  await visit.follow(page.getByRole('link', { name: 'payments', exact: true }));
  await visit.at(`/tokens/${scene.tokens.payments}`);
  await one(visit, setting, scene);
};

// Pages of single tokens.
async function one(visit, setting, scene) {
  const { page } = visit;
  // Its grant by scope, each with its last use, and a chart that says what it shows.
  await visit.shows('payments', scene.tokens.payments, 'transactions.send', 'transactions.read', '127.0.0.0/8');
  await visit.shows('cards.reveal', /never/i, /41 days|\d{4}-\d\d-\d\d/);
  const charts = visit.main().locator(PICTURE);
  assert((await charts.count()) > 0, 'no chart of its use');
  for (const chart of await charts.all()) {
    const named = await chart.evaluate((element) =>
      element.getAttribute('aria-label') ?? element.getAttribute('aria-labelledby')
        ?? element.querySelector('title')?.textContent ?? element.labels?.[0]?.textContent);
    assert(named, `a chart without words: ${await chart.evaluate((element) => element.outerHTML)}`);
  }
  // What is pending, why, and what would keep it; who was told.
  await visit.shows(/read.only/i, /keep/i, /write/i, ...setting.admins);
  // Its history: who did what, and when.
  await visit.shows(/history/i, /creat/i, 'operator');
  await visit.tells('portcullis token show');
  await visit.sound();

  await visit.open(`/tokens/${scene.tokens['cards service']}`);
  await visit.shows('cards.read', 'cards.reveal', 'transactions.read', /keep/i);
  await visit.open(`/tokens/${scene.tokens['nightly export']}`);
  await visit.shows(/delet/i, /keep/i, /any address/i);
  // What was taken, and when.
  await visit.open(`/tokens/${scene.tokens['old sync']}`);
  await visit.shows(/taken|took|lost/i, 'transactions.send', /read.only/i, '127.0.0.0/8');
  const today = new Date().toISOString().slice(0, 4);
  await visit.shows(today);
  await visit.sound();
  // What is deleted is still told of, and can't be changed.
  await visit.open(`/tokens/${scene.tokens.retired}`);
  await visit.shows(/deleted/i);
  assert.equal(await page.getByRole('link', { name: /delete/i }).count(), 0);
  await visit.sound();
}
