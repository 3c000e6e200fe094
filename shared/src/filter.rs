//! The tags filter: a subscriber receives only the publications whose tags match.
//!
//! A filter is a tree of comparisons joined by `and`, `or` and `not`, as in the published protocol. It saves bandwidth. It is no
//! access control: permissions are decided elsewhere. This module is pure.

use std::{cmp::Ordering, collections::BTreeMap};

use serde::{Deserialize, Serialize};

/// The maximum depth of a filter. A single comparison has depth 1.
pub const MAX_DEPTH: usize = 8;
/// The maximum number of nodes in a filter: comparisons and operators together.
pub const MAX_NODES: usize = 64;

/// The maximum length of a text that is read as a number, in bytes.
const MAX_NUMBER_LEN: usize = 200;
/// The maximum number of digits behind a number's decimal point.
const MAX_FRACTION_LEN: usize = 19;

/// A node of a filter: a comparison of one tag, or an operator over other nodes.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct FilterNode {
    /// `and`, `or` or `not`; empty for a comparison.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// The name of the tag to compare.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// The comparison: `eq`, `neq`, `in`, `nin`, `ex`, `nex`, `sw`, `ew`, `ct`, `lt`, `lte`, `gt` or `gte`.
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cmp: String,
    /// The value to compare the tag with.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub val: String,
    /// The values to compare the tag with, for `in` and `nin`.
    #[prost(string, repeated, tag = "5")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vals: Vec<String>,
    /// The operands of `and`, `or` and `not`.
    #[prost(message, repeated, tag = "6")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<FilterNode>,
}

/// Why a filter is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The filter is deeper than [`MAX_DEPTH`].
    #[error("a filter is at most {MAX_DEPTH} nodes deep")]
    TooDeep,
    /// The filter has more than [`MAX_NODES`] nodes.
    #[error("a filter has at most {MAX_NODES} nodes")]
    TooLarge,
    /// `op` is unknown.
    #[error("a filter's op is and, or, not or empty")]
    Op,
    /// An operator has the wrong number of operands.
    #[error("and, or need at least one node, not exactly one")]
    Nodes,
    /// `cmp` is unknown.
    #[error("a filter's cmp is eq, neq, in, nin, ex, nex, sw, ew, ct, lt, lte, gt or gte")]
    Cmp,
    /// A comparison has no `key`.
    #[error("a comparison needs a key")]
    Key,
    /// A comparison lacks its value, or has a value that belongs to another comparison.
    #[error("in and nin take vals, ex and nex neither val nor vals, every other comparison val")]
    Val,
}

/// Checks that a filter is valid, and small enough to be evaluated for every publication.
pub fn validate(filter: &FilterNode) -> Result<(), FilterError> {
    check(filter, MAX_DEPTH, &mut 0)
}

/// Whether a publication with these tags matches the filter.
///
/// Filters are expected to have passed [`validate`]. An invalid filter matches no publication.
pub fn matches(filter: &FilterNode, tags: &BTreeMap<String, String>) -> bool {
    evaluate(filter, tags, MAX_DEPTH).unwrap_or(false)
}

/// The operator of a node. `Leaf` is a comparison.
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
        // A tag may have an empty name, which only `ex` and `nex` can test.
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

/// Returns `None` if the filter is invalid or too deep.
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

/// Compares two numbers. Returns `None` if one of the texts is not a number.
fn in_order(tag: Option<&str>, val: &str) -> Option<Ordering> {
    Some(Decimal::parse(tag?)?.cmp(&Decimal::parse(val)?))
}

/// A decimal number in its written form, so that numbers of any length compare exactly.
#[derive(Debug, PartialEq, Eq)]
struct Decimal<'a> {
    /// Always false for zero.
    negative: bool,
    /// The digits before the point, without leading zeros.
    whole: &'a str,
    /// The digits behind the point, without trailing zeros.
    fraction: &'a str,
}

impl<'a> Decimal<'a> {
    /// Parses digits with an optional sign and an optional point between digits. Exponents and white space are not accepted.
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
