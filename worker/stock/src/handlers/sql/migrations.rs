//! The `.sql` files that bring a database up to date, each run once.

use std::path::Path;

use data_encoding::HEXLOWER;

/// One file.
#[derive(Debug)]
pub(crate) struct Migration {
    pub(crate) name: String,
    pub(crate) text: String,
    /// Tells whether the file was changed after it was run.
    pub(crate) digest: String,
}

pub(crate) const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS tide_migrations (name TEXT PRIMARY KEY, digest TEXT NOT NULL)";

/// Reads the files of a folder, in the order of their names.
pub(crate) async fn read(folder: &Path) -> Result<Vec<Migration>, (String, String)> {
    let unreadable = |error: std::io::Error| {
        ("migrations".to_owned(), format!("cannot read {}: {error}", folder.display()))
    };
    let mut migrations = Vec::new();
    let mut entries = tokio::fs::read_dir(folder).await.map_err(unreadable)?;
    while let Some(entry) = entries.next_entry().await.map_err(unreadable)? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if Path::new(&name).extension().is_none_or(|extension| extension != "sql") {
            continue;
        }
        let text = tokio::fs::read_to_string(entry.path()).await.map_err(unreadable)?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        migrations.push(Migration { name, digest: HEXLOWER.encode(digest.as_ref()), text });
    }
    migrations.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(migrations)
}

/// Whether a file has to be run, given the digest of what was run under its name.
pub(crate) fn is_due(migration: &Migration, run: Option<&str>) -> Result<bool, (String, String)> {
    match run {
        None => Ok(true),
        Some(digest) if digest == migration.digest => Ok(false),
        Some(_) => {
            let text =
                format!("{} was changed after it was run: write the change as a new file", migration.name);
            Err(("migrations".to_owned(), text))
        }
    }
}

/// The error of a file that the database refuses.
pub(crate) fn refused(migration: &Migration, error: &sqlx::Error) -> (String, String) {
    ("migrations".to_owned(), format!("{}: {error}", migration.name))
}
