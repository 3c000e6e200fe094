//! Workers against a real broker: the delivery guarantees, and the faults that they have to survive.
#![expect(clippy::unwrap_used, reason = "an unexpected value fails the test")]
#![expect(clippy::indexing_slicing, reason = "an unexpected value fails the test")]
#![expect(clippy::panic, reason = "an unexpected value fails the test")]

mod age;
mod answer;
mod blocked;
mod clock;
mod copies;
mod crash;
mod drain;
mod essential;
mod fail;
mod faults;
mod full;
mod hook;
mod hostile;
mod large;
mod pace;
mod planted;
mod stock;
mod support;
mod suspect;
