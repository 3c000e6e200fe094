//! What a filter takes and what it does not, and filters that are none.

use proptest::{collection::btree_map, collection::vec, prelude::*, sample::select};
use prost::Message as _;

use super::*;

fn leaf(key: &str, cmp: &str, val: &str) -> FilterNode {
    FilterNode { key: key.into(), cmp: cmp.into(), val: val.into(), ..FilterNode::default() }
}

fn set(key: &str, cmp: &str, vals: &[&str]) -> FilterNode {
    FilterNode { vals: vals.iter().map(|&val| val.into()).collect(), ..leaf(key, cmp, "") }
}

fn join(op: &str, nodes: Vec<FilterNode>) -> FilterNode {
    FilterNode { op: op.into(), nodes, ..FilterNode::default() }
}

fn not(node: FilterNode) -> FilterNode {
    join("not", vec![node])
}

fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(key, val)| (key.into(), val.into())).collect()
}

/// `depth - 1` times not around a comparison.
fn tower(depth: usize) -> FilterNode {
    (1..depth).fold(leaf("t", "ex", ""), |node, _| not(node))
}

#[test]
fn every_comparison_has_its_meaning() {
    let tags = tags(&[("t", "ACME"), ("n", "10")]);
    for (filter, wanted) in [
        (leaf("t", "eq", "ACME"), true),
        (leaf("t", "eq", "acme"), false),
        (leaf("none", "eq", "ACME"), false),
        (leaf("t", "neq", "acme"), true),
        (leaf("t", "neq", "ACME"), false),
        (leaf("none", "neq", "ACME"), true),
        (set("t", "in", &["X", "ACME"]), true),
        (set("t", "in", &["X"]), false),
        (set("none", "in", &["X", ""]), false),
        (set("t", "nin", &["X", "ACME"]), false),
        (set("t", "nin", &["X"]), true),
        (set("none", "nin", &["X", ""]), true),
        (leaf("t", "ex", ""), true),
        (leaf("none", "ex", ""), false),
        (leaf("t", "nex", ""), false),
        (leaf("none", "nex", ""), true),
        (leaf("t", "sw", "AC"), true),
        (leaf("t", "sw", "ME"), false),
        (leaf("none", "sw", "A"), false),
        (leaf("t", "ew", "ME"), true),
        (leaf("t", "ew", "AC"), false),
        (leaf("none", "ew", "A"), false),
        (leaf("t", "ct", "CM"), true),
        (leaf("t", "ct", "MC"), false),
        (leaf("none", "ct", "A"), false),
        (leaf("n", "lt", "10"), false),
        (leaf("n", "lt", "11"), true),
        (leaf("n", "lte", "10"), true),
        (leaf("n", "lte", "9"), false),
        (leaf("n", "gt", "9"), true),
        (leaf("n", "gt", "10"), false),
        (leaf("n", "gte", "10.0"), true),
        (leaf("n", "gte", "10.01"), false),
        (leaf("none", "lt", "1"), false),
        (leaf("none", "gte", "1"), false),
    ] {
        assert_eq!(validate(&filter), Ok(()), "{filter:?}");
        assert_eq!(matches(&filter, &tags), wanted, "{filter:?}");
    }
}

#[test]
fn operators_combine_their_operands() {
    let (yes, no) = (leaf("t", "ex", ""), leaf("t", "nex", ""));
    let tags = tags(&[("t", "")]);
    for (filter, wanted) in [
        (join("and", vec![yes.clone(), yes.clone()]), true),
        (join("and", vec![yes.clone(), no.clone()]), false),
        (join("or", vec![no.clone(), yes.clone()]), true),
        (join("or", vec![no.clone(), no.clone()]), false),
        (not(no.clone()), true),
        (not(yes.clone()), false),
        (join("and", vec![not(no.clone()), join("or", vec![no, yes])]), true),
    ] {
        assert_eq!(validate(&filter), Ok(()), "{filter:?}");
        assert_eq!(matches(&filter, &tags), wanted, "{filter:?}");
    }
}

#[test]
fn numbers_are_compared_as_numbers() {
    for (smaller, larger) in [
        ("9", "10"),
        ("-10", "-9"),
        ("-1", "0"),
        ("1.05", "1.5"),
        ("+1.4", "1.45"),
        ("-1.45", "-1.4"),
        ("0.1", "1"),
        ("007", "8"),
        ("9007199254740992", "9007199254740993"),
        ("0.3", "0.3000000000000000001"),
    ] {
        let tags = tags(&[("n", smaller)]);
        for (cmp, wanted) in [("lt", true), ("lte", true), ("gt", false), ("gte", false)] {
            assert_eq!(matches(&leaf("n", cmp, larger), &tags), wanted, "{smaller} {cmp} {larger}");
        }
    }
    for (a, b) in [("1", "1.0"), ("-0", "0"), ("+00.50", "0.5")] {
        let tags = tags(&[("n", a)]);
        assert!(matches(&leaf("n", "lte", b), &tags) && matches(&leaf("n", "gte", b), &tags), "{a} {b}");
    }
}

