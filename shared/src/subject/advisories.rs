//! What the broker publishes by itself about messages that a consumer delivers no more.

/// What all these subjects begin with.
const CONSUMER: &str = "$JS.EVENT.ADVISORY.CONSUMER";

/// The subjects on which the broker says that a message of a stream was terminated, or delivered as often as its consumer allows.
pub fn advisories(stream: &str) -> [String; 2] {
    ["MSG_TERMINATED", "MAX_DELIVERIES"].map(|event| format!("{CONSUMER}.{event}.{stream}.*"))
}

/// One filter for both.
pub fn all_advisories(stream: &str) -> String {
    format!("{CONSUMER}.*.{stream}.*")
}
