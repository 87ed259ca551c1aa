//! Gateways that ask over HTTP (docs/policy.md, section 9): the real server through its sockets.

mod authzen;
mod client_certificates;
mod connections;
mod differential;
mod ext_authz;
mod forward_auth;
mod http1;
mod own_calls;
mod stage;
