//! Checks an applied object against the schema of its type (`validatingObjectWalker` of
//! `structured-merge-diff/typed`), which knows less than Go's types: numbers, but not their sizes.

use crate::{
    patch::{
        field_set::show_step,
        parts::{Parts, element_step, parts},
    },
    resources::resource_type::ResourceType,
    schema::{
        conversion::{go_format, go_syntax},
        types::{Shape, Structure, Topology},
    },
};
use serde_json::{Map, Value};

/// Returns its errors, each with the path: `.spec.containers[name="c"].imagee: field not declared in schema`.
pub(crate) fn errors(resource: &ResourceType, applied: &Value) -> Vec<String> {
    let mut walk = Walk { path: String::new(), errors: Vec::new() };
    if let Some(object) = applied.as_object() {
        walk.fields(resource.structure(), object);
    }
    walk.errors
}

struct Walk {
    path: String,
    errors: Vec<String>,
}

impl Walk {
    fn report(&mut self, why: &str) {
        self.errors.push(format!("{}: {why}", self.path));
    }

    /// Checks what is below a step of the path.
    fn below(&mut self, step: &str, check: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.push_str(step);
        check(self);
        self.path.truncate(length);
    }

    fn fields(&mut self, structure: &Structure, object: &Map<String, Value>) {
        for (name, value) in object {
            self.below(&format!(".{name}"), |walk| match structure.field(name) {
                Some(field) => walk.value(&field.shape, Some(&field.topology), value),
                None => walk.report("field not declared in schema"),
            });
        }
    }

    fn value(&mut self, shape: &Shape, topology: Option<&Topology>, value: &Value) {
        match (shape, value) {
            (_, Value::Null) => {}
            (Shape::Any | Shape::Deduced | Shape::IntOrString, _) => {}
            (Shape::Boolean, Value::Bool(_)) => {}
            (Shape::Boolean, _) => {
                self.report(&format!("expected boolean, got &{{{}}}", go_format(value)));
            }
            (Shape::Int32 | Shape::Int64 | Shape::Float, Value::Number(_)) => {}
            (Shape::Int32 | Shape::Int64 | Shape::Float, _) => self
                .report(&format!("expected numeric (int or float), got {}", go_type_name(value))),
            (Shape::String | Shape::Bytes, Value::String(_)) => {}
            (Shape::String | Shape::Bytes, _) => self.report(&format!(
                "expected string, got &value.valueUnstructured{{Value:{}}}",
                go_syntax(value)
            )),
            (Shape::Time | Shape::MicroTime | Shape::Quantity, _) => {
                if value.is_object() || value.is_array() {
                    self.report(&format!("expected any scalar, got &{{{}}}", go_format(value)));
                }
            }
            (Shape::List(element), Value::Array(items)) => {
                self.elements(element, &parts(shape, topology), items);
            }
            (Shape::List(_), _) => {
                self.report(&format!("expected list, got &{{{}}}", go_format(value)));
            }
            (Shape::Map(element), Value::Object(entries)) => {
                for (name, entry) in entries {
                    self.below(&format!(".{name}"), |walk| walk.value(element, None, entry));
                }
            }
            (Shape::Struct(_) | Shape::Inline(_), Value::Object(object)) => {
                if let Some(structure) = shape.structure() {
                    self.fields(structure, object);
                }
            }
            (Shape::Map(_) | Shape::Struct(_) | Shape::Inline(_), _) => {
                self.report(&format!("expected map, got &{{{}}}", go_format(value)));
            }
        }
    }

    /// Checks the elements of a list up to the first that nothing identifies, as in Kubernetes.
    fn elements(&mut self, element: &Shape, list: &Parts<'_>, items: &[Value]) {
        let mut seen = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let step = match element_step(list, item) {
                Ok(None) => format!("[{at}]"),
                Ok(Some(step)) => {
                    let shown = show_step(&step);
                    if seen.contains(&step) {
                        self.report(&format!("duplicate entries for key {shown}"));
                    }
                    seen.push(step);
                    shown
                }
                Err(why) => return self.report(&format!("element {at}: {why}")),
            };
            self.below(&step, |walk| walk.value(element, None, item));
        }
    }
}

/// Go's type of a decoded value (`%T`).
fn go_type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
