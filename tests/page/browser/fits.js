// That mails fit a telephone: opens each HTML file of a directory at several widths.
//
//     TEST_CHROMIUM=... node fits.js DIRECTORY
//
// Prints a line for each that does not fit, and ends with a status other than 0 then. Pictures are left beside
// the files.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { chromium } = require('playwright-core');

const WIDTHS = [320, 360, 1280];

async function main(directory) {
  const executablePath = process.env.TEST_CHROMIUM;
  // Root may not use Chromium's sandbox; nothing but our own mails is looked at.
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
  const files = fs.readdirSync(directory).filter((name) => name.endsWith('.html'));
  let wide = 0;
  for (const width of WIDTHS) {
    // As mail programs on telephones do: no script, and the page is as wide as the screen.
    const context = await browser.newContext({ viewport: { width, height: 740 } });
    const page = await context.newPage();
    for (const name of files) {
      await page.goto(`file://${path.join(directory, name)}`);
      const found = await page.evaluate(() => {
        const root = document.documentElement;
        const wider = [...document.querySelectorAll('body *')].filter(
          (element) =>
            element.getBoundingClientRect().right > root.clientWidth + 1 ||
            element.scrollWidth > element.clientWidth + 1,
        );
        const texts = wider.filter((element) => getComputedStyle(element).display !== 'inline');
        return {
          root: [root.scrollWidth, root.clientWidth],
          wider: texts.map((element) => `${element.tagName} ${element.textContent.slice(0, 40)}`),
        };
      });
      if (found.root[0] > found.root[1] || found.wider.length > 0) {
        console.log(`VIOLATED  ${name} at ${width} px: ${JSON.stringify(found)}`);
        wide += 1;
      }
      const picture = path.join(directory, `${path.basename(name, '.html')}-${width}.png`);
      await page.screenshot({ path: picture, fullPage: true });
    }
    await context.close();
  }
  await browser.close();
  console.log(`${files.length} mails at ${WIDTHS.length} widths`);
  if (wide > 0) throw new Error(`${wide} did not fit`);
}

main(process.argv[2]).then(
  () => process.exit(0),
  (fault) => {
    console.error(fault);
    process.exit(1);
  },
);
