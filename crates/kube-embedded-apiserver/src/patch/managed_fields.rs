//! Sets of fields as `metadata.managedFields` stores them (`FieldsV1`), and how they are read off
//! objects.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::{Map, Value};

use crate::schema::tree::{Field, Shape, Structure, Topology, forest};

/// A set of fields: a tree whose nodes may be members themselves. Steps are written as in
/// `FieldsV1`: `f:name`, `k:{"name":"x"}`, `v:"x"`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fields {
    member: bool,
    children: BTreeMap<String, Fields>,
}

impl Fields {
    pub(crate) fn from_v1(fields: &Value) -> Self {
        let mut set = Self::default();
        for (step, below) in fields.as_object().into_iter().flatten() {
            if step == "." {
                set.member = true;
            } else {
                let mut child = Self::from_v1(below);
                // A node without anything below it is there for itself.
                child.member |= child.children.is_empty();
                set.children.insert(step.clone(), child);
            }
        }
        set
    }

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

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Self::is_empty)
    }

    fn child(&mut self, step: String) -> &mut Self {
        self.children.entry(step).or_default()
    }

    pub(crate) fn get(&self, step: &str) -> Option<&Self> {
        self.children.get(step)
    }

    pub(crate) fn union(mut self, other: &Self) -> Self {
        self.add(other);
        self
    }

    fn add(&mut self, other: &Self) {
        self.member |= other.member;
        for (step, child) in &other.children {
            self.children.entry(step.clone()).or_default().add(child);
        }
    }

    pub(crate) fn difference(&self, other: &Self) -> Self {
        self.combined(other, |mine, theirs| mine && !theirs, true)
    }

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

    /// Removes whole fields below a path of names, themselves included, and what then is empty.
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

    /// The node itself is no longer a member, what is below it may be.
    pub(crate) fn forget(&mut self, name: &str) {
        if let Some(child) = self.children.get_mut(&format!("f:{name}")) {
            child.member = false;
        }
    }

    /// Paths of all members, as Kubernetes prints them: `.spec.containers[name="c"].image`.
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
            match step.split_once(':') {
                Some(("f", name)) => {
                    path.push('.');
                    path.push_str(name);
                }
                Some(("k", keys)) => {
                    let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                    let keys: Vec<String> =
                        keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                    path.push_str(&format!("[{}]", keys.join(",")));
                }
                Some(("v", value)) => path.push_str(&format!("[={value}]")),
                _ => path.push_str(step),
            }
            child.collect(path, paths);
            path.truncate(before);
        }
    }
}

/// What a value is made of, once its topology is taken into account.
pub(crate) enum Parts<'a> {
    /// Owned as a whole.
    Leaf,
    /// Named fields of a structure.
    Struct(&'a Structure),
    /// Entries of a map.
    Map(&'a Shape),
    /// Elements told apart by keys.
    Keyed(&'a Shape, Keys<'a>),
    /// Distinct scalars.
    Set,
}

/// The fields by which elements are told apart.
#[derive(Clone, Copy)]
pub(crate) enum Keys<'a> {
    Fixed(&'static [&'static str]),
    CustomResource(&'a [String]),
}

impl<'a> Keys<'a> {
    fn each(self) -> impl Iterator<Item = &'a str> {
        let (fixed, crd): (&[&str], &[String]) = match self {
            Self::Fixed(keys) => (keys, &[]),
            Self::CustomResource(keys) => (&[], keys),
        };
        fixed.iter().copied().chain(crd.iter().map(String::as_str))
    }
}

/// What a field's value is made of.
pub(crate) fn parts_of(field: &Field) -> Parts<'_> {
    parts(&field.shape, Some(&field.topology))
}

/// What an element of a map or a list is made of.
pub(crate) fn parts<'a>(shape: &'a Shape, topology: Option<&'a Topology>) -> Parts<'a> {
    match (shape, topology) {
        (Shape::Struct(_) | Shape::Inline(_), None | Some(Topology::Granular)) => {
            forest().structure(shape).map_or(Parts::Leaf, Parts::Struct)
        }
        (Shape::Map(element), None | Some(Topology::Granular)) => Parts::Map(element),
        (Shape::Deduced, None | Some(Topology::Granular)) => Parts::Map(shape),
        (Shape::List(element), Some(Topology::Keyed(keys))) => {
            Parts::Keyed(element, Keys::Fixed(keys))
        }
        (Shape::List(element), Some(Topology::KeyedBy(keys))) => {
            Parts::Keyed(element, Keys::CustomResource(keys))
        }
        (Shape::List(_), Some(Topology::Set)) => Parts::Set,
        _ => Parts::Leaf,
    }
}

/// The step to an element of a keyed list.
pub(crate) fn key_step(item: &Value, keys: Keys<'_>) -> String {
    let mut step = Map::new();
    for key in keys.each() {
        let value = match &item[key] {
            // The only key with a default in Kubernetes' schemas.
            Value::Null if key == "protocol" => "TCP".into(),
            Value::Null => continue,
            value => value.clone(),
        };
        step.insert(key.to_owned(), value);
    }
    format!("k:{}", Value::Object(step))
}

