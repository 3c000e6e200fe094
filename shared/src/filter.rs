//! The tags filter: which publications of a channel a subscriber wants, by their tags.
//!
//! A tree of comparisons joined by and, or and not, as the published protocol has it. Pure: saves bandwidth and nothing
//! else. It never decides who may read a channel.

use std::{cmp::Ordering, collections::BTreeMap};

use serde::{Deserialize, Serialize};

/// How deep a filter may be; a filter of one comparison has depth 1.
pub const MAX_DEPTH: usize = 8;
/// How many nodes a filter may have, joints and comparisons together.
pub const MAX_NODES: usize = 64;

/// The longest text that is a number.
const MAX_NUMBER_LEN: usize = 200;
/// The most digits of a number behind its point.
const MAX_FRACTION_LEN: usize = 19;

/// A node of a filter: a comparison of one tag, or a joint of other nodes.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct FilterNode {
    /// `and`, `or` or `not`; empty for a comparison.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// The tag that is compared.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// How it is compared: `eq`, `neq`, `in`, `nin`, `ex`, `nex`, `sw`, `ew`, `ct`, `lt`, `lte`, `gt` or `gte`.
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cmp: String,
    /// What it is compared with.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub val: String,
    /// What it is compared with by `in` and `nin`.
    #[prost(string, repeated, tag = "5")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vals: Vec<String>,
    /// What `and`, `or` and `not` join.
    #[prost(message, repeated, tag = "6")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<FilterNode>,
}

/// Why a node is not a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Nodes lie too deep in each other.
    #[error("a filter is at most {MAX_DEPTH} nodes deep")]
    TooDeep,
    /// There are too many nodes.
    #[error("a filter has at most {MAX_NODES} nodes")]
    TooLarge,
    /// A joint is none of the three.
    #[error("a filter's op is and, or, not or empty")]
    Op,
    /// A joint has too few or too many nodes.
    #[error("and, or join at least one node, not exactly one")]
    Nodes,
    /// A comparison is none that is known.
    #[error("a filter's cmp is eq, neq, in, nin, ex, nex, sw, ew, ct, lt, lte, gt or gte")]
    Cmp,
    /// A comparison names no tag.
    #[error("a comparison needs a key")]
    Key,
    /// A comparison has nothing to compare with, or what another one compares with.
    #[error("in and nin need vals, ex and nex nothing, every other comparison val")]
    Val,
}

/// Checks that a filter has a meaning, and is small enough to be asked for every publication.
pub fn validate(filter: &FilterNode) -> Result<(), FilterError> {
    check(filter, MAX_DEPTH, &mut 0)
}

/// Whether a publication with these tags is wanted.
///
/// Meant for filters that [`validate`] let pass. Where another one has no meaning or is too deep, nothing is wanted.
pub fn matches(filter: &FilterNode, tags: &BTreeMap<String, String>) -> bool {
    evaluate(filter, tags, MAX_DEPTH).unwrap_or(false)
}

/// A joint of nodes.
enum Op {
    Leaf,
    And,
    Or,
    Not,
}

impl Op {
    fn of(node: &FilterNode) -> Option<Self> {
        match node.op.as_str() {
            "" => Some(Self::Leaf),
            "and" => Some(Self::And),
            "or" => Some(Self::Or),
            "not" => Some(Self::Not),
            _ => None,
        }
    }
}

fn check(node: &FilterNode, depth: usize, count: &mut usize) -> Result<(), FilterError> {
    let depth = depth.checked_sub(1).ok_or(FilterError::TooDeep)?;
    *count += 1;
    if *count > MAX_NODES {
        return Err(FilterError::TooLarge);
    }
    match Op::of(node).ok_or(FilterError::Op)? {
        Op::Leaf => return check_leaf(node),
        Op::And | Op::Or if node.nodes.is_empty() => return Err(FilterError::Nodes),
        Op::Not if node.nodes.len() != 1 => return Err(FilterError::Nodes),
        Op::And | Op::Or | Op::Not => {}
    }
    node.nodes.iter().try_for_each(|node| check(node, depth, count))
}

