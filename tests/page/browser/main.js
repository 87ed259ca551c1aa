// Tells stories to a running server, with Debian's Chromium.
//
//     STORY='{"base": ...}' TEST_CHROMIUM=... node main.js STORY...
//
// Each story is a file beside this one and is told in each scene of the setting (tests/page/stories.rs).
// Prints a line for each that held, and for each that did not why. Ends with a status other than 0 where
// any did not.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { chromium } = require('playwright-core');
const { Visit } = require('./visit');

// Longer than all stories of one run take on a slow machine.
const PATIENCE_MS = 15 * 60_000;

async function main(stories) {
  const setting = JSON.parse(process.env.STORY);
  const executablePath = process.env.TEST_CHROMIUM;
  // Root may not use Chromium's sandbox; nothing but our own page is looked at.
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
  let violated = 0;
  try {
    for (const scene of setting.scenes) {
      for (const name of stories) {
        const story = require(path.join(__dirname, name));
        const visit = await Visit.begin(browser, setting, scene, name);
        try {
          await story(visit, setting, scene);
          visit.mustBeQuiet();
          console.log(`ok  ${name}, ${scene.label}`);
        } catch (fault) {
          console.log(`VIOLATED  ${name}, ${scene.label}: ${fault.message}`);
          console.log(fault.stack);
          await visit.leaveEvidence(setting.evidence);
          violated += 1;
        } finally {
          await visit.end();
        }
      }
    }
  } finally {
    await browser.close();
  }
  if (violated > 0) throw new Error(`${violated} did not hold`);
}

const watchdog = setTimeout(() => {
  console.log(`VIOLATED  no end after ${PATIENCE_MS} ms`);
  process.exit(1);
}, PATIENCE_MS);

main(process.argv.slice(2)).then(
  () => {
    clearTimeout(watchdog);
    // Written before the process ends, also where it is a pipe.
    fs.writeSync(1, 'the whole story held\n');
    process.exit(0);
  },
  (fault) => {
    console.error(fault);
    process.exit(1);
  },
);
