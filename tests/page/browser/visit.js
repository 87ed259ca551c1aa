// One person at one screen: a browser context, what went wrong in it, and what people do on any page.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');

const HEIGHTS = { 360: 740, 1280: 900 };
const AXE = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const AXE_TAGS = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];

// Of a telephone's widths the narrowest: what follows is a pixel more than rounding.
const WIDER = 1;

class Visit {
  static async begin(browser, setting, scene, story) {
    const visit = new Visit();
    Object.assign(visit, { browser, setting, scene, story, faults: [], others: [] });
    const context = await visit.context();
    Object.assign(visit, { context_: context, page: await context.newPage() });
    visit.watch(visit.page);
    return visit;
  }

  context() {
    return this.browser.newContext({
      baseURL: this.setting.base,
      viewport: { width: this.scene.width, height: HEIGHTS[this.scene.width] },
      colorScheme: this.scene.scheme,
      javaScriptEnabled: this.scene.script,
      reducedMotion: 'reduce',
    });
  }

  // Somebody else, at the same kind of screen.
  async other() {
    const other = new Visit();
    Object.assign(other, this, { others: [] });
    other.context_ = await this.context();
    other.page = await other.context_.newPage();
    other.watch(other.page);
    this.others.push(other);
    return other;
  }

  async end() {
    for (const other of this.others) await other.end();
    await this.context_.close();
  }

  // Whatever a page must never do.
  watch(page) {
    page.setDefaultTimeout(10_000);
    const fault = (text) => this.faults.push(`${page.url()}: ${text}`);
    page.on('console', (message) => {
      // Of a page that was asked for: it says itself what was refused. Parts of a page are seen below.
      const refused = /^Failed to load resource: the server responded with a status of 4\d\d/;
      if (['error', 'warning'].includes(message.type()) && !refused.test(message.text())) {
        fault(`console: ${message.text()}`);
      }
    });
    page.on('pageerror', (error) => fault(`an error in the script: ${error.message}`));
    page.on('dialog', (dialog) => {
      fault(`a dialog: ${dialog.message()}`);
      dialog.dismiss().catch(() => {});
    });
    page.on('request', (request) => {
      if (!request.url().startsWith(this.setting.base)) fault(`asks elsewhere: ${request.url()}`);
    });
    page.on('response', (response) => {
      const part = !['document', 'fetch', 'xhr'].includes(response.request().resourceType());
      if (response.status() >= 500 || (part && response.status() >= 400)) {
        fault(`${response.status()} for ${response.url()}`);
      }
    });
  }

  // That no page of this story did what a page must never do. All of it is told at once.
  mustBeQuiet() {
    assert.deepEqual([...new Set(this.faults)], []);
  }

  async leaveEvidence(directory) {
    fs.mkdirSync(directory, { recursive: true });
    const stem = `${this.story} ${this.scene.label}`.replaceAll(' ', '-');
    for (const [number, { page }] of [this, ...this.others].entries()) {
      console.log(`at ${page.url()}:\n${await page.locator('body').innerText().catch(String)}`);
      const file = path.join(directory, `${stem}-${number}.png`);
      await page.screenshot({ path: file, fullPage: true }).catch(() => {});
    }
  }

  // Opens a page, which must be there.
  async open(to, status = 200) {
    const response = await this.page.goto(to);
    assert.equal(response.status(), status, `${to}: ${response.status()}`);
    return this.page;
  }

  // Signs in as whoever holds the credential; the scene's admin unless told otherwise.
  async signIn(credential = this.scene.admin) {
    await this.open('/sign-in');
    await this.page.locator('input[name=credential]').fill(credential);
    await this.press(/sign in/i);
    await this.at('/tokens');
    return this;
  }

  // Presses a button of that name in the page's main part, and waits for what follows.
  async press(name, within = this.main()) {
    await this.follow(within.getByRole('button', { name }));
  }

  // Follows a link or presses a button, and waits for the next page.
  async follow(element) {
    await Promise.all([this.page.waitForNavigation({ waitUntil: 'load' }), element.click()]);
  }

  main() {
    return this.page.getByRole('main');
  }

  // A button by the names of its field and value. What Enter does may be a button that nobody sees.
  step(value) {
    return this.main().locator(`button[name=step][value=${value}]:not([aria-hidden=true])`);
  }

