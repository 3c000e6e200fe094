//! What a run of a route's statements is, in either database. The drivers have no trait in common for all that is needed, so a macro
//! writes it for each: the databases differ in how they begin, in how values are bound and in how a row becomes JSON.

/// Writes `run` and `prune` of a database, and `migrate` for its connection. The file has `begin`, `bound` and `object`, and the
/// name of the driver.
macro_rules! transactions {
    ($Database:ident, $Connection:ident) => {
        impl $Database {
            /// Runs the statements in one transaction. With `once`, that of a request which was committed before returns its
            /// answer.
            pub(crate) async fn run(&self, settings: &Settings, run: &Run) -> Result<Bytes, Trouble> {
                let mut transaction = self.begin().await?;
                if settings.once {
                    // Waits for a run of the same request elsewhere, and does nothing if that was committed.
                    let note = sqlx::query(
                        "INSERT INTO tide_inbox (route, id, done_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                    );
                    let note = note.bind(&settings.route).bind(&run.id).bind(run.now);
                    if note.execute(&mut *transaction).await?.rows_affected() == 0 {
                        let answer =
                            sqlx::query_scalar("SELECT answer FROM tide_inbox WHERE route = $1 AND id = $2");
                        let answer: Option<Vec<u8>> =
                            answer.bind(&settings.route).bind(&run.id).fetch_one(&mut *transaction).await?;
                        return Ok(answer.unwrap_or_default().into());
                    }
                }
                let (mut rows, mut changed) = (Vec::new(), 0);
                for (place, (text, values)) in self.texts.iter().zip(&run.values).enumerate() {
                    let query = bound(text, values);
                    if settings.has_rows(place, self.texts.len()) {
                        let mut found = query.fetch(&mut *transaction);
                        while rows.len() <= MOST_ROWS
                            && let Some(row) = found.try_next().await?
                        {
                            rows.push(object(&row)?);
                        }
                    } else {
                        changed = query.execute(&mut *transaction).await?.rows_affected();
                    }
                }
                let answer = of_rows(settings, rows, changed)?;
                if settings.once {
                    let keep = sqlx::query("UPDATE tide_inbox SET answer = $3 WHERE route = $1 AND id = $2");
                    let keep = keep.bind(&settings.route).bind(&run.id).bind(&answer[..]);
                    keep.execute(&mut *transaction).await?;
                }
                transaction.commit().await?;
                Ok(answer)
            }

            /// Removes requests from the inbox that are older than this.
            pub(crate) async fn prune(&self, route: &str, before: i64) -> sqlx::Result<u64> {
                let query = sqlx::query("DELETE FROM tide_inbox WHERE route = $1 AND done_at < $2");
                Ok(query.bind(route).bind(before).execute(&self.pool).await?.rows_affected())
            }
        }

        /// Creates tables and runs the migrations that have not run yet.
        async fn migrate(
            connection: &mut $Connection,
            tables: &[(bool, &'static str)],
            migrations: &[Migration],
        ) -> Result<(), (String, String)> {
            for (_, table) in tables.iter().filter(|(needed, _)| *needed) {
                let created = connection.execute(*table).await;
                created.map_err(|error| ("url".to_owned(), format!("cannot create a table: {error}")))?;
            }
            for migration in migrations {
                let refused = |error: sqlx::Error| migrations::refused(migration, &error);
                let run = sqlx::query_scalar("SELECT digest FROM tide_migrations WHERE name = $1");
                let run: Option<String> =
                    run.bind(&migration.name).fetch_optional(&mut *connection).await.map_err(refused)?;
                if migrations::is_due(migration, run.as_deref())? {
                    let statements = sqlx::raw_sql(AssertSqlSafe(migration.text.clone()));
                    statements.execute(&mut *connection).await.map_err(refused)?;
                    let note = sqlx::query("INSERT INTO tide_migrations (name, digest) VALUES ($1, $2)");
                    let note = note.bind(&migration.name).bind(&migration.digest);
                    note.execute(&mut *connection).await.map_err(refused)?;
                }
            }
            Ok(())
        }
    };
}

pub(super) use transactions;
