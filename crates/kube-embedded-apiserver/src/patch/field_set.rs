//! Sets of fields, as `metadata.managedFields` stores them in `fieldsV1`
//! (`structured-merge-diff/fieldpath.Set`).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A set of fields: a tree whose nodes may be members themselves. Path elements are those of
/// `FieldsV1`: `f:name` for a field or map entry, `k:{"name":"x"}` for an element of a keyed list,
/// `v:"x"` for one of a set.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FieldSet {
    pub(super) member: bool,
    pub(super) children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// Decodes `fieldsV1`; returns nothing if a path element is malformed.
    pub(crate) fn from_v1(fields: &Value) -> Option<Self> {
        let mut set = Self::default();
        for (step, below) in fields.as_object().into_iter().flatten() {
            if step == "." {
                set.member = true;
            } else {
                let (kind, text) = step.split_once(':')?;
                let is_json = || serde_json::from_str::<Value>(text).is_ok();
                if !(kind == "f" || matches!(kind, "k" | "v" | "i") && is_json()) {
                    return None;
                }
                let mut child = Self::from_v1(below)?;
                // A leaf is a member itself.
                child.member |= child.children.is_empty();
                set.children.insert(step.clone(), child);
            }
        }
        Some(set)
    }

    /// Encodes `fieldsV1`.
    pub(crate) fn to_v1(&self) -> Value {
        let mut fields = Map::new();
        if self.member && !self.children.is_empty() {
            fields.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (step, child) in &self.children {
            fields.insert(step.clone(), child.to_v1());
        }
        Value::Object(fields)
    }

    /// Returns true if no node is a member.
    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Self::is_empty)
    }

    /// Returns the node below a path element, and adds it if it is missing.
    pub(crate) fn child(&mut self, step: String) -> &mut Self {
        self.children.entry(step).or_default()
    }

    /// Returns the node below a path element.
    pub(crate) fn get(&self, step: &str) -> Option<&Self> {
        self.children.get(step)
    }

    /// Adds the field at a path.
    pub(crate) fn insert(&mut self, path: &[String]) {
        let mut set = self;
        for step in path {
            set = set.child(step.clone());
        }
        set.member = !path.is_empty();
    }

    /// Returns the fields of either set.
    pub(crate) fn union(mut self, other: &Self) -> Self {
        self.add(other);
        self
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.member |= other.member;
        for (step, child) in &other.children {
            self.child(step.clone()).add(child);
        }
    }

    /// Returns the fields that the other set does not have.
    pub(crate) fn difference(&self, other: &Self) -> Self {
        self.combined(other, |mine, theirs| mine && !theirs, true)
    }

    /// Returns the fields of both sets.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        self.combined(other, |mine, theirs| mine && theirs, false)
    }

    fn combined(&self, other: &Self, rule: fn(bool, bool) -> bool, keep_unmatched: bool) -> Self {
        let mut set = Self { member: rule(self.member, other.member), ..Self::default() };
        for (step, child) in &self.children {
            let left = match other.children.get(step) {
                Some(theirs) => child.combined(theirs, rule, keep_unmatched),
                None if keep_unmatched => child.clone(),
                None => continue,
            };
            if !left.is_empty() {
                set.children.insert(step.clone(), left);
            }
        }
        set
    }

    /// Removes a field by a path of names, with everything below it, and parents that are then
    /// empty.
    pub(crate) fn remove(&mut self, path: &[&str]) {
        let Some((first, below)) = path.split_first() else { return };
        let step = format!("f:{first}");
        if below.is_empty() {
            self.children.remove(&step);
        } else if let Some(child) = self.children.get_mut(&step) {
            child.remove(below);
            if child.is_empty() {
                self.children.remove(&step);
            }
        }
    }

    /// Removes a top-level field by its name, but nothing below it.
    pub(crate) fn remove_member(&mut self, name: &str) {
        let step = format!("f:{name}");
        if let Some(child) = self.children.get_mut(&step) {
            child.member = false;
            if child.is_empty() {
                self.children.remove(&step);
            }
        }
    }

    /// Returns the paths of all members, as Kubernetes prints them:
    /// `.spec.containers[name="c"].image`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), &mut paths);
        paths
    }

    fn collect(&self, path: &mut String, paths: &mut Vec<String>) {
        if self.member && !path.is_empty() {
            paths.push(path.clone());
        }
        for (step, child) in &self.children {
            let before = path.len();
            path.push_str(&show_step(step));
            child.collect(path, paths);
            path.truncate(before);
        }
    }
}

/// Returns a path element as Kubernetes prints it: `.name`, `[name="x"]`, `[="x"]`.
pub(crate) fn show_step(step: &str) -> String {
    match step.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> =
                keys.iter().map(|(key, value)| format!("{key}={}", show_value(value))).collect();
            format!("[{}]", keys.join(","))
        }
        Some(("v", value)) => format!("[={value}]"),
        _ => step.to_owned(),
    }
}

/// `value.ToString` of structured-merge-diff.
fn show_value(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            format!("[{}]", items.iter().map(show_value).collect::<Vec<_>>().join(","))
        }
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name}={}", show_value(value))).collect()
        }
        other => other.to_string(),
    }
}
