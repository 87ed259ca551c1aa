// Tokens that a company issued before, from their import to their end, by a client that loads proto/ as it runs.
//
//     TEST_CREDENTIAL=... node adoption.js ADDRESS ANOTHER
//
// The addresses are those of two plaintext servers with one store and the built-in catalogue, or twice the same.
// TEST_CREDENTIAL is an operator's. Prints a line for each thing that held, and stops with a status other than 0 at
// the first that did not.
'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const timers = require('node:timers/promises');
const { CODE, Caller, held, refused } = require('./story.js');

const IMPORTED = 1000;
const ADDRESS = '198.51.100.9';
const PATIENCE_MS = 30_000;

const digest = (secret) => crypto.createHash('sha256').update(secret).digest();

// Waits for something that happens by itself.
async function until(condition, what) {
  const end = Date.now() + PATIENCE_MS;
  while (!(await condition())) {
    assert(Date.now() < end, `did not happen: ${what}`);
    await timers.setTimeout(100);
  }
}

async function main(...addresses) {
  const operators = addresses.map((address) => new Caller(address, process.env.TEST_CREDENTIAL));
  const [operator] = operators;
  const { account } = await operator.call('CreateAccount', { name: 'Adoption', admin_emails: ['ada@example.com'] });

  // The reason, which must be the same at both servers.
  const decide = async (token, fields = {}) => {
    const request = { token, client_ip: ADDRESS, scope: 'transactions.read', ...fields };
    const [one, other] = await Promise.all(operators.map((each) => each.call('Authorize', request)));
    assert.equal(one.reason, other.reason);
    return one.reason;
  };

  // --- the import
  const issued = Array.from({ length: IMPORTED }, (_, n) => `legacy:${n}:${crypto.randomBytes(32).toString('base64url')}`);
  const items = issued.map((secret, n) => ({
    name: `legacy ${n}`,
    kind: 'TOKEN_KIND_READ_ONLY',
    secret_sha256: digest(secret),
  }));
  const request = { account_id: account.account_id, tokens: items };
  const { results } = await operator.call('ImportTokens', request);
  assert.equal(results.length, IMPORTED);
  assert(results.every((result) => result.result === 'token' && !result.already_existed));
  const ids = results.map((result) => result.token.token_id);
  const again = (await operator.call('ImportTokens', request)).results;
  assert.deepEqual(again.map((result) => [result.already_existed, result.token.token_id]), ids.map((id) => [true, id]));
  held('1,000 tokens are imported by the digests of their secrets, once');

  for (const n of [0, IMPORTED / 2, IMPORTED - 1]) assert.equal(await decide(issued[n]), 'REASON_ALLOWED');
  assert.equal(await decide(`secret-token:${issued[0]}`), 'REASON_ALLOWED');
  for (const string of [digest(issued[0]).toString('hex'), `${issued[0]}x`]) {
    assert.match(await decide(string), /^REASON_TOKEN_(NOT_FOUND|MALFORMED)$/);
  }
  held('they are found at both servers by their secrets alone; a digest is no token');

  const seen = async () => (await operator.call('GetToken', { token_id: ids[0] })).token;
  await until(async () => (await seen()).recent_addresses.length > 0, 'the address is recorded');
  assert.deepEqual((await seen()).recent_addresses.map((each) => each.address), [ADDRESS]);
  const counted = async () => (await operator.call('GetTokenUsage', { token_id: ids[0] })).days;
  await until(async () => (await counted()).reduce((sum, day) => sum + day.count, 0) === 4, 'the uses are counted');
  held('address and count are shown');

  // --- replacement
  const replaced = await operator.call('ReplaceToken', { token_id: ids[0], overlap: { seconds: 8 } });
  assert.equal(replaced.replaced_token.replaced_by_token_id, replaced.token.token_id);
  assert.deepEqual([await decide(issued[0]), await decide(replaced.secret)], ['REASON_ALLOWED', 'REASON_ALLOWED']);
  await refused(CODE.FAILED_PRECONDITION, operator, 'ReplaceToken', { token_id: ids[0] });
  const ended = (secret) => async () => (await decide(secret, { dry_run: true })) === 'REASON_TOKEN_EXPIRED';
  await until(ended(issued[0]), 'the replaced token ends');
  assert.equal(await decide(replaced.secret), 'REASON_ALLOWED');
  held('a replacement: both work in the overlap, then the successor alone');

  // --- expiry
  const soon = Date.now() + 8_000;
  const expire_time = { seconds: Math.floor(soon / 1000), nanos: (soon % 1000) * 1_000_000 };
  await operator.call('SetTokenExpiry', { token_id: ids[1], expire_time });
  assert.equal(await decide(issued[1]), 'REASON_ALLOWED');
  await until(ended(issued[1]), 'the expiry binds');
  held('an expiry binds at both servers');

  // --- a leak
  const reported = await operator.call('ReportLeakedTokens', {
    secrets: [replaced.secret],
    secret_sha256s: [digest(issued[2])],
  });
  const revoked = 'LEAK_REPORT_OUTCOME_REVOKED';
  assert.deepEqual(reported.results.map((result) => result.outcome), [revoked, revoked]);
  for (const secret of [replaced.secret, issued[2]]) assert.equal(await decide(secret), 'REASON_TOKEN_REVOKED_LEAKED');
  const refusedImport = await operator.call('ImportTokens', { account_id: account.account_id, tokens: [items[2]] });
  assert.equal(refusedImport.results[0].result, 'error');
  held("leaked tokens are denied at both servers when the report returns, and can't be imported again");

  for (const each of operators) each.close();
}

main(...process.argv.slice(2)).then(
  () => console.log('the whole story held'),
  (error) => {
    console.log(`VIOLATED  ${error.message}`);
    console.error(error);
    process.exit(1);
  },
);
