// The life of a few tokens, told by a client that loads proto/ as it runs.
//
//     TEST_CREDENTIAL=... TEST_UNKNOWN_TOKEN=... node story.js ADDRESS
//
// ADDRESS is a plaintext server with the built-in catalogue. TEST_CREDENTIAL is an operator's;
// TEST_UNKNOWN_TOKEN is a well-formed secret that this server never made. Prints a line for each
// thing that held, and stops with a status other than 0 at the first that did not.
'use strict';

const assert = require('node:assert/strict');
const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const PROTO = path.resolve(__dirname, '../../../proto');
const DEADLINE_MS = 20_000;
const CODE = grpc.status;
const SERVICES = {
  AuthorizationService: 'authorization_service',
  TokenService: 'token_service',
  AccountService: 'account_service',
  CatalogService: 'catalog_service',
  CredentialService: 'credential_service',
  SelfService: 'self_service',
};

const v1 = grpc.loadPackageDefinition(
  loader.loadSync(
    Object.values(SERVICES).map((file) => `portcullis/v1/${file}.proto`),
    { includeDirs: [PROTO], keepCase: true, enums: String, longs: Number, defaults: true, oneofs: true },
  ),
).portcullis.v1;

const root = new protobuf.Root();
root.resolvePath = (_, target) => path.join(PROTO, target);
const Status = root.loadSync('google/rpc/status.proto', { keepCase: true }).lookupType('google.rpc.Status');

// The details that Portcullis sends, as google/rpc/error_details.proto has them.
const details = protobuf.parse(
  `syntax = "proto3";
   package google.rpc;
   message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
   message BadRequest {
     message FieldViolation { string field = 1; string description = 2; }
     repeated FieldViolation field_violations = 1;
   }
   message PreconditionFailure {
     message Violation { string type = 1; string subject = 2; string description = 3; }
     repeated Violation violations = 1;
   }`,
  { keepCase: true },
).root;

function held(what) {
  console.log(`ok  ${what}`);
}

// Every service, called with one credential, or with none.
class Caller {
  constructor(address, credential) {
    this.credential = credential;
    this.clients = Object.keys(SERVICES).map(
      (name) => new v1[name](address, grpc.credentials.createInsecure()),
    );
  }

  metadata() {
    const metadata = new grpc.Metadata();
    if (this.credential !== undefined) metadata.set('authorization', `Bearer ${this.credential}`);
    return metadata;
  }

  client(call) {
    const client = this.clients.find((candidate) => typeof candidate[call] === 'function');
    assert(client, `no service has ${call}`);
    return client;
  }

  call(call, request) {
    return new Promise((resolve, reject) => {
      const options = { deadline: Date.now() + DEADLINE_MS };
      this.client(call)[call](request, this.metadata(), options, (error, answer) =>
        error ? reject(error) : resolve(answer),
      );
    });
  }

  stream(call, requests) {
    return new Promise((resolve, reject) => {
      const answers = [];
      const stream = this.client(call)[call](this.metadata(), { deadline: Date.now() + DEADLINE_MS });
      stream.on('data', (answer) => answers.push(answer));
      stream.on('error', reject);
      stream.on('end', () => resolve(answers));
      for (const request of requests) stream.write(request);
      stream.end();
    });
  }

  close() {
    for (const client of this.clients) client.close();
  }
}