  // Presses one of the buttons of a form that is sent by several.
  async take(value) {
    await this.follow(this.step(value));
  }

  // That the page is now at this path, whatever its query.
  async at(wanted) {
    const own = (url) => url.pathname;
    if (own(new URL(this.page.url())) !== wanted) {
      await this.page.waitForURL((url) => own(url) === wanted);
    }
  }

  // That a person reads this in the main part.
  async shows(...texts) {
    const words = (await this.words()).toLowerCase();
    for (const text of texts) {
      const found = text instanceof RegExp ? text.test(words) : words.includes(text.toLowerCase());
      assert(found, `does not show ${text} at ${this.page.url()}:\n${words}`);
    }
  }

  // That the page says how to do the same without it; opened first, as a person would.
  async tells(...commands) {
    const how = this.page.getByText(/by command line/i).last();
    await how.click();
    await this.shows(...commands);
  }

  async hides(...texts) {
    const words = (await this.words()).toLowerCase();
    for (const text of texts) {
      const found = text instanceof RegExp ? text.test(words) : words.includes(text.toLowerCase());
      assert(!found, `shows ${text} at ${this.page.url()}:\n${words}`);
    }
  }

  async words() {
    return (await this.main().innerText()).replaceAll(/\s+/g, ' ');
  }

  // What a fault is told with: read out at once by a screen reader.
  async alert(...texts) {
    const alert = this.page.getByRole('alert').filter({ hasText: /\S/ }).first();
    await alert.waitFor();
    const words = (await alert.innerText()).toLowerCase();
    for (const text of texts) {
      const found = text instanceof RegExp ? text.test(words) : words.includes(text.toLowerCase());
      assert(found, `the alert does not say ${text}: ${words}`);
    }
  }

  // The names of the tokens in a list, in order.
  async listed() {
    const links = this.main().locator('a[href^="/tokens/tok_"]:not([href*="#"])');
    const names = [];
    for (const link of await links.all()) names.push((await link.innerText()).trim());
    return names;
  }

  // The part of a list that is about one thing: what encloses a link of that name.
  entry(name) {
    const link = this.page.getByRole('link', { name, exact: true });
    return this.main().locator('tr, li, article').filter({ has: link }).first();
  }

  // That axe finds nothing wrong. It is a script, so it looks where scripts run.
  async axe() {
    if (!this.scene.script) return;
    await this.page.evaluate(`${AXE};0`);
    const { violations, passes } = await this.page.evaluate(
      (values) => globalThis.axe.run(document, { runOnly: { type: 'tag', values } }),
      AXE_TAGS,
    );
    for (const { id, help, nodes } of violations) {
      for (const node of nodes) {
        this.faults.push(`${this.where()}: axe: ${id}: ${help}: ${node.html}: ${node.failureSummary}`);
      }
    }
    assert(passes.length > 10, `axe looked at nothing at ${this.page.url()}`);
  }

  // That nobody has to scroll sideways.
  async fits() {
    const [wide, screen, culprits] = await this.page.evaluate((more) => {
      const screen = document.documentElement.clientWidth;
      const beyond = [...document.body.querySelectorAll('*')].filter(
        (element) => element.getBoundingClientRect().right > screen + more,
      );
      return [document.documentElement.scrollWidth, screen, beyond.slice(0, 5).map((e) => e.outerHTML.slice(0, 200))];
    }, WIDER);
    if (wide > screen + WIDER) {
      this.faults.push(`${this.where()}: ${wide} wide on ${screen}: ${culprits}`);
    }
  }

  // A picture of the page as it is, the pages' main ones for the documentation.
  async picture(name) {
    const { width, scheme, script } = this.scene;
    if (!script) return;
    const file = path.join(this.setting.screenshots, `${name}-${width}-${scheme}.png`);
    await this.page.screenshot({ path: file, fullPage: true });
  }

  // What any page must be.
  async sound() {
    await this.axe();
    await this.fits();
  }

  // The page's path, less what differs from one run to the next.
  where() {
    return new URL(this.page.url()).pathname.replaceAll(/(tok|acc)_\w+/g, '$1');
  }
}

module.exports = { Visit };
