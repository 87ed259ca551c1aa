//! What the process asks of the system at its start: descriptors for its connections, and privacy for its memory.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::grpc::connections::CONNECTIONS;
use crate::{config, gateway, http};

const _: () = assert!(config::server::MAX_CONNECTIONS == CONNECTIONS as u64);

/// Descriptors for everything that is no client's connection: the store, the mail server, files.
const OTHERS: usize = 256;

/// How many connections the descriptors of this process are enough for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// For gRPC.
    pub grpc: usize,
    /// For HTTP.
    pub http: usize,
    /// For gateways over HTTP.
    pub gateway: usize,
}

impl Descriptors {
    /// Raises the limit of open files as far as the system allows, and fits the connections to it: so neither
    /// listener ever takes the last descriptor from the other, or from the store.
    pub(super) fn raise() -> Self {
        let limit = rlimit::increase_nofile_limit(u64::MAX).or_else(|error| {
            tracing::warn!(%error, "cannot raise the limit of open files");
            rlimit::getrlimit(rlimit::Resource::NOFILE).map(|(soft, _)| soft)
        });
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let fitted = Self::within(limit);
        if fitted != Self::within(usize::MAX) {
            tracing::warn!(
                limit,
                needed = CONNECTIONS + http::CONNECTIONS + gateway::CONNECTIONS + OTHERS,
                "the limit of open files is too low for all connections: {} for gRPC instead of \
                 {CONNECTIONS}, {} for HTTP instead of {}, {} for gateways instead of {}; raise it (ulimit -n, \
                 LimitNOFILE)",
                fitted.grpc,
                fitted.http,
                http::CONNECTIONS,
                fitted.gateway,
                gateway::CONNECTIONS,
            );
        }
        fitted
    }

    fn within(limit: usize) -> Self {
        let http = http::CONNECTIONS.min(limit / 4);
        let gateway = gateway::CONNECTIONS.min(limit / 8);
        let others = OTHERS.min(limit / 8);
        let rest = limit - http - gateway - others;
        Self { grpc: CONNECTIONS.min(rest).max(1), http: http.max(1), gateway: gateway.max(1) }
    }
}

/// Keeps other processes of the same user from reading the memory of this one, which has secrets in it, and
/// the system from writing it to disk. Core dumps are off for the processes that this one might start, too.
/// Rule 7.10 of docs/policy.md.
pub(super) fn keep_memory_private() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "cannot keep other processes from reading this one's memory");
    }
    if let Err(error) = rlimit::setrlimit(rlimit::Resource::CORE, 0, 0) {
        tracing::warn!(%error, "cannot switch core dumps off");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_private() {
        keep_memory_private();
        let behavior = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(behavior, DumpableBehavior::NotDumpable);
        assert_eq!(rlimit::getrlimit(rlimit::Resource::CORE).unwrap(), (0, 0));
    }

    #[test]
    fn connections_fit_the_descriptors() {
        assert_eq!(
            Descriptors::within(1_048_576),
            Descriptors {
                grpc: CONNECTIONS,
                http: http::CONNECTIONS,
                gateway: gateway::CONNECTIONS
            }
        );
        let documented = include_str!("../../docs/operations.md");
        let needed = CONNECTIONS + http::CONNECTIONS + gateway::CONNECTIONS + OTHERS;
        let needed = format!("It needs {},{:03} for", needed / 1_000, needed % 1_000);
        assert!(documented.contains(&needed), "docs/operations.md lacks: {needed}");
        for limit in [16, 64, 256, 1_024, 4_096, 16_384, 18_687] {
            let Descriptors { grpc, http, gateway } = Descriptors::within(limit);
            let clients = grpc + http + gateway;
            assert!(clients + OTHERS.min(limit / 8) <= limit, "{limit}: {grpc}, {http}, {gateway}");
            assert!(grpc >= limit / 2 && http >= limit.min(4_096) / 4, "{limit}: {grpc}, {http}");
        }
    }
}
