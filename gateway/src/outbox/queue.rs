//! The frames that wait for one socket. Most have none, and most of the others one: neither costs an allocation. Pure.

use std::{collections::VecDeque, mem};

use super::{
    dialect::Dialect,
    frame::{self, Frame},
};

/// Room for so many frames is made at once when a second one comes.
const SOME: usize = 8;

/// Frames in order.
#[derive(Debug, Default)]
pub(super) enum Queue {
    #[default]
    Empty,
    One(Frame),
    /// At least one.
    Many(VecDeque<Frame>),
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    pub(super) fn push_back(&mut self, frame: Frame) {
        match self {
            Self::Empty => *self = Self::One(frame),
            Self::Many(frames) => frames.push_back(frame),
            Self::One(_) => {
                let mut frames = self.take_all();
                frames.push_back(frame);
                self.put(frames);
            }
        }
    }

    pub(super) fn push_front(&mut self, frame: Frame) {
        let mut frames = self.take_all();
        frames.push_front(frame);
        self.put(frames);
    }

    /// Takes the frame if there is only one.
    pub(super) fn take_single(&mut self) -> Option<Frame> {
        match mem::take(self) {
            Self::One(frame) => Some(frame),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Takes frames of about `most` bytes, and the sum of their lengths.
    pub(super) fn take(&mut self, most: usize) -> (VecDeque<Frame>, usize) {
        let (mut taken, mut size) = (VecDeque::new(), 0);
        let mut frames = self.take_all();
        while size < most
            && let Some(frame) = frames.pop_front()
        {
            size += frame.len();
            taken.push_back(frame);
        }
        self.put(frames);
        (taken, size)
    }

    /// Takes frames of about `most` bytes, and appends what is written for them. Returns the sum of their lengths.
    pub(super) fn join(&mut self, dialect: Dialect, most: usize, into: &mut Vec<u8>) -> usize {
        let mut frames = self.take_all();
        let size = frame::join(&mut frames, dialect, most, into);
        self.put(frames);
        size
    }

    fn take_all(&mut self) -> VecDeque<Frame> {
        match mem::take(self) {
            Self::Empty => VecDeque::new(),
            Self::One(frame) => {
                let mut frames = VecDeque::with_capacity(SOME);
                frames.push_back(frame);
                frames
            }
            Self::Many(frames) => frames,
        }
    }

    /// An idle connection keeps no allocation.
    fn put(&mut self, frames: VecDeque<Frame>) {
        *self = if frames.is_empty() { Self::Empty } else { Self::Many(frames) };
    }
}
