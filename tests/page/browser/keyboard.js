// By keyboard alone: past what stands on each page, to everything there is, always seeing where one is.
'use strict';

const assert = require('node:assert/strict');

const FOCUSABLE = ['a[href]', 'button:enabled', 'input:enabled:not([type=hidden])', 'select:enabled',
  'textarea:enabled', 'summary', '[tabindex]'].map((element) => `${element}:not([tabindex="-1"])`).join();

// What has the focus: which of all that can have it, and whether a person sees that.
function focused(page) {
  return page.evaluate((focusable) => {
    const element = document.activeElement;
    const style = getComputedStyle(element);
    const [left, top, right, bottom] = (({ left, top, right, bottom }) => [left, top, right, bottom])(
      element.getBoundingClientRect(),
    );
    const inside = right > 0 && bottom > 0 && left < innerWidth && top < innerHeight;
    const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1;
    return {
      at: [...document.querySelectorAll(focusable)].indexOf(element),
      html: element.outerHTML.slice(0, 200),
      text: element.innerText ?? '',
      href: element.getAttribute('href') ?? '',
      seen: inside && right - left > 1 && bottom - top > 1 && style.visibility === 'visible',
      ring: ring || style.boxShadow !== 'none',
    };
  }, FOCUSABLE);
}

// Everything that has to be reached: of radio buttons of one name, one.
function reachable(page) {
  return page.evaluate((focusable) => {
    const groups = new Set();
    return [...document.querySelectorAll(focusable)].flatMap((element, at) => {
      if (!element.checkVisibility({ visibilityProperty: true })) return [];
      if (element.closest('details:not([open])') && element.tagName !== 'SUMMARY') return [];
      if (element.type === 'radio') {
        const checked = document.querySelector(`input[type=radio][name="${element.name}"]:checked`);
        if (groups.has(element.name) || (checked && checked !== element)) return [];
        groups.add(element.name);
      }
      return [at];
    });
  }, FOCUSABLE);
}

// Goes through a page with the tab key.
async function goThrough(visit, to) {
  const { page } = visit;
  await visit.open(to);
  const wanted = await reachable(page);
  assert(wanted.length > 0, to);
  await page.keyboard.press('Tab');
  const first = await focused(page);
  assert.match(`${first.text} ${first.href}`, /(skip|main|content).* #/is, `the first is the skip link: ${first.html}`);
  assert(first.seen && first.ring, 'the skip link is seen once it has the focus');
  await page.keyboard.press('Enter');
  const target = page.locator(first.href);
  assert.equal(await target.evaluate((element) => element.closest('main') !== null), true);
  await page.keyboard.press('Tab');
  const next = await focused(page);
  if (next.at >= 0) {
    const inMain = await page.evaluate(() => document.activeElement.closest('main, footer') !== null);
    assert(inMain, `past what stands on each page: ${next.html}`);
  }

  await visit.open(to);
  const reached = new Set();
  for (let steps = 0; steps < 400; steps += 1) {
    await page.keyboard.press('Tab');
    const now = await focused(page);
    if (now.at < 0 || reached.has(now.at)) break;
    reached.add(now.at);
    assert(now.seen, `${to}: out of sight: ${now.html}`);
    assert(now.ring, `${to}: nobody sees that it has the focus: ${now.html}`);
  }
  const missed = wanted.filter((at) => !reached.has(at));
  const html = await page.evaluate(
    ([focusable, missed]) => missed.map((at) => document.querySelectorAll(focusable)[at].outerHTML),
    [FOCUSABLE, missed],
  );
  assert.deepEqual(html, [], `${to}: out of reach`);
}

// Moves on with the tab key until something has the focus.
async function tabTo(page, selector) {
  for (let steps = 0; steps < 400; steps += 1) {
    await page.keyboard.press('Tab');
    const there = await page.evaluate((wanted) => document.activeElement.matches(wanted), selector);
    if (there) return;
  }
  assert.fail(`the tab key doesn't lead to ${selector} at ${page.url()}`);
}

module.exports = async (visit, setting, scene) => {
  const { page } = visit;
  const token = (name) => `/tokens/${scene.tokens[name]}`;
  await visit.open('/sign-in');
  await tabTo(page, 'input[name=credential]');
  await page.keyboard.type(scene.admin);
  await page.keyboard.press('Enter');
  await page.waitForURL((url) => url.pathname === '/tokens');

  for (const to of ['/tokens', token('payments'), `${token('payments')}/whitelist`, '/tokens/new', '/pending', `${token('spare')}/delete`]) {
    await goThrough(visit, to);
  }

  // A search, a change and a new token without a mouse.
  await visit.open('/tokens');
  await tabTo(page, '[name=q]');
  await page.keyboard.type('lent');
  await page.keyboard.press('Enter');
  await page.waitForURL((url) => url.searchParams.get('q') === 'lent');
  await tabTo(page, 'a[href^="/tokens/tok_"]');
  await page.keyboard.press('Enter');
  await page.waitForURL((url) => url.pathname === token('lent'));
  await visit.open(`${token('lent')}/whitelist`);
  await tabTo(page, 'textarea[name=add]');
  await page.keyboard.type('203.0.113.5');
  await tabTo(page, 'button[name=step][value=save]');
  await page.keyboard.press('Enter');
  await page.waitForURL((url) => url.pathname === token('lent'));
  await visit.shows('203.0.113.5');

  await visit.open('/tokens/new');
  await tabTo(page, 'input[name=name]');
  await page.keyboard.type('typed');
  await tabTo(page, 'input[name=kind]');
  for (let steps = 0; steps < 3; steps += 1) {
    if (await page.evaluate(() => document.activeElement.value === 'READ_ONLY')) break;
    await page.keyboard.press('ArrowDown');
  }
  await page.keyboard.press('Enter');
  await page.locator('#secret').waitFor();
  await tabTo(page, 'button');

  // Where a form has faults, the focus or an alert leads to them.
  await visit.open('/tokens/new');
  await tabTo(page, 'input[name=name]');
  await page.keyboard.type(' ');
  await page.keyboard.press('Enter');
  await page.getByRole('alert').first().waitFor();
  await visit.sound();

  const operator = await visit.other();
  await operator.signIn(setting.operator);
  for (const to of ['/accounts', '/status']) await goThrough(operator, to);
};
