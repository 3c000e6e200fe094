//! The subjects of schedules and their firings, all in `TIDE_PARK`.

use super::Subjects;
use crate::token::Token;

impl Subjects {
    /// A schedule. No request is stored under this subject: no id that is made begins with `schedules.`. One that is asked for may, so
    /// what is found for an id is compared with it.
    pub fn schedule(&self, name: &str) -> String {
        format!("{}.park.schedules.{}", self.prefix, Token::encode(name))
    }

    /// All schedules.
    pub fn all_schedules(&self) -> String {
        format!("{}.park.schedules.*", self.prefix)
    }

    /// What is remembered of a schedule's newest firing.
    pub fn fired(&self, name: &str) -> String {
        format!("{}.park.fired.{}", self.prefix, Token::encode(name))
    }

    /// A firing of a schedule, which waits for a gateway.
    pub fn firing(&self, name: &str) -> String {
        format!("{}.due.firing.{}", self.prefix, Token::encode(name))
    }

    /// All firings that wait for a gateway.
    pub fn all_firings(&self) -> String {
        format!("{}.due.firing.*", self.prefix)
    }
}
