//! How many letters a second: `20/s`, or `20`.

use std::{str::FromStr, time::Duration};

/// The most letters a second that can be asked for.
const MOST: u32 = 10_000;

/// A number of letters a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate(u32);

impl Rate {
    /// The pause between two letters.
    pub(super) fn pause(self) -> Duration {
        Duration::from_secs(1) / self.0
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix("/s").unwrap_or(text).trim().parse().ok();
        let number = number.filter(|number| (1..=MOST).contains(number));
        number.map(Self).ok_or_else(|| format!("a number of letters a second is needed, 1/s to {MOST}/s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_a_second() {
        assert_eq!("20/s".parse::<Rate>().unwrap().pause(), Duration::from_millis(50));
        assert_eq!("4".parse::<Rate>(), Ok(Rate(4)));
        for text in ["0/s", "", "x", "10001", "-1/s", "20/m"] {
            assert!(text.parse::<Rate>().is_err(), "{text:?}");
        }
    }
}
