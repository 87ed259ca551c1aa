//! Portcullis: a gRPC policy decision point for API tokens.
//!
//! A service asks, per request, whether *this token, from this address, may do this operation*. The
//! answer is computed from facts in memory; the store behind them is SQLite or Postgres. The rules
//! are in `docs/policy.md`, the way through the code is in `docs/architecture.md`, the contract in
//! `proto/`.
//!
//! # The map
//!
//! What decides and keeps, each importing only what stands above it:
//!
//! - [`policy`]: the rules, pure: scopes, routes, tokens, networks, clients of gateways, and the decision itself.
//! - [`audit`]: the hash chain over audit events: hashing, exports and their verification, evidence.
//! - [`secret`]: how the secrets of tokens and credentials are written, made and checked.
//! - [`lease`]: who may decide from memory and whom a change waits for, where many replicas share a
//!   store: pure as well.
//! - [`model`]: what is kept and shown: accounts, tokens, credentials, audit events, mails, as plain values.
//! - [`store`]: what is kept: a trait of whole use cases for each aggregate, written once for two databases.
//! - [`cache`]: what decisions are made from, in memory, and how it follows the store.
//! - [`replication`]: how this process stands to others over the same store: its lease, and whether changes
//!   have propagated to all of them.
//! - [`writes`]: how everything above the store changes it: commit, and make memory follow.
//! - [`usage`]: what was used, merged in memory and written behind.
//! - [`decision_log`]: a line for each denial and for a share of the allows, written by a thread of its own.
//! - [`mail`]: the notifications to admins, and the relay that carries them; it stands beside the store.
//! - [`lifecycle`]: what downgrades and deletes unused tokens: the sweeper, the outbox, and their status.
//! - [`webhooks`]: sends lifecycle and security events to receivers that operators name, from the audit record.
//! - [`service`]: the use cases, one method a call, and who may make it.
//! - [`grpc`]: messages to domain values and back, the gate, and the server.
//! - [`gateway`]: what gateways ask over HTTP, and the answers for their clients.
//! - [`web`]: the management page.
//! - [`alerts`]: signed alerts of publishers that secrets leaked.
//! - [`http`]: the listener of the page, and metrics and health for operators' tools.
//! - [`app`]: the only wiring, and the order of start and end.
//!
//! What serves them all:
//!
//! - [`config`]: every setting; nothing else reads the environment.
//! - [`clock`]: the store's time, carried forward by a monotonic clock.
//! - [`net`]: listeners and TLS.
//! - [`pem`]: certificates and keys in files, and what is wrong with them.
//! - [`files`]: files that settings name, read with a bound.
//! - [`html`]: how templates escape text.
//! - [`failpoint`]: errors planted to see that the tests find them; not in what is deployed.
//! - [`shutdown`]: tasks that can't die silently, signals, and how the process ends.
//! - [`telemetry`]: logs, metrics, traces, and the ids of requests.
//!
//! And beside the server, knowing it by its contract alone:
//!
//! - [`cli`]: the `portcullis` command.
//!
//! # What must stay true
//!
//! - Imports run one way: `tests/layers.rs` has the table and checks it.
//! - [`policy`] is pure. Every rule about tokens is decided there and nowhere else.
//! - A denial is a value. An error means that no decision was reached, and its caller must deny.
//! - Facts are cached, decisions never. Once a change is answered, no decision rests on what was
//!   before it, on any replica; one whose lease ran out decides nothing.
//! - A decision on a token in the near cache waits for nothing and changes no thread. The one lock that it may take, to
//!   note a use or a denial, is taken for a moment, and rarely. Logging it waits for no lock.
//! - A change is one transaction with its audit event and its change record.
//! - A page changes nothing but what a form of a live session asks for; what people chose is text there.
//! - Nothing is taken that was not announced, to every admin, a whole notice period before; a use that
//!   cancels it is on disk before it is answered.
//! - Only digests of secrets are kept, and the secrets of webhooks not at all; no secret is in a log line, an
//!   error, a metric or a `Debug`.
//! - Time is the store's, and empty never means "any".
pub mod alerts;
pub mod app;
pub mod audit;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decision_log;
pub mod failpoint;
pub mod files;
pub mod gateway;
pub mod grpc;
pub mod html;
pub mod http;
pub mod lease;
pub mod lifecycle;
pub mod mail;
pub mod model;
pub mod net;
pub mod pem;
pub mod policy;
pub mod replication;
pub mod secret;
pub mod service;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod usage;
pub mod web;
pub mod webhooks;
pub mod writes;
