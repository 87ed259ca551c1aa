//! A look at the embedded store, for `portcullis doctor`: also while a server uses it.

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};

use super::{BUSY_TIMEOUT, FILE, MIGRATIONS, NOW, OpenError};
use crate::policy::time::Timestamp;
use crate::store::inspection::{Inspection, migrations};

/// Looks at the store in `data_dir`; `None` where there is none yet.
///
/// # Errors
/// A file that can't be read, or is no store.
pub async fn inspect(data_dir: &Path) -> Result<Option<Inspection>, OpenError> {
    let file = data_dir.join(FILE);
    if !file.try_exists().map_err(OpenError::data_dir(&file))? {
        return Ok(None);
    }
    look(&file).await.map(Some).map_err(|error| OpenError::from(error).of_file(&file))
}

async fn look(file: &Path) -> sqlx::Result<Inspection> {
    let options =
        SqliteConnectOptions::new().filename(file).read_only(true).busy_timeout(BUSY_TIMEOUT);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let version: String =
        sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut connection).await?;
    let now = Timestamp(sqlx::query_scalar(NOW).fetch_one(&mut connection).await?);
    // Reads the file, which opening it does not.
    sqlx::query("SELECT count(*) FROM sqlite_master").execute(&mut connection).await?;
    let (pending, newer) = migrations(&MIGRATIONS, &mut connection).await;
    connection.close().await?;
    Ok(Inspection {
        place: file.display().to_string(),
        version: format!("SQLite {version}"),
        now,
        pending,
        newer,
        errors: Vec::new(),
        warnings: Vec::new(),
    })
}
