//! Workers against a real broker: the delivery guarantees, and the faults that they have to survive.
#![expect(clippy::unwrap_used, reason = "an unexpected value fails the test")]
#![expect(clippy::indexing_slicing, reason = "an unexpected value fails the test")]
#![expect(clippy::panic, reason = "an unexpected value fails the test")]

mod age;
mod answer;
mod blocked;
mod cancel;
mod clock;
mod copies;
mod drain;
mod embed;
mod essential;
mod fail;
mod follow_up;
mod full;
mod gone;
mod hook;
mod hostile;
mod kit;
mod large;
mod layer;
mod messages;
mod order;
mod pace;
mod package;
mod planted;
mod process;
mod progress;
mod queues;
mod redrive;
mod registration;
mod restart;
mod schedule;
#[expect(dead_code, reason = "the stock worker's tests use the rest")]
mod support;
mod suspect;
mod together;
mod trace;