/// All fields of an applied object, as its manager owns them.
pub(crate) fn of_object(structure: &Structure, object: &Value) -> Fields {
    let mut set = Fields::default();
    owned(&Parts::Struct(structure), object, &mut set);
    set.member = false;
    set
}

fn owned(parts: &Parts<'_>, value: &Value, set: &mut Fields) {
    match (parts, value) {
        (Parts::Struct(structure), Value::Object(object)) => {
            for (name, value) in object {
                let Some(field) = structure.field(name) else { continue };
                let child = set.child(format!("f:{name}"));
                owned(&parts_of(field), value, child);
                let empty = value.as_object().is_some_and(Map::is_empty);
                child.member |= empty || value.is_null();
            }
        }
        (Parts::Map(element), Value::Object(object)) => {
            for (name, value) in object {
                let child = set.child(format!("f:{name}"));
                child.member = true;
                owned(&self::parts(element, None), value, child);
            }
        }
        (Parts::Keyed(element, keys), Value::Array(items)) => {
            for item in items {
                let child = set.child(key_step(item, *keys));
                child.member = true;
                owned(&self::parts(element, None), item, child);
            }
        }
        (Parts::Set, Value::Array(items)) => {
            for item in items {
                set.child(format!("v:{item}")).member = true;
            }
        }
        _ => set.member = true,
    }
}

/// What differs between two objects.
#[derive(Default)]
pub(crate) struct Difference {
    pub(crate) added: Fields,
    pub(crate) modified: Fields,
    pub(crate) removed: Fields,
}

impl Difference {
    pub(crate) fn between(structure: &Structure, old: &Value, new: &Value) -> Self {
        let mut difference = Self::default();
        let mut path = Vec::new();
        difference.compare(&Parts::Struct(structure), Some(old), Some(new), &mut path);
        difference
    }

    fn compare(
        &mut self,
        parts: &Parts<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
        path: &mut Vec<String>,
    ) {
        let (old, new) = (old.filter(|v| !v.is_null()), new.filter(|v| !v.is_null()));
        match (old, new) {
            (None, None) => return,
            (None, Some(_)) => insert(&mut self.added, path),
            (Some(_), None) => insert(&mut self.removed, path),
            (Some(_), Some(_)) => {}
        }
        match parts {
            Parts::Struct(structure) => {
                for name in names(old, new) {
                    let Some(field) = structure.field(name) else { continue };
                    let mut before = old.and_then(|old| old.get(name));
                    let after = new.and_then(|new| new.get(name));
                    let nothing = before.is_none_or(Value::is_null);
                    if old.is_some() && nothing {
                        // Kubernetes encodes these even where they are empty.
                        if field.always {
                            before = Some(match field.shape {
                                Shape::List(_) => &NO_ITEMS,
                                _ => &NO_FIELDS,
                            });
                        } else if after.is_some_and(|after| after == "") {
                            continue;
                        }
                    }
                    self.descend(format!("f:{name}"), &parts_of(field), before, after, path);
                }
            }
            // A value that is no map after all is one whole.
            Parts::Map(_) if [old, new].into_iter().flatten().any(|value| !value.is_object()) => {
                if old.is_some() && new.is_some() && old != new {
                    insert(&mut self.modified, path);
                }
            }
            Parts::Map(element) => {
                for name in names(old, new) {
                    let before = old.and_then(|old| old.get(name));
                    let after = new.and_then(|new| new.get(name));
                    let below = self::parts(element, None);
                    self.descend(format!("f:{name}"), &below, before, after, path);
                }
            }
            Parts::Keyed(element, keys) => {
                let (old, new) = (by_step(old, *keys), by_step(new, *keys));
                let steps: Vec<&String> =
                    new.keys().chain(old.keys().filter(|step| !new.contains_key(*step))).collect();
                for step in steps {
                    let (before, after) = (old.get(step).copied(), new.get(step).copied());
                    let below = self::parts(element, None);
                    self.descend(step.clone(), &below, before, after, path);
                }
            }
            Parts::Set => {
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
            Parts::Leaf => {
                if let (Some(old), Some(new)) = (old, new)
                    && old != new
                {
                    insert(&mut self.modified, path);
                }
            }
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

static NO_FIELDS: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
static NO_ITEMS: Value = Value::Array(Vec::new());

fn insert(set: &mut Fields, path: &[String]) {
    let mut set = set;
    for step in path {
        set = set.child(step.clone());
    }
    set.member = !path.is_empty();
}

fn names<'a>(old: Option<&'a Value>, new: Option<&'a Value>) -> Vec<&'a str> {
    let new_object = new.and_then(Value::as_object);
    let fresh = new_object.into_iter().flatten().map(|(name, _)| name.as_str());
    let gone = old
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .filter(|name| new_object.is_none_or(|new| !new.contains_key(*name)));
    fresh.chain(gone).collect()
}

fn by_step<'a>(list: Option<&'a Value>, keys: Keys<'_>) -> BTreeMap<String, &'a Value> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.map(|item| (key_step(item, keys), item)).collect()
}
