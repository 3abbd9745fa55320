use super::*;
use crate::{
    cel::{Budget, value::Val},
    schema::structural::{
        declarations::declare, given_rule::GivenRule, schema::Schema, sizes::declare_sizes,
    },
};
use serde_json::Value;

/// Returns the least and the greatest cost of a rule for values of a schema.
fn estimate(schema: &Value, root: bool, rule: &str) -> (u64, u64) {
    let schema = Schema::parse(schema);
    let kind = declare(&schema, root, "selfType").unwrap();
    let sizes = declare_sizes(&schema, root).unwrap();
    let given =
        GivenRule { rule: rule.to_owned(), optional_old_self: Some(true), ..GivenRule::default() };
    let program = given.compile(&kind).unwrap_or_else(|error| panic!("{rule}: {error}"));
    let cost = program.estimate(&given.variables(&kind), &sizes.sizes);
    (cost.min, cost.max)
}

#[test]
fn factors_are_shown_as_in_kubernetes() {
    for (cost, factor) in [
        (10_000_001, "1.000000x"),
        (14_999_999, "1.500000x"),
        (15_000_000, "1.5x"),
        (123_456_789, "12.3x"),
        (1_000_000_000, "100.0x"),
        (1_000_000_001, "more than 100x"),
    ] {
        let shown = exceeded("cost", cost, PER_RULE);
        assert!(shown.contains(&format!(" of {factor} (")), "{cost}: {shown}");
    }
}

/// The costs are those that Kubernetes 1.36.2 (cel-go 0.26.0) estimates: one line for each rule,
/// with the least and the greatest.
#[test]
fn estimates_are_those_of_kubernetes() {
    let schema: Value = serde_json::from_str(include_str!("schema.json")).unwrap();
    let mut wrong = Vec::new();
    for line in include_str!("estimates.txt").lines() {
        let mut parts = line.splitn(3, ' ');
        let mut number = || parts.next().unwrap().parse::<u64>().unwrap();
        let expected = (number(), number());
        let rule = parts.next().unwrap();
        let found = estimate(&schema, true, rule);
        if found != expected {
            wrong.push(format!("{rule}: {found:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The costs are those that Kubernetes 1.36.2 counts for one object: one line for each rule.
#[test]
fn evaluations_cost_as_in_kubernetes() {
    let schema: Value = serde_json::from_str(include_str!("schema.json")).unwrap();
    let kind = declare(&Schema::parse(&schema), true, "selfType").unwrap();
    let value: Value = serde_json::from_str(include_str!("value.json")).unwrap();
    let mut wrong = Vec::new();
    for line in include_str!("evaluations.txt").lines() {
        let (expected, rule) = line.split_once(' ').unwrap();
        let given = GivenRule { rule: rule.to_owned(), ..GivenRule::default() };
        let program = given.compile(&kind).unwrap_or_else(|error| panic!("{rule}: {error}"));
        let mut budget = Budget::default();
        let result = program.run(&[("self", Val::of(&value, &kind))], &mut budget);
        assert!(matches!(result, Ok(Val::Bool(_))), "{rule}: {result:?}");
        let found = budget.cost();
        if found.to_string() != expected {
            wrong.push(format!("{rule}: {found}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
