// Every page whose texts are hostile, as a browser reads it: they are text. Script that ran would open a
// dialog, which fails the story, as does whatever the browser refused to run.
'use strict';

const assert = require('node:assert/strict');

module.exports = async (visit, setting) => {
  const { page } = visit;
  await visit.signIn();
  const seen = new Set(['/tokens']);
  const read = [];
  for (const to of seen) {
    await visit.open(to);
    visit.mustBeQuiet();
    read.push(await page.locator('body').innerText());
    const links = await page.locator('a[href]').evaluateAll((all) => all.map((link) => link.href));
    for (const link of links.map((text) => new URL(text))) {
      if (link.origin === setting.base) seen.add(link.pathname + link.search);
    }
    assert(seen.size < 400, 'there is no end of pages');
  }
  const squeezed = (text) => text.replaceAll(/\s+/g, ' ').trim();
  for (const text of setting.texts) {
    assert(read.some((page) => squeezed(page).includes(squeezed(text))), `nowhere shown: ${text}`);
    // What is typed comes back as text, too, with and without a script that looks at it.
    await visit.open(`/tokens?q=${encodeURIComponent(text)}`);
    assert.equal(await page.locator('[name=q]').inputValue(), text);
    await visit.follow(visit.main().locator('a[href^="/tokens/tok_"]').first());
    await visit.open(`${new URL(page.url()).pathname}/whitelist`);
    const preview = page.waitForResponse((response) => response.url().endsWith('/whitelist/preview'));
    await page.locator('textarea[name=add]').fill(text);
    assert.equal((await preview).status(), 200);
    await visit.take('review');
    await visit.sound();
  }
};
