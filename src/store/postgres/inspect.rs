//! A look at the database, for `portcullis doctor`.

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

use super::{MIGRATIONS, NOW, OpenError, PostgresOptions, address, read_url, timed_out};
use crate::policy::time::Timestamp;
use crate::store::inspection::{Inspection, migrations};

const FACTS: &str = "\
    SELECT current_setting('server_version'), pg_is_in_recovery(), \
        current_setting('fsync') = 'off' OR current_setting('full_page_writes') = 'off', \
        COALESCE(has_schema_privilege(current_schema(), 'CREATE'), false), \
        (SELECT count(*) FROM pg_tables WHERE schemaname = current_schema() \
            AND NOT pg_has_role(current_user, tableowner, 'MEMBER'))";

/// Looks at the database at `url`.
///
/// # Errors
/// An invalid URL, or a server that is out of reach or refuses.
pub async fn inspect(url: &str) -> Result<Inspection, OpenError> {
    let options = read_url(url)?;
    let place = address(&options);
    let connect = PgConnection::connect_with(&options);
    let connect = tokio::time::timeout(PostgresOptions::default().acquire_timeout, connect);
    let inspected = async {
        let mut connection = connect.await.map_err(|_| timed_out())??;
        let inspection = look(&mut connection, place.clone()).await?;
        connection.close().await?;
        Ok::<_, sqlx::Error>(inspection)
    };
    inspected.await.map_err(|error| OpenError::from(error).of_address(place.clone()))
}

async fn look(connection: &mut PgConnection, place: String) -> sqlx::Result<Inspection> {
    let now = Timestamp(sqlx::query_scalar(NOW).fetch_one(&mut *connection).await?);
    let facts = sqlx::query(FACTS).fetch_one(&mut *connection).await?;
    let (pending, newer) = migrations(&MIGRATIONS, connection).await;
    let mut errors = Vec::new();
    if facts.try_get(1)? {
        errors.push(
            "it is a standby, which takes no changes: name the address of the primary in the database URL"
                .to_owned(),
        );
    }
    if !facts.try_get::<bool, _>(3)? {
        errors.push(
            "its user may not make tables: make it the owner of the database (ALTER DATABASE ... OWNER TO ...)"
                .to_owned(),
        );
    }
    let foreign: i64 = facts.try_get(4)?;
    if foreign > 0 {
        errors.push(format!(
            "{foreign} of its tables belong to another user: give them to the user of the database URL \
             (REASSIGN OWNED BY ... TO ...)"
        ));
    }
    let mut warnings = Vec::new();
    if facts.try_get(2)? {
        warnings.push(
            "it may lose what it has answered when its host crashes: set fsync and full_page_writes to on"
                .to_owned(),
        );
    }
    let version: String = facts.try_get(0)?;
    let version = format!("PostgreSQL {version}");
    Ok(Inspection { place, version, now, pending, newer, errors, warnings })
}
