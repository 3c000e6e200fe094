//! The cases: their names, what the contract expects in each, and what the tester needs to try them.

/// What a case needs besides a running worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    /// A route whose requests may have priority.
    Lanes,
    /// Something that starts the worker again when it has ended.
    Restart,
    /// A way to kill the worker, and something that starts it again.
    Kill,
    /// The worker's process.
    Program,
}

macro_rules! cases {
    ($($case:ident, $name:literal, $needs:ident, $expected:literal;)*) => {
        /// One awkward request, or several.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "`expected` describes each")]
        pub enum Case { $($case,)* }

        impl Case {
            /// All cases, in the order in which they are tried.
            pub const ALL: [Self; [$($name,)*].len()] = [$(Self::$case,)*];

            /// The name of the case.
            pub fn name(self) -> &'static str {
                match self { $(Self::$case => $name,)* }
            }

            /// What the contract says about it.
            pub fn expected(self) -> &'static str {
                match self { $(Self::$case => $expected,)* }
            }

            pub(super) fn needs(self) -> Needs {
                match self { $(Self::$case => Needs::$needs,)* }
            }
        }
    };
}

cases! {
    Echo, "echo", Nothing, "the answer is the data, and the request is acknowledged";
    Empty, "empty", Nothing, "an empty body is answered with an empty body";
    Malformed, "malformed", Nothing, "a body that is not JSON is answered with itself";
    NotUtf8, "not-utf-8", Nothing, "a body that is not UTF-8 is answered with the same bytes";
    Huge, "huge", Nothing, "a body close to the broker's limit is answered with the same bytes";
    HugeAnswer, "huge-answer", Nothing, "an answer that is longer than the broker takes becomes error 1004";
    Headers, "headers", Nothing, "unknown headers and absent optional ones change nothing";
    Unreadable, "unreadable", Nothing, "a message without Tide-Id is removed, and the next request is answered";
    Reject, "reject", Nothing, "the error's code and message reach the caller unchanged";
    Many, "many", Nothing, "each of 200 requests at once has its own answer";
    Retry, "retry", Nothing, "two failed attempts are followed by a third, which is answered";
    Dead, "dead", Nothing, "after max_attempts there is one dead letter, and the caller gets error 1004";
    Keyed, "keyed", Nothing, "the answer is stored with the request's digest, and a live copy is sent";
    Duplicate, "duplicate", Nothing, "a second copy of an answered request gets the stored answer, not another run";
    Answered, "answered", Nothing, "a request that was answered or cancelled before it ran is not run";
    KeyedRetry, "keyed-retry", Nothing, "a request with a key that fails once is answered by its second attempt";
    LongKeyedAnswer, "long-keyed-answer", Nothing, "an answer over streams.answer_max_bytes is not stored: error 1004 is";
    Later, "later", Nothing, "the answer is stored, and published once on the personal channel with its tags";
    LaterError, "later-error", Nothing, "an error is published on the personal channel as {code, message}";
    Late, "late", Nothing, "an answer that the gateway calls late is published on the personal channel";
    Nobody, "nobody", Nothing, "an answer that no gateway confirms is published on the personal channel once its time is over";
    Lanes, "lanes", Lanes, "a request with priority is answered while others wait, also by its second attempt";
    Cancel, "cancel", Nothing, "a request that is cancelled while it runs is given up and acknowledged";
    Slow, "slow", Nothing, "a request that takes longer than ack_wait is delivered once and answered";
    Drain, "drain", Program, "on SIGTERM the worker ends, and the request that it works on is answered";
    Killed, "killed", Kill, "a request whose worker is killed is answered by the next one";
    Crash, "crash", Restart, "a request that ends its worker once is answered afterwards";
    Poison, "poison", Restart, "a request that ends every worker becomes a dead letter, and its neighbours are answered";
}

impl std::str::FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|case| case.name() == text)
            .ok_or_else(|| format!("the cases are {}", names()))
    }
}
