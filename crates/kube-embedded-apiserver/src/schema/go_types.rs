//! What the Go types of built-in structures say of their fields, from a table: k8s-openapi has only what is in
//! Kubernetes' OpenAPI documents, which know neither pointers nor named types.

use std::{collections::HashMap, sync::LazyLock};

use crate::schema::types::{GoField, Unset};

/// Lines of the table by the full name of a structure.
static TABLE: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| {
    let lines = include_str!("go_types.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).collect()
});

/// Returns what is known of a field of a structure, by its full name.
pub(crate) fn of(structure: &str, field: &str) -> GoField {
    let mut found = GoField::default();
    for entry in TABLE.get(structure).into_iter().flat_map(|line| line.split(' ')) {
        if let Some((embedded, fields)) = entry.strip_prefix('@').and_then(|e| e.split_once('=')) {
            if fields.split(',').any(|name| name == field) {
                found.embedded = Some(embedded);
            }
            continue;
        }
        let (name, scalar) = match entry.split_once(':') {
            Some((name, scalar)) => (name, Some(scalar)),
            None => (entry, None),
        };
        let (name, unset) = match name.split_at(name.len().saturating_sub(1)) {
            (name, "?") => (name, Some(Unset::Omitted)),
            (name, "!") => (name, Some(Unset::Zero)),
            (name, "~") => (name, Some(Unset::Null)),
            _ => (name, None),
        };
        if name == field {
            (found.unset, found.scalar) = (unset, scalar);
        }
    }
    found
}