#[test]
fn texts_that_are_not_numbers_have_no_order() {
    let long = "1".repeat(201);
    let texts =
        ["", "-", "+", ".", "1.", ".5", "-.5", "1e3", "0x1", " 1", "1 ", "--1", "+-1", "1.2.3", "1,5"];
    let others = ["NaN", "inf", "ten", "1_000", "٣", "0.00000000000000000001", &long];
    for text in texts.into_iter().chain(others) {
        for cmp in ["lt", "lte", "gt", "gte"] {
            assert!(!matches(&leaf("n", cmp, "1"), &tags(&[("n", text)])), "{text:?} {cmp} 1");
            assert!(!matches(&leaf("n", cmp, text), &tags(&[("n", "1")])), "1 {cmp} {text:?}");
        }
    }
}

#[test]
fn a_filter_without_a_meaning_is_refused_and_matches_nothing() {
    for (filter, error) in [
        (FilterNode::default(), FilterError::Cmp),
        (leaf("t", "like", "x"), FilterError::Cmp),
        (leaf("t", "EQ", "x"), FilterError::Cmp),
        (leaf("", "eq", "x"), FilterError::Key),
        (set("", "in", &["x"]), FilterError::Key),
        (leaf("t", "eq", ""), FilterError::Val),
        (FilterNode { val: "x".into(), ..set("t", "eq", &["x"]) }, FilterError::Val),
        (leaf("t", "in", "x"), FilterError::Val),
        (set("t", "nin", &[]), FilterError::Val),
        (FilterNode { val: "x".into(), ..set("t", "in", &["x"]) }, FilterError::Val),
        (leaf("t", "ex", "x"), FilterError::Val),
        (set("t", "nex", &["x"]), FilterError::Val),
        (join("xor", vec![leaf("t", "ex", "")]), FilterError::Op),
        (join("and", vec![]), FilterError::Nodes),
        (join("or", vec![]), FilterError::Nodes),
        (join("not", vec![]), FilterError::Nodes),
        (join("not", vec![leaf("t", "ex", ""), leaf("t", "ex", "")]), FilterError::Nodes),
        (not(not(leaf("t", "like", "x"))), FilterError::Cmp),
    ] {
        assert_eq!(validate(&filter), Err(error), "{filter:?}");
    }
    let tags = tags(&[("t", "x")]);
    for filter in [
        leaf("t", "like", "x"),
        not(leaf("t", "like", "x")),
        join("or", vec![leaf("t", "like", "x"), leaf("t", "ex", "")]),
        not(join("xor", vec![])),
        join("not", vec![]),
    ] {
        assert!(!matches(&filter, &tags), "{filter:?}");
    }
}

#[test]
fn a_filter_has_its_limits() {
    let tags = tags(&[("t", "")]);
    assert_eq!(validate(&tower(MAX_DEPTH)), Ok(()));
    assert!(!matches(&tower(MAX_DEPTH), &tags) && matches(&tower(MAX_DEPTH - 1), &tags));
    assert_eq!(validate(&tower(MAX_DEPTH + 1)), Err(FilterError::TooDeep));
    for depth in [MAX_DEPTH + 1, MAX_DEPTH + 2, 1000] {
        assert!(!matches(&tower(depth), &tags), "{depth}");
    }
    let wide = |nodes| join("or", vec![leaf("t", "ex", ""); nodes]);
    assert_eq!(validate(&wide(MAX_NODES - 1)), Ok(()));
    assert_eq!(validate(&wide(MAX_NODES)), Err(FilterError::TooLarge));
    let twigs = join("and", vec![wide(31), wide(31)]);
    assert_eq!(validate(&twigs), Err(FilterError::TooLarge));
}

#[test]
fn filters_have_these_bytes() {
    for (filter, text, binary) in [
        (FilterNode::default(), "{}", ""),
        (leaf("t", "eq", "x"), r#"{"key":"t","cmp":"eq","val":"x"}"#, "12 01 74 1a 02 65 71 22 01 78"),
        (
            join("and", vec![set("t", "in", &["x", "y"]), not(leaf("n", "ex", ""))]),
            r#"{"op":"and","nodes":[{"key":"t","cmp":"in","vals":["x","y"]},{"op":"not","nodes":[{"key":"n","cmp":"ex"}]}]}"#,
            // op (1); nodes (6) of 13: key (2), cmp (3), vals (5) twice; nodes (6) of 14: op (1), nodes (6) of 7
            "0a 03 61 6e 64 32 0d 12 01 74 1a 02 69 6e 2a 01 78 2a 01 79 \
             32 0e 0a 03 6e 6f 74 32 07 12 01 6e 1a 02 65 78",
        ),
    ] {
        assert_eq!(serde_json::to_string(&filter).unwrap(), text);
        assert_eq!(serde_json::from_str::<FilterNode>(text).unwrap(), filter);
        let bytes = filter.encode_to_vec();
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex.join(" "), binary, "{text}");
        assert_eq!(FilterNode::decode(bytes.as_slice()).unwrap(), filter);
    }
}