fn check_leaf(node: &FilterNode) -> Result<(), FilterError> {
    let (wants_key, wants_val, wants_vals) = match node.cmp.as_str() {
        "eq" | "neq" | "sw" | "ew" | "ct" | "lt" | "lte" | "gt" | "gte" => (true, true, false),
        "in" | "nin" => (true, false, true),
        // A tag may have an empty name, though nothing else can be asked of it.
        "ex" | "nex" => (false, false, false),
        _ => return Err(FilterError::Cmp),
    };
    if wants_val == node.val.is_empty() || wants_vals == node.vals.is_empty() {
        return Err(FilterError::Val);
    }
    if wants_key && node.key.is_empty() {
        return Err(FilterError::Key);
    }
    Ok(())
}

/// Returns nothing where the filter means nothing or is too deep.
fn evaluate(node: &FilterNode, tags: &BTreeMap<String, String>, depth: usize) -> Option<bool> {
    let depth = depth.checked_sub(1)?;
    let mut nodes = node.nodes.iter().map(|node| evaluate(node, tags, depth));
    match Op::of(node)? {
        Op::Leaf => compare(node, tags.get(&node.key).map(String::as_str)),
        Op::And => nodes.find(|met| *met != Some(true)).unwrap_or(Some(true)),
        Op::Or => nodes.find(|met| *met != Some(false)).unwrap_or(Some(false)),
        Op::Not => nodes.next()?.map(|met| !met),
    }
}

fn compare(node: &FilterNode, tag: Option<&str>) -> Option<bool> {
    let val = node.val.as_str();
    let met = match node.cmp.as_str() {
        "eq" => tag == Some(val),
        "neq" => tag != Some(val),
        "in" => tag.is_some_and(|tag| node.vals.iter().any(|val| val == tag)),
        "nin" => tag.is_none_or(|tag| node.vals.iter().all(|val| val != tag)),
        "ex" => tag.is_some(),
        "nex" => tag.is_none(),
        "sw" => tag.is_some_and(|tag| tag.starts_with(val)),
        "ew" => tag.is_some_and(|tag| tag.ends_with(val)),
        "ct" => tag.is_some_and(|tag| tag.contains(val)),
        "lt" => in_order(tag, val).is_some_and(Ordering::is_lt),
        "lte" => in_order(tag, val).is_some_and(Ordering::is_le),
        "gt" => in_order(tag, val).is_some_and(Ordering::is_gt),
        "gte" => in_order(tag, val).is_some_and(Ordering::is_ge),
        _ => return None,
    };
    Some(met)
}

/// Returns the order of two numbers, or nothing if one of them is none.
fn in_order(tag: Option<&str>, val: &str) -> Option<Ordering> {
    Some(Decimal::parse(tag?)?.cmp(&Decimal::parse(val)?))
}

/// A decimal number as it was written: compared exactly, however many digits it has.
#[derive(Debug, PartialEq, Eq)]
struct Decimal<'a> {
    /// Never set for zero.
    negative: bool,
    /// The digits before the point, without zeros in front.
    whole: &'a str,
    /// The digits behind the point, without zeros at the end.
    fraction: &'a str,
}

impl<'a> Decimal<'a> {
    /// Reads digits with an optional sign and an optional point between digits; no exponent, no white space.
    fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_NUMBER_LEN {
            return None;
        }
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !all_digits(whole) || !all_digits(fraction) || fraction.len() > MAX_FRACTION_LEN {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let zero = whole.is_empty() && fraction.is_empty();
        Some(Self { negative: negative && !zero, whole, fraction })
    }
}

impl Ord for Decimal<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let size = (self.whole.len(), self.whole, self.fraction);
        let size = size.cmp(&(other.whole.len(), other.whole, other.fraction));
        match (self.negative, other.negative) {
            (false, false) => size,
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (true, true) => size.reverse(),
        }
    }
}

impl PartialOrd for Decimal<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests;
