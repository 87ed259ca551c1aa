//! PLACEHOLDER for the wiring of the server: the functions that `main` calls.

use anyhow::bail;

use crate::config::server::{FirstCredentialArgs, MigrateArgs, ServeArgs};
use crate::grpc::proto;

/// Runs a server until it is told to stop. Starts its own runtime.
///
/// # Errors
/// A fault of the settings, or whatever stopped it early.
pub fn serve(_args: ServeArgs) -> anyhow::Result<()> {
    bail!("the server is not part of this build")
}

/// Brings the store to this version. Starts its own runtime.
///
/// # Errors
/// A fault of the settings or the store.
pub fn migrate(_args: MigrateArgs) -> anyhow::Result<()> {
    bail!("the server is not part of this build")
}

/// Opens the store and makes its first credential, of role operator.
///
/// # Errors
/// When the store has a credential, is in use, or is out of reach.
#[allow(clippy::unused_async)]
pub async fn create_first_credential(
    _args: FirstCredentialArgs,
) -> anyhow::Result<proto::CreateCredentialResponse> {
    bail!("the server is not part of this build")
}
