//! The comparison of two objects by their fields (`structured-merge-diff/typed.Comparison`).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    patch::{
        field_set::FieldSet,
        parts::{Keys, Parts, key_step, parts, parts_of},
    },
    schema::{
        types::{Shape, Structure},
        unset,
    },
};

/// The fields that differ between two objects.
#[derive(Default)]
pub(crate) struct Comparison {
    pub(crate) added: FieldSet,
    pub(crate) modified: FieldSet,
    pub(crate) removed: FieldSet,
}

impl Comparison {
    pub(crate) fn between(structure: &Structure, old: &Value, new: &Value) -> Self {
        Self::default().compared(structure, old, new)
    }

    fn compared(self, structure: &Structure, old: &Value, new: &Value) -> Self {
        let mut comparison = self;
        comparison.compare(&Parts::Struct(structure), Some(old), Some(new), &mut Vec::new());
        comparison
    }

    /// Compares two values at a path.
    fn compare(
        &mut self,
        parts_here: &Parts<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
        path: &mut Vec<String>,
    ) {
        match (old, new) {
            (None, None) => return,
            (None, Some(_)) => self.added.insert(path),
            (Some(_), None) => self.removed.insert(path),
            (Some(_), Some(_)) => {}
        }
        match parts_here {
            Parts::Struct(structure) => self.compare_fields(structure, old, new, path),
            // The value of a deduced type that is no map.
            Parts::Map(element)
                if [old, new].into_iter().flatten().any(|value| !value.is_object()) =>
            {
                self.compare_leaves(old, new, path);
                // The entries of the one that is a map come or go.
                self.compare_entries(element, old, new, path);
            }
            Parts::Map(element) => self.compare_entries(element, old, new, path),
            Parts::Keyed(element, keys) => {
                let (old, new) = (by_step(old, *keys), by_step(new, *keys));
                let removed = old.keys().filter(|step| !new.contains_key(*step));
                for step in new.keys().chain(removed) {
                    let (before, after) = (old.get(step).copied(), new.get(step).copied());
                    self.descend(step.clone(), &parts(element, None), before, after, path);
                }
            }
            Parts::Set => self.compare_scalars(old, new, path),
            Parts::Leaf => self.compare_leaves(old, new, path),
        }
    }

    /// Compares the entries of maps.
    fn compare_entries(
        &mut self,
        element: &Shape,
        old: Option<&Value>,
        new: Option<&Value>,
        path: &mut Vec<String>,
    ) {
        for name in names(old, new) {
            let before = old.and_then(|old| old.get(name));
            let after = new.and_then(|new| new.get(name));
            self.descend(format!("f:{name}"), &parts(element, None), before, after, path);
        }
    }

    /// Compares the fields of a structure. Unknown fields have no owner, so they are skipped.
    fn compare_fields(
        &mut self,
        structure: &Structure,
        old: Option<&Value>,
        new: Option<&Value>,
        path: &mut Vec<String>,
    ) {
        for name in names(old, new) {
            let Some(field) = structure.field(name) else { continue };
            let unset = unset::encoded(field);
            let mut before = old.and_then(|old| old.get(name));
            let after = new.and_then(|new| new.get(name));
            if old.is_some() && before.is_none_or(Value::is_null) {
                if unset.is_some() {
                    // Kubernetes compares encoded objects, which have the field even if it is not set.
                    before = unset.as_ref();
                } else if after.is_some_and(|after| after == "") {
                    // And in which an empty string is the same as none.
                    continue;
                }
            }
            self.descend(format!("f:{name}"), &parts_of(field), before, after, path);
        }
    }

    /// Compares the elements of a set.
    fn compare_scalars(
        &mut self,
        old: Option<&Value>,
        new: Option<&Value>,
        path: &mut Vec<String>,
    ) {
        let items = |list: Option<&Value>| -> Vec<Value> {
            list.and_then(Value::as_array).cloned().unwrap_or_default()
        };
        let (old, new) = (items(old), items(new));
        for item in &new {
            let before = old.contains(item).then_some(item);
            self.descend(format!("v:{item}"), &Parts::Leaf, before, Some(item), path);
        }
        for item in old.iter().filter(|item| !new.contains(item)) {
            self.descend(format!("v:{item}"), &Parts::Leaf, Some(item), None, path);
        }
    }

    /// Compares values that have one owner.
    fn compare_leaves(&mut self, old: Option<&Value>, new: Option<&Value>, path: &[String]) {
        if old.is_some() && new.is_some() && old != new {
            self.modified.insert(path);
        }
    }

    fn descend(
        &mut self,
        step: String,
        parts: &Parts<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
        path: &mut Vec<String>,
    ) {
        path.push(step);
        self.compare(parts, old, new, path);
        path.pop();
    }
}

/// Returns the names of both objects, those of the new one first.
fn names<'a>(old: Option<&'a Value>, new: Option<&'a Value>) -> Vec<&'a str> {
    let object = |value: Option<&'a Value>| value.and_then(Value::as_object);
    let names = |value| object(value).into_iter().flatten().map(|(name, _)| name.as_str());
    let is_new = |name: &str| object(new).is_some_and(|new| new.contains_key(name));
    names(new).chain(names(old).filter(|name| !is_new(name))).collect()
}

fn by_step<'a>(list: Option<&'a Value>, keys: Keys<'_>) -> BTreeMap<String, &'a Value> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.map(|item| (key_step(item, keys), item)).collect()
}