fn any_leaf() -> impl Strategy<Value = FilterNode> {
    let key = || select(vec!["a", "b", "c"]);
    let val = || select(vec!["1", "2", "-1.5", "x", "xy"]);
    let single = vec!["eq", "neq", "sw", "ew", "ct", "lt", "lte", "gt", "gte"];
    prop_oneof![
        (key(), select(single), val()).prop_map(|(key, cmp, val)| leaf(key, cmp, val)),
        (key(), select(vec!["in", "nin"]), vec(val(), 1..3))
            .prop_map(|(key, cmp, vals)| set(key, cmp, &vals)),
        (key(), select(vec!["ex", "nex"])).prop_map(|(key, cmp)| leaf(key, cmp, "")),
    ]
}

/// Valid, and shallow enough to be negated twice.
fn any_filter() -> impl Strategy<Value = FilterNode> {
    any_leaf().prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            (select(vec!["and", "or"]), vec(inner.clone(), 1..4)).prop_map(|(op, nodes)| join(op, nodes)),
            inner.prop_map(not),
        ]
    })
}

/// Mostly without a meaning.
fn any_node() -> impl Strategy<Value = FilterNode> {
    let words = || select(vec!["", "and", "or", "not", "eq", "in", "ex", "gt", "1"]);
    let leaf = (words(), words(), words(), vec(words(), 0..2)).prop_map(|(op, cmp, val, vals)| FilterNode {
        op: op.into(),
        val: val.into(),
        ..set("a", cmp, &vals)
    });
    leaf.prop_recursive(12, 80, 4, move |inner| {
        (words(), vec(inner, 0..4)).prop_map(|(op, nodes)| join(op, nodes))
    })
}

fn any_tags() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map("[abc]", "(1|1\\.0|2|-3|x|xyx|)", 0..4)
}

proptest! {
    #[test]
    fn not_not_changes_nothing(filter in any_filter(), tags in any_tags()) {
        prop_assert_eq!(validate(&filter), Ok(()));
        let twice = not(not(filter.clone()));
        prop_assert_eq!(matches(&twice, &tags), matches(&filter, &tags));
        prop_assert_ne!(matches(&not(filter.clone()), &tags), matches(&filter, &tags));
    }

    #[test]
    fn de_morgan_holds(filters in vec(any_filter(), 1..4), tags in any_tags()) {
        let negated: Vec<_> = filters.iter().cloned().map(not).collect();
        for (one, other) in [("and", "or"), ("or", "and")] {
            let outside = not(join(one, filters.clone()));
            let inside = join(other, negated.clone());
            prop_assert_eq!(matches(&outside, &tags), matches(&inside, &tags));
        }
    }

    #[test]
    fn a_comparison_and_its_opposite_never_agree(key in "[abc]", val in "(1|2|x)", tags in any_tags()) {
        for (cmp, opposite) in [("eq", "neq"), ("in", "nin"), ("ex", "nex")] {
            let node = |cmp: &str| FilterNode { vals: vec![val.clone()], ..leaf(&key, cmp, &val) };
            prop_assert_ne!(matches(&node(cmp), &tags), matches(&node(opposite), &tags));
        }
    }

    #[test]
    fn numbers_have_the_order_of_integers(a in -2000_i32..2000, b in -2000_i32..2000) {
        let text = |n: i32| format!("{}{}.{:02}", if n < 0 { "-" } else { "" }, n.abs() / 100, n.abs() % 100);
        prop_assert_eq!(in_order(Some(&text(a)), &text(b)), Some(a.cmp(&b)));
    }

    #[test]
    fn both_encodings_give_a_filter_back(filter in any_filter()) {
        let text = serde_json::to_string(&filter).unwrap();
        prop_assert_eq!(&serde_json::from_str::<FilterNode>(&text).unwrap(), &filter);
        prop_assert_eq!(&FilterNode::decode(filter.encode_to_vec().as_slice()).unwrap(), &filter);
    }

    #[test]
    fn no_filter_makes_matching_panic(filter in any_node(), tags in any_tags()) {
        let wanted = matches(&filter, &tags);
        prop_assert!(validate(&filter).is_err() || evaluate(&filter, &tags, MAX_DEPTH) == Some(wanted));
    }
}
