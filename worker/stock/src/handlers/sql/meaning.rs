//! What the errors of databases mean for a request. Pure.

use anyhow::anyhow;
use sqlx::error::ErrorKind;
use tidegate_shared::config::Refusal;
use tidegate_worker::Failure;

/// The error code for what contradicts what is stored.
const CONFLICT: u32 = 409;
/// The error code for a value that does not fit.
const INVALID: u32 = 422;

/// Why a transaction has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The result cannot be an answer. The transaction was rolled back.
    #[error("{0}")]
    Result(String),
}

impl Trouble {
    /// What happens to the request.
    pub(crate) fn failure(self, violation: Refusal) -> Failure {
        let error = match self {
            Self::Result(reason) => return Failure::dead(reason),
            Self::Database(error) => error,
        };
        let refused = error
            .as_database_error()
            .and_then(|database| refused(&database.kind(), &database.code()?, database.message()));
        match (refused, violation) {
            (None, _) => Failure::retry(anyhow!(error).context("the database failed")),
            (Some((code, message)), Refusal::Reject) => Failure::reject(code, message),
            (Some(_), Refusal::Dead) => Failure::dead(format!("the database refused the request: {error}")),
        }
    }
}

/// The error for the caller, if the request itself is what the database refuses. Names of tables stay inside.
fn refused(kind: &ErrorKind, code: &str, message: &str) -> Option<(u32, String)> {
    let say = |code: u32, text: &str| Some((code, text.to_owned()));
    match kind {
        ErrorKind::UniqueViolation | ErrorKind::ExclusionViolation => {
            return say(CONFLICT, "it exists already");
        }
        ErrorKind::ForeignKeyViolation => return say(CONFLICT, "it refers to something that does not exist"),
        ErrorKind::NotNullViolation => return say(INVALID, "a value is missing"),
        ErrorKind::CheckViolation => return say(INVALID, "a value is not allowed"),
        _ => {}
    }
    // SQLSTATE has five characters; SQLite has numbers, whose last byte is the class.
    if code.len() == 5 {
        return match code.get(..2)? {
            "22" => say(INVALID, "a value does not fit"),
            "23" => say(CONFLICT, "it contradicts what is stored"),
            // RAISE EXCEPTION of the application's own functions.
            "P0" if code == "P0001" => say(INVALID, message),
            _ => None,
        };
    }
    match code.parse::<u32>().ok()? & 0xff {
        19 => say(CONFLICT, "it contradicts what is stored"),
        20 => say(INVALID, "a value does not fit"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_request_is_to_blame_for_is_refused() {
        let code = |kind: ErrorKind, code: &str| refused(&kind, code, "said").map(|(code, _)| code);
        assert_eq!(code(ErrorKind::UniqueViolation, "23505"), Some(409));
        assert_eq!(code(ErrorKind::NotNullViolation, "1299"), Some(422));
        assert_eq!(code(ErrorKind::Other, "22P02"), Some(422));
        assert_eq!(refused(&ErrorKind::Other, "P0001", "sold out"), Some((422, "sold out".to_owned())));
        for retried in ["40001", "40P01", "42P01", "53300", "57P01", "5", "517", "6", "10", "13"] {
            assert_eq!(code(ErrorKind::Other, retried), None, "{retried}");
        }
    }
}