// The details of a google.rpc.Status whose `details` are Any messages.
function refusal(status) {
  const found = { message: status.message, violations: [], preconditions: [], info: null };
  for (const detail of status.details) {
    const name = detail.type_url.replace(/^.*\//, '');
    const type = details.lookup(name);
    if (!type) continue;
    const message = type.decode(detail.value);
    if (name === 'google.rpc.BadRequest') found.violations.push(...message.field_violations);
    if (name === 'google.rpc.PreconditionFailure') found.preconditions.push(...message.violations);
    if (name === 'google.rpc.ErrorInfo') found.info = message;
  }
  found.text = [found.message, ...[...found.violations, ...found.preconditions].map((v) => v.description)].join('\n');
  return found;
}

// Checks that each of `fields`, or an element of it, is among the bad ones.
function names(refused, ...fields) {
  const bad = refused.violations.map((violation) => violation.field);
  for (const field of fields) {
    assert(
      bad.some((name) => name === field || name.endsWith(`.${field}`) || name.includes(`${field}[`)),
      `no violation names '${field}': ${JSON.stringify(bad)}`,
    );
  }
  for (const violation of refused.violations) assert(violation.description, `no description for ${violation.field}`);
}

// Makes a call that must fail with one of `codes`; every error says why to a machine.
async function refused(codes, caller, call, request) {
  let answer;
  try {
    answer = await caller.call(call, request);
  } catch (error) {
    const wanted = [codes].flat().map((code) => CODE[code]);
    assert([codes].flat().includes(error.code), `${call}: got ${CODE[error.code]} (${error.details}), wanted ${wanted}`);
    const [bytes] = error.metadata.get('grpc-status-details-bin');
    assert(bytes, `${call}: an error without details`);
    const status = Status.decode(bytes);
    assert.equal(status.code, error.code, 'the code within the details');
    const found = refusal(status);
    assert(found.info?.reason, `${call}: an error without ErrorInfo`);
    return found;
  }
  throw new assert.AssertionError({ message: `${call}: wanted a refusal, got ${JSON.stringify(answer)}` });
}

// One item of a batch or a stream that is an error of its own.
function isItemError(item, code, ...fields) {
  assert.equal(item.result, 'error');
  assert.equal(item.error.code, code);
  names(refusal(item.error), ...fields);
}

async function main(address) {
  const operator = new Caller(address, process.env.TEST_CREDENTIAL);
  const callers = [operator];
  const as = (credential) => {
    const caller = new Caller(address, credential);
    callers.push(caller);
    return caller;
  };

  // --- the catalogue
  const catalog = await operator.call('GetCatalog', {});
  const scopes = new Map(catalog.scopes.map((scope) => [scope.name, scope]));
  const nature = (name) => [scopes.get(name).access, scopes.get(name).requires_whitelist];
  assert.deepEqual(nature('transactions.read'), ['ACCESS_READ', false]);
  assert.deepEqual(nature('cards.reveal'), ['ACCESS_WRITE', true]);
  assert.deepEqual(nature('transactions.send'), ['ACCESS_WRITE', true]);
  assert(scopes.get('cards.reveal').routes.includes('GET /api/v1/cards/{card_id}/reveal'));
  held('the catalogue: reading is not the same as GET');

  // --- an account
  const admins = ['ada@example.com', 'grace@example.com'];
  const { account } = await operator.call('CreateAccount', { name: 'Node story', admin_emails: admins });
  assert(account.account_id);
  assert.equal(account.name, 'Node story');
  assert.deepEqual(account.admin_emails, admins);
  assert.deepEqual((await operator.call('GetAccount', { account_id: account.account_id })).account, account);
  held('an account is created and reads back');

  names(await refused(CODE.INVALID_ARGUMENT, operator, 'CreateAccount', {}), 'name', 'admin_emails');
  held('BadRequest names all bad fields, not the first');

  // --- tokens
  const create = async (fields) => {
    const { token, secret } = await operator.call('CreateToken', { account_id: account.account_id, ...fields });
    assert(token.token_id);
    assert.equal(token.account_id, account.account_id);
    assert.equal(token.state, 'TOKEN_STATE_ACTIVE');
    assert(secret.startsWith('pcl'), 'the secret lacks its prefix');
    assert(!JSON.stringify(token).includes(secret), 'the token shows its secret');
    return [token, secret];
  };

  const [writer, writerSecret] = await create({
    name: 'writer',
    kind: 'TOKEN_KIND_READ_WRITE',
    whitelist: ['192.0.2.1/32', '198.51.100.0/24, 2001:DB8:0::/48', '::ffff:203.0.113.8'],
  });
  assert.equal(writer.kind, 'TOKEN_KIND_READ_WRITE');
  assert.deepEqual(
    [...writer.whitelist].sort(),
    ['192.0.2.1', '198.51.100.0/24', '2001:db8::/48', '203.0.113.8'],
  );
  assert.deepEqual([...writer.granted_scopes].sort(), [...scopes.keys()].sort());
  held('a READ_WRITE token, its whitelist in canonical form');

  const [custom, customSecret] = await create({
    name: 'custom',
    kind: 'TOKEN_KIND_CUSTOM',
    scopes: ['cards.reveal'],
    whitelist: ['203.0.113.0/24'],
  });
  assert.deepEqual(custom.granted_scopes, ['cards.reveal']);
  held('a CUSTOM token');

  const [reader, readerSecret] = await create({ name: 'reader', kind: 'TOKEN_KIND_READ_ONLY' });
  assert.deepEqual(
    [...reader.granted_scopes].sort(),
    [...scopes.values()].filter((scope) => scope.access === 'ACCESS_READ').map((scope) => scope.name).sort(),
  );
  assert.deepEqual(reader.whitelist, []);
  held('a READ_ONLY token');

  const rule = [CODE.INVALID_ARGUMENT, CODE.FAILED_PRECONDITION];
  const token = { account_id: account.account_id, name: 'x' };
  await refused(rule, operator, 'CreateToken', { ...token, kind: 'TOKEN_KIND_READ_WRITE' });
  await refused(rule, operator, 'CreateToken', { ...token, kind: 'TOKEN_KIND_CUSTOM', scopes: ['transactions.send'] });
  held('no token that needs a whitelist without one');

  const bad = await refused(CODE.INVALID_ARGUMENT, operator, 'CreateToken', {
    ...token,
    kind: 'TOKEN_KIND_READ_WRITE',
    whitelist: ['192.0.2.1', '10.0.0.5/24', '010.0.0.1'],
  });
  names(bad, 'whitelist');
  for (const part of ['10.0.0.5/24', '10.0.0.0/24', '10.0.0.5/32', '010.0.0.1']) {
    assert(bad.text.includes(part), `the refusal does not speak of ${part}: ${bad.text}`);
  }
  held('a bad whitelist entry is named with its cure, and so is the next one');

  // --- whitelists
  const whitelist = (of, fields = {}) => operator.call('ManageWhitelist', { token_id: of.token_id, ...fields });
  const refusedWhitelist = (codes, of, fields) =>
    refused(codes, operator, 'ManageWhitelist', { token_id: of.token_id, ...fields });

  const before = await whitelist(writer);
  assert.deepEqual([...before.entries].sort(), [...writer.whitelist].sort());
  assert.equal(before.version, writer.whitelist_version);
  const same = await whitelist(writer, { add: ['192.0.2.1'] });
  assert.deepEqual([same.entries, same.version], [before.entries, before.version]);
  held('a whitelist is a set: adding what is present changes nothing');

  const tried = await whitelist(writer, { add: ['192.0.2.0/28'], validate_only: true });
  assert(tried.entries.includes('192.0.2.0/28'));
  assert.equal((await whitelist(writer)).version, before.version);
  held('validate_only shows the change and makes none');

  const added = await whitelist(writer, { add: ['192.0.2.0/28'], expected_version: before.version });
  assert.deepEqual([...added.entries].sort(), [...before.entries, '192.0.2.0/28'].sort());
  assert(added.version > before.version);
  held('adding');

  await refusedWhitelist(CODE.ABORTED, writer, { add: ['192.0.2.99'], expected_version: before.version });
  assert.equal((await whitelist(writer)).version, added.version);
  held('a stale expected_version is ABORTED and changes nothing');

  const removed = await whitelist(writer, { remove: ['192.0.2.1'] });
  assert(!removed.entries.includes('192.0.2.1'));
  assert.deepEqual(removed.still_covered_by, ['192.0.2.0/28']);
  assert(removed.propagation.complete, 'a narrowing call answered before its change was bound');
  held('removing names what still covers the address, and is bound when it returns');

  const absentEntry = await refusedWhitelist(
    [CODE.INVALID_ARGUMENT, CODE.FAILED_PRECONDITION, CODE.NOT_FOUND],
    writer,
    { remove: ['192.0.2.1'] },
  );
  assert(absentEntry.text.includes('192.0.2.1'), absentEntry.text);
  held('removing what is absent is refused, naming it');

  const kept = ['198.51.100.0/24', '2001:db8::/48'];
  const replaced = await whitelist(writer, { replace: { entries: kept } });
  assert.deepEqual([...replaced.entries].sort(), kept);
  held('replacing');

  const last = await refusedWhitelist(CODE.FAILED_PRECONDITION, writer, { remove: kept });
  assert(last.preconditions.length > 0, 'no PreconditionFailure');
  assert(last.preconditions.every((violation) => violation.type && violation.description));
  await refusedWhitelist(CODE.FAILED_PRECONDITION, writer, { replace: { allow_any_address: true } });
  assert.equal((await whitelist(writer)).version, replaced.version);
  held("a READ_WRITE token can't be left without a whitelist: PreconditionFailure says so");

  await whitelist(reader, { add: ['192.0.2.5'] });
  await refusedWhitelist(rule, reader, { remove: ['192.0.2.5'] });
  await refusedWhitelist(rule, reader, { replace: {} });
  assert.deepEqual((await whitelist(reader, { replace: { allow_any_address: true } })).entries, []);
  held('lifting a restriction takes allow_any_address');

  // --- decisions
  const decide = (request) => operator.call('Authorize', request);
  const allowed = (answer, of, scope, entry) => {
    assert.equal(answer.decision, 'DECISION_ALLOW', answer.message);
    assert.equal(answer.reason, 'REASON_ALLOWED');
    assert.equal(answer.token_id, of.token_id);
    assert.equal(answer.account_id, account.account_id);
    assert.equal(answer.required_scope, scope);
    assert.equal(answer.matched_entry, entry);
    assert.equal(answer.pending_action, null);
  };
  const denied = (answer, reason, ...named) => {
    assert.equal(answer.decision, 'DECISION_DENY');
    assert.equal(answer.reason, reason, answer.message);
    assert(answer.message, 'a denial without a message');
    assert.equal(answer.matched_entry, '');
    for (const part of named) assert(answer.message.includes(part), `does not name ${part}: ${answer.message}`);
  };

  const http = (method, target) => ({ method, path: target });
  const revealed = http('GET', '/api/v1/cards/42/reveal');
  allowed(
    await decide({ token: writerSecret, client_ip: '198.51.100.9', scope: 'transactions.send' }),
    writer, 'transactions.send', '198.51.100.0/24',
  );
  allowed(
    await decide({ token: writerSecret, client_ip: '::ffff:198.51.100.9', scope: 'cards.reveal' }),
    writer, 'cards.reveal', '198.51.100.0/24',
  );
  allowed(
    await decide({ token: writerSecret, client_ip: '2001:db8::77', scope: 'transactions.read', dry_run: true }),
    writer, 'transactions.read', '2001:db8::/48',
  );
  allowed(
    await decide({ token: customSecret, client_ip: '203.0.113.7', http: revealed }),
    custom, 'cards.reveal', '203.0.113.0/24',
  );
  allowed(
    await decide({ token: customSecret, client_ip: '203.0.113.7', http: http('HEAD', '/api/v1/cards/4%31/reveal?full=1') }),
    custom, 'cards.reveal', '203.0.113.0/24',
  );
  allowed(await decide({ token: readerSecret, scope: 'transactions.read' }), reader, 'transactions.read', '');
  held('allowed: by scope, by route, IPv4, IPv6, IPv4-mapped, dry run');

  for (const string of ['', 'something else', 'pcl_', 'x'.repeat(4096), writerSecret.slice(0, -1)]) {
    const answer = await decide({ token: string, client_ip: '198.51.100.9', scope: 'transactions.read' });
    denied(answer, 'REASON_TOKEN_MALFORMED');
    assert.deepEqual([answer.token_id, answer.account_id], ['', '']);
    assert(string.length < 5 || !answer.message.includes(string), 'the message repeats the string');
  }
  held('REASON_TOKEN_MALFORMED');

  denied(
    await decide({ token: process.env.TEST_UNKNOWN_TOKEN, client_ip: '198.51.100.9', scope: 'transactions.read' }),
    'REASON_TOKEN_NOT_FOUND',
  );
  held('REASON_TOKEN_NOT_FOUND');

  for (const [method, target] of [
    ['GET', '/api/v1/nowhere'],
    ['POST', '/api/v1/cards/42/reveal'],
    ['get', '/api/v1/cards/42/reveal'],
    ['GET', '/api/v1/cards/42/reveal/'],
    ['GET', '/api/v1/cards//reveal'],
    ['GET', '/api/v1/cards/../cards/42/reveal'],
    ['GET', '/api/v1/cards/4%2F2/reveal'],
  ]) {
    denied(
      await decide({ token: customSecret, client_ip: '203.0.113.7', http: http(method, target) }),
      'REASON_NO_MATCHING_ROUTE',
    );
  }
  held('REASON_NO_MATCHING_ROUTE');

  const ungranted = await decide({ token: readerSecret, client_ip: '203.0.113.7', http: revealed });
  denied(ungranted, 'REASON_SCOPE_NOT_GRANTED', 'cards.reveal');
  assert.equal(ungranted.required_scope, 'cards.reveal');
  assert.equal(ungranted.token_id, reader.token_id);
  denied(await decide({ token: customSecret, scope: 'transactions.send' }), 'REASON_SCOPE_NOT_GRANTED', 'transactions.send');
  held('REASON_SCOPE_NOT_GRANTED, before the address is looked at');

  denied(await decide({ token: writerSecret, scope: 'transactions.read' }), 'REASON_CLIENT_IP_MISSING');
  held('REASON_CLIENT_IP_MISSING, for reads too');

  denied(
    await decide({ token: writerSecret, client_ip: '203.0.113.200', scope: 'transactions.read' }),
    'REASON_CLIENT_IP_NOT_WHITELISTED',
    '203.0.113.200',
  );
  held('REASON_CLIENT_IP_NOT_WHITELISTED');

  names(
    await refused(CODE.INVALID_ARGUMENT, operator, 'Authorize', { token: readerSecret, client_ip: '192.0.2.300', scope: 'no.such.scope' }),
    'client_ip', 'scope',
  );
  assert((await refused(CODE.INVALID_ARGUMENT, operator, 'Authorize', { token: readerSecret })).violations.length > 0);
  held('malformed arguments are INVALID_ARGUMENT');

  // --- several at once
  const questions = [
    { token: readerSecret, scope: 'transactions.read' },
    { token: readerSecret, client_ip: 'nowhere', scope: 'transactions.read' },
    { token: readerSecret, scope: 'transactions.send' },
    { token: writerSecret, client_ip: '198.51.100.9', scope: 'transactions.send' },
  ];
  const answered = (items) => {
    assert.equal(items.length, 4);
    allowed(items[0].response, reader, 'transactions.read', '');
    isItemError(items[1], CODE.INVALID_ARGUMENT, 'client_ip');
    denied(items[2].response, 'REASON_SCOPE_NOT_GRANTED', 'transactions.send');
    allowed(items[3].response, writer, 'transactions.send', '198.51.100.0/24');
  };
  answered((await operator.call('BatchAuthorize', { requests: questions })).results);
  held('a batch: one bad item is its own error');

  const requests = Array(1000).fill(questions[0]);
  assert.equal((await operator.call('BatchAuthorize', { requests })).results.length, 1000);
  names(
    await refused(CODE.INVALID_ARGUMENT, operator, 'BatchAuthorize', { requests: [...requests, questions[0]] }),
    'requests',
  );
  held('a batch of 1,000, and no more');

  answered(await operator.stream('StreamAuthorize', questions.map((request) => ({ request }))));
  held('a stream goes on after a bad item, in order');

  // --- lists
  const wanted = [writer.token_id, custom.token_id, reader.token_id];
  for (const name of ['extra 0', 'extra 1']) {
    wanted.push((await create({ name, kind: 'TOKEN_KIND_READ_ONLY' }))[0].token_id);
  }
  const seen = [];
  let page = '';
  do {
    const answer = await operator.call('ListTokens', { account_id: account.account_id, page_size: 2, page_token: page });
    assert(answer.tokens.length <= 2);
    seen.push(...answer.tokens.map((listed) => listed.token_id));
    page = answer.next_page_token;
  } while (page && seen.length < 10);
  assert.deepEqual(seen, wanted);
  names(
    await refused(CODE.INVALID_ARGUMENT, operator, 'ListTokens', { account_id: account.account_id, page_token: 'not a page' }),
    'page_token',
  );
  held('lists in pages, the oldest first');

  const other = (id) => id.slice(0, -1) + (id.endsWith('0') ? '1' : '0');
  const absent = other(account.account_id);
  assert.deepEqual((await operator.call('ListTokens', { account_id: absent })).tokens, []);
  assert.deepEqual((await operator.call('ListPendingActions', { account_id: account.account_id })).pending_actions, []);
  const { audit_events: events } = await operator.call('ListAuditEvents', { account_id: account.account_id });
  const positions = events.map((event) => event.revision);
  assert(positions.length >= 10, `audit events: ${positions.length}`);
  assert.deepEqual(positions, [...positions].sort((a, b) => b - a));
  assert(!JSON.stringify(events).includes(writerSecret), 'the audit record shows a secret');
  held('list filters never answer NOT_FOUND; the audit record is there');

  // --- who may
  for (const caller of [as(undefined), as('0123456789abcdef'.repeat(4))]) {
    await refused(CODE.UNAUTHENTICATED, caller, 'Authorize', questions[0]);
    await refused(CODE.UNAUTHENTICATED, caller, 'CreateAccount', {});
  }
  held('UNAUTHENTICATED');

  const made = await operator.call('CreateCredential', { role: 'ROLE_PEP', name: 'node story' });
  const pep = as(made.secret);
  allowed(await pep.call('Authorize', questions[0]), reader, 'transactions.read', '');
  await refused(CODE.PERMISSION_DENIED, pep, 'CreateAccount', { name: 'x', admin_emails: ['a@example.com'] });
  await refused(CODE.PERMISSION_DENIED, pep, 'GetToken', { token_id: writer.token_id });
  await refused(CODE.PERMISSION_DENIED, pep, 'ListCredentials', {});
  held('PERMISSION_DENIED: a pep only decides');

  const adminSecret = (
    await operator.call('CreateCredential', { role: 'ROLE_ACCOUNT_ADMIN', account_id: account.account_id })
  ).secret;
  const admin = as(adminSecret);
  assert.equal((await admin.call('GetToken', { token_id: writer.token_id })).token.name, 'writer');
  const another = (await operator.call('CreateAccount', { name: 'Another', admin_emails: ['eve@example.com'] })).account;
  await refused([CODE.NOT_FOUND, CODE.PERMISSION_DENIED], admin, 'CreateToken', {
    account_id: another.account_id,
    name: 'x',
    kind: 'TOKEN_KIND_READ_ONLY',
  });
  held('an account admin reaches one account');

  const revoked = await operator.call('RevokeCredential', { credential_id: made.credential.credential_id });
  assert(revoked.propagation.complete, 'a revocation answered before it was bound');
  await refused(CODE.UNAUTHENTICATED, pep, 'Authorize', questions[0]);
  held('a revoked credential is UNAUTHENTICATED at once');

  // --- the end
  const deleted = await operator.call('DeleteToken', { token_id: custom.token_id });
  assert.equal(deleted.token.state, 'TOKEN_STATE_DELETED');
  assert(deleted.propagation.complete, 'a deletion answered before it was bound');
  const gone = await decide({ token: customSecret, client_ip: '203.0.113.7', http: revealed });
  denied(gone, 'REASON_TOKEN_DELETED');
  assert.equal(gone.token_id, custom.token_id);
  assert((await operator.call('DeleteToken', { token_id: custom.token_id })).propagation.complete);
  const left = (await operator.call('ListTokens', { account_id: account.account_id })).tokens;
  assert.deepEqual(left.map((listed) => listed.token_id), wanted.filter((id) => id !== custom.token_id));
  held('REASON_TOKEN_DELETED, as soon as the deletion returns; deleting twice succeeds');

  const missing = { token_id: other(custom.token_id) };
  for (const call of ['GetToken', 'DeleteToken', 'ManageWhitelist']) {
    await refused(CODE.NOT_FOUND, operator, call, missing);
  }
  await refused(CODE.NOT_FOUND, operator, 'CreateToken', { ...token, account_id: absent, kind: 'TOKEN_KIND_READ_ONLY' });
  held('NOT_FOUND for ids that a call acts on');

  for (const caller of callers) caller.close();
}

module.exports = { CODE, Caller, held, refused };

if (require.main === module) {
  main(process.argv[2]).then(
    () => console.log('the whole story held'),
    (error) => {
      console.log(`VIOLATED  ${error.message}`);
      console.error(error);
      process.exit(1);
    },
  );
}
